"""What the ways of decoding share: prompts of very different length do not pay for the longest."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meristem.generate.autoregressive import generate
from meristem.generate.base import NEAR, PASS_TOKENS, SLACK, groups, padded, prefill, steered
from meristem.generate.sampling import Penalties, Sampling
from meristem.models.llama import Model
from meristem.nn.attention import Cache
from tests.generate.small import model


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=80))
def test_groups_hold_every_row_once_with_little_padding(lengths: list[int]) -> None:
    found = groups(lengths)
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    for rows in found:
        longest = max(lengths[row] for row in rows)
        assert all(lengths[row] >= min(NEAR * longest, longest - SLACK) for row in rows)
        assert len(rows) == 1 or len(rows) * longest <= PASS_TOKENS
    assert len(groups([7] * 9)) == 1 and groups([30, 1, 20]) == [[0, 1, 2]]


@torch.no_grad()
def test_a_short_prompt_does_not_pay_for_a_long_one() -> None:
    """Of 16 x 90 places one padded pass would read, about 100 are read; the rows decode as they do alone."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 61, 90 if i == 5 else 2) for i in range(16)]
    read: list[int] = []
    hook = model().norm.register_forward_hook(lambda module, given, out: read.append(out.shape[0] * out.shape[1]))
    cache, logits = prefill(model(), rows, 4)
    hook.remove()
    assert sorted(read) == [30, 90]
    for i, row in enumerate(rows):
        alone, want = prefill(model(), [row], 4)
        torch.testing.assert_close(logits[i:i + 1], want, rtol=0, atol=1e-5)
        torch.testing.assert_close(cache[1].k[i, :, :len(row)], alone[1].k[0, :, :len(row)], rtol=0, atol=1e-5)
    for i, made in enumerate(generate(model(), rows, length=6)):
        assert made.tokens == generate(model(), [rows[i]], length=6)[0].tokens


class Apart(Cache):
    """A cache entry whose rows cannot be filled apart."""

    join = None                                                # which a protocol takes for "has no such method"


def test_a_cache_that_cannot_be_joined_is_filled_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [np.arange(60), np.array([3])]
    want = generate(model(), rows, length=5)
    monkeypatch.setattr(Model, "caches", lambda self, batch, length: [Apart(batch, 2, length, 8) for _ in self.blocks])
    read: list[int] = []
    hook = model().norm.register_forward_hook(lambda module, given, out: read.append(out.shape[0] * out.shape[1]))
    assert [g.tokens for g in generate(model(), rows, length=5)] == [g.tokens for g in want]
    hook.remove()
    assert read[0] == 120


def test_the_head_reads_one_place_of_a_prompt() -> None:
    sizes: list[int] = []
    hook = model().head.register_forward_hook(lambda module, given, out: sizes.append(out.numel()))
    generate(model(), [np.arange(60), np.arange(50)], length=2)
    hook.remove()
    assert sizes == [2 * 61, 2 * 61]


def test_padding_is_zero_and_known() -> None:
    tokens, real = padded([np.array([4, 5]), np.array([6], dtype=np.int32)])
    assert tokens.tolist() == [[4, 5], [6, 0]] and real.tolist() == [[True, True], [True, False]]


def test_rows_are_steered_apart_and_dead_ends_are_known() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]] * 3)
    banned = Sampling(logit_bias=dict.fromkeys(range(3), float("-inf")))
    controls = [[], [Penalties(Sampling(logit_bias={0: 5.0}), [1], 3)], [Penalties(banned, [1], 3)]]
    out, dead = steered(logits, controls)
    assert out.tolist() == [[1, 2, 3], [6, 2, 3], [1, 2, 3]] and dead == [False, False, True]
    assert steered(logits, [[], [], []])[0] is logits
