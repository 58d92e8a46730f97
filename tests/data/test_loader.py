"""Batches: every window once an epoch, a pure function of (seed, step), the same rows for every number of ranks."""
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core.errors import RequestError
from meristem.data import loader
from meristem.data.shards import Split


def split_of(n: int) -> Split:
    """A split whose token i is i: a window says where it starts."""
    return Split("train", np.arange(n, dtype=np.uint32), np.zeros(1, np.int64), ["x"], n, 0)


def starts(batches) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch["tokens"]]


@settings(deadline=None)
@given(st.integers(2, 100), st.integers(1, 12), st.integers(1, 7), st.integers(0, 5), st.integers(0, 4))
def test_every_window_appears_once_an_epoch(n, context, batch, seed, micro):
    if n <= context:
        return
    source = loader.Packed(split_of(n), context, batch, seed, micro=micro)
    epochs = 3
    steps = -(-epochs * source.windows // batch)
    seen = [s for step in range(steps) for s in starts(source(step))][: epochs * source.windows]
    for epoch in range(epochs):
        here = seen[epoch * source.windows: (epoch + 1) * source.windows]
        assert sorted(here) == [w * context for w in range((n - 1) // context)]


@settings(deadline=None)
@given(st.integers(20, 200), st.integers(1, 9), st.integers(1, 9), st.integers(0, 50))
def test_ranks_share_the_rows_of_one_process_without_overlap(n, batch, world, step):
    if batch < world:
        return
    alone = starts(loader.Packed(split_of(n), 4, batch, 0)(step))
    ranks = [starts(loader.Packed(split_of(n), 4, batch, 0, rank=r, world=world)(step)) for r in range(world)]
    assert Counter(sum(ranks, [])) == Counter(alone)
    assert [ranks[i % world][i // world] for i in range(batch)] == alone


def test_a_step_depends_on_nothing_but_seed_and_step():
    make = lambda seed: loader.Packed(split_of(5000), 16, 8, seed)      # noqa: E731
    a, b = make(3), make(3)
    for step in (0, 40, 7, 10**6):
        b(step + 1)
        assert torch.equal(a(step)[0]["tokens"], b(step)[0]["tokens"])
    assert starts(a(0)) != starts(make(4)(0)) and starts(a(0)) != starts(a(312 // 8))


def test_shapes_types_and_micro_batches():
    batches = loader.Packed(split_of(1000), 16, 10, 0, micro=4)(0)
    assert [tuple(b["tokens"].shape) for b in batches] == [(4, 17), (4, 17), (2, 17)]
    assert [tuple(b["weight"].shape) for b in batches] == [(4, 16), (4, 16), (2, 16)]
    assert batches[0]["tokens"].dtype == torch.int64 and batches[0]["weight"].dtype == torch.float32
    assert all(b["weight"].eq(1).all() for b in batches)
    whole = loader.Packed(split_of(1000), 16, 10, 0)(0)
    assert torch.equal(torch.cat([b["tokens"] for b in batches]), whole[0]["tokens"])


@settings(deadline=None)
@given(st.integers(2, 200), st.integers(1, 12), st.integers(1, 5))
def test_a_sweep_has_every_token_but_the_first_as_a_target_once(n, context, batch):
    targets = []
    for found in loader.sweep(split_of(n), context, batch):
        assert found["tokens"].shape == (batch, context + 1)
        counts = found["weight"] > 0
        assert torch.equal(found["tokens"][:, 1:][counts] - 1, found["tokens"][:, :-1][counts])
        targets += found["tokens"][:, 1:][counts].tolist()
    assert targets == list(range(1, n))


def test_a_limited_sweep_is_spread_over_the_split():
    found = torch.cat([b["tokens"][:, 1:][b["weight"] > 0] for b in loader.sweep(split_of(10_001), 10, 4, limit=500)])
    assert len(found) == 500 == len(found.unique()) and found.min() == 1 and found.max() == 10_000
    assert sum(b["weight"].sum() for b in loader.sweep(split_of(101), 10, 4, limit=1000)) == 100


def test_documents_run_on_with_the_end_between_them(made, codec):
    split = made.split("train")
    source = loader.Packed(split, 64, 4, 0)
    tokens = source.rows(np.arange(source.windows))
    assert np.array_equal(np.append(tokens[:, :-1].ravel(), tokens[-1, -1]), split.tokens[: source.windows * 64 + 1])
    assert (split.tokens == codec.end).sum() == len(split.ids)


def test_a_split_that_is_too_short_says_what_would_fit():
    with pytest.raises(RequestError, match="16 tokens: too few for a context of 16; set train.context to at most 15"):
        loader.Packed(split_of(16), 16, 1, 0)
    assert loader.Packed(split_of(16), 15, 1, 0).windows == 1
    with pytest.raises(RequestError, match="2 rows cannot be shared by 3 ranks"):
        loader.Packed(split_of(100), 16, 2, 0, rank=0, world=3)
