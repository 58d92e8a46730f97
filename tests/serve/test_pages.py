"""Pages and the queue under any sequence of what can happen to them."""
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.nn.paged import PAGE
from meristem.serve.fair import Fair, Full
from meristem.serve.pages import Pages, digest


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 70)), max_size=40), st.integers(3, 12))
def test_no_page_is_lost_or_somebody_elses(steps: list[tuple[int, int, int]], count: int) -> None:
    """Texts that begin alike come and go; every page is free, known or owned, and equal names hold equal tokens."""
    pages, running = Pages(count), deque[tuple[list[int], list[int]]]()
    held: dict[int, tuple[int, ...]] = {}                      # what was written into each page
    for kind, family, length in steps:
        if kind == 0 and running:
            pages.release(running.popleft()[1])
            continue
        tokens = [family] * (length // 2) + list(range(length - length // 2))
        own, names = pages.match(tokens, bytes([family]))
        for page, start in zip(own, range(0, length, PAGE), strict=False):
            assert held[page] == (family, *tokens[:start + PAGE])      # a page that was found holds what it should
        while len(own) * PAGE < length and (page := pages.take()) is not None:
            own.append(page)
        for n in range(len(names), min(len(own), length // PAGE)):
            names.append(digest(names[-1] if names else digest(bytes([family]), ()), tokens[n * PAGE:(n + 1) * PAGE]))
            held[own[n]] = (family, *tokens[:(n + 1) * PAGE])
            pages.name(own[n], names[n])
        running.append((tokens, own))
        assert all(page > 0 for page in own) and len(set(own)) == len(own)
        assert pages.available + len({page for _, some in running for page in some}) == count - 1
    while running:
        pages.release(running.popleft()[1])
    assert pages.used == 0 and pages.available == count - 1 and not any(pages.users)
    assert {pages.take() for _ in range(count - 1)} == set(range(1, count)) and pages.take() is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), min_size=1, max_size=40))
def test_nobody_waits_while_others_get_more(asked: list[tuple[str, int]]) -> None:
    """Of clients that all wait, the one that is next has had the least; each client's own order is kept."""
    queue = Fair[tuple[str, int, int]](len(asked))
    for number, (client, cost) in enumerate(asked):
        queue.put(client, (client, number, cost))
    with pytest.raises(Full):
        queue.put("d", ("d", 0, 1))
    spent, order = dict.fromkeys("abc", 0), []
    while queue:
        least = min(spent[c] for c in queue.queues)
        client, number, cost = queue.pop()
        assert spent[client] == least
        queue.charge(client, read=cost)
        spent[client] += cost
        order.append((client, number))
    assert sorted(number for _, number in order) == list(range(len(asked)))
    for client in "abc":
        own = [number for c, number in order if c == client]
        assert own == sorted(own)


def test_who_comes_back_has_saved_nothing_up() -> None:
    """A client that was away begins where the one who waits stands, not at nothing."""
    queue = Fair[int](9)
    queue.put("busy", 1)
    queue.charge("busy", written=500)
    queue.put("new", 2)
    queue.charge("new", read=10)
    queue.put("busy", 3)
    assert queue.counters == {"busy": 1000, "new": 1010}
    assert [queue.pop() for _ in range(3)] == [1, 3, 2]
