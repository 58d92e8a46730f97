"""Decoding: a row's text depends on its prompt, the seed and its place only, and equals decoding without a cache."""
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from meristem.core.errors import MachineError, RequestError
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling, pick
from meristem.generate.score import logprobs
from meristem.models.llama import Config, Model
from meristem.nn.linear import compute_in

SAMPLED = {"temperature": 0.9, "top_k": 30, "top_p": 0.95}


@cache
def model() -> Model:
    """A small random model; every weight is moved, because fresh blocks are the identity."""
    torch.manual_seed(0)
    made, generator = Model(Config(vocab=61, context=64, dim=32, layers=2, heads=4, groups=2)).eval(), torch.Generator()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator.manual_seed(p.numel())))
    return made


def prompts(count: int, seed: int = 0) -> list[np.ndarray]:
    """Ragged rows of 1 to 30 ids."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 61, rng.integers(1, 31)) for _ in range(count)]


@torch.no_grad()
def without_cache(prompt: np.ndarray, length: int) -> list[int]:
    """Greedy decoding by the whole forward pass at every token."""
    ids = prompt.tolist()
    for _ in range(length):
        ids.append(int(model()(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt):]


def test_greedy_equals_decoding_without_a_cache() -> None:
    rows = prompts(6)
    made = generate(model(), rows, length=20)
    assert [g.tokens for g in made] == [without_cache(p, 20) for p in rows]
    assert len({tuple(g.tokens) for g in made}) == 6 and len({t for g in made for t in g.tokens}) > 9


@pytest.mark.parametrize("how", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_row_does_not_depend_on_its_batch(how: dict) -> None:
    """Each row alone in its place among one-token prompts, and again among others that stop early."""
    rows = prompts(6, seed=1)
    together = generate(model(), rows, length=24, seed=5, stop={7, 8}, **how)
    assert len({tuple(g.tokens) for g in together}) == 6
    for i, row in enumerate(rows):
        among = [*[np.array([3])] * i, row]
        assert generate(model(), among, length=24, seed=5, stop={7, 8}, **how)[i].tokens == together[i].tokens


def test_another_seed_or_place_is_another_text() -> None:
    row = prompts(1)[0]
    first, second = generate(model(), [row, row], length=20, seed=0, temperature=1.0)
    other = generate(model(), [row], length=20, seed=1, temperature=1.0)[0]
    assert first.tokens != second.tokens and first.tokens != other.tokens


def test_stop_tokens_end_a_row_and_are_left_out() -> None:
    rows = prompts(6)
    free = [g.tokens for g in generate(model(), rows, length=20)]
    stop = {free[0][4], free[3][9]}
    for tokens, made in zip(free, generate(model(), rows, length=20, stop=stop), strict=True):
        cut = next((i for i, token in enumerate(tokens) if token in stop), 20)
        assert made.tokens == tokens[:cut] and made.stopped == (cut < 20) and len(made.logprobs) == cut
    first = free[0][0]
    assert generate(model(), rows[:1], length=5, stop={first})[0].tokens == []


def test_logprobs_are_those_of_scoring_and_ignore_the_temperature() -> None:
    rows = prompts(5)
    for prompt, made in zip(rows, generate(model(), rows, length=20, temperature=0.5, top_k=9), strict=True):
        want = logprobs(model(), [np.concatenate([prompt, made.tokens])])[0][-20:]
        np.testing.assert_allclose(made.logprobs, want, rtol=0, atol=1e-5)


def test_on_token_sees_every_token_in_order() -> None:
    seen: list[tuple[int, int]] = []
    made = generate(model(), prompts(3), length=9, stop={7}, on_token=lambda row, token: seen.append((row, token)))
    assert [[t for r, t in seen if r == row] for row in range(3)] == [g.tokens for g in made]
    assert [r for r, _ in seen[:3]] == [0, 1, 2]


def kept(logits: np.ndarray, top_k: int, top_p: float) -> dict[int, float]:
    """The truncated distribution, token by token as the papers say it."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])[:top_k or None]
    p = np.exp(logits[order] - logits.max())
    p /= p.sum()
    total, chosen = 0.0, {}
    for token, share in zip(order, p, strict=True):
        if total >= top_p:
            break
        chosen[token], total = share, total + share
    return {token: share / total for token, share in chosen.items()}


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (9, 0.8), (1, 0.5), (0, 1e-9), (99, 1.0)])
def test_frequencies_are_the_truncated_softmax(top_k: int, top_p: float) -> None:
    """60,000 draws; p > 1e-4 by chi-square."""
    rng = np.random.default_rng(0)
    logits, count, temperature = rng.normal(size=23).astype(np.float32), 60_000, 0.7
    at = rng.random(count)
    drawn = pick(torch.from_numpy(logits).expand(count, -1), at,
                 Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    seen = np.bincount(drawn.numpy(), minlength=23)
    want = kept(logits.astype(float) / temperature, top_k, top_p)
    assert set(np.flatnonzero(seen)) <= set(want) and (len(want) == 1 or len(set(np.flatnonzero(seen))) > 1)
    if len(want) > 1:
        assert chisquare([seen[i] for i in want], [count * p for p in want.values()]).pvalue > 1e-4


def test_the_edges_of_the_interval_stay_on_likely_tokens() -> None:
    """A token of probability 0 is never drawn, whatever the number; a tiny temperature is greedy."""
    logits = torch.tensor([[-1e30, 2.0, -1e30, 2.5, -1e30]])
    for top_k, top_p in ((0, 1.0), (3, 1.0), (0, 0.99)):
        ends = [int(pick(logits, np.array([at]), Sampling(temperature=1.0, top_k=top_k, top_p=top_p))) for at in (0.0, 1 - 2.0**-53)]
        assert set(ends) == {1, 3}
    many = torch.randn(5000, 6, generator=torch.Generator().manual_seed(0)) * 5
    many[:, 5] = -1e30                                         # the last number must not round onto the last edge
    for top_p in (1.0, 0.9):
        assert int(pick(many, np.full(5000, 1 - 2.0**-53), Sampling(temperature=1.0, top_p=top_p)).max()) < 5
    for temperature in (0.0, 1e-300):
        assert int(pick(logits, np.array([0.999]), Sampling(temperature=temperature, top_p=0.9))) == 3


@pytest.mark.parametrize(("change", "line"), [
    ({"length": 0}, "length 0 must be >= 1"), ({"temperature": -0.1}, "temperature -0.1"),
    ({"temperature": float("nan")}, "temperature nan"), ({"temperature": float("inf")}, "temperature inf"),
    ({"top_k": -1}, "top_k -1"), ({"top_p": 0.0}, "top_p 0.0"), ({"top_p": 1.1}, "top_p 1.1"),
    ({"top_p": float("nan")}, "top_p nan"),
    ({"prompts": []}, "nothing to go on from"), ({"prompts": [np.array([], dtype=np.int64)]}, "nothing to go on from"),
    ({"prompts": [np.arange(60)]}, "60 tokens and 5 new ones exceed the model's context of 64"),
    ({"prompts": [np.array([61])]}, "outside the model's vocabulary of 61"),
    ({"prompts": [np.array([-1])]}, "outside the model's vocabulary of 61"),
])
def test_bad_numbers_are_one_line(change: dict, line: str) -> None:
    asked = {"prompts": prompts(1), "length": 5, **change}
    with pytest.raises(RequestError, match=line):
        generate(model(), **asked)


def test_a_context_can_be_filled_to_the_last_token() -> None:
    assert len(generate(model(), [np.arange(59)], length=5)[0].tokens) == 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_weights_are_named_not_sampled(temperature: float) -> None:
    broken = Model(Config(vocab=61, context=64, dim=32, layers=1, heads=4)).train()
    with torch.no_grad():
        broken.norm.weight[3] = float("nan")
    with pytest.raises(MachineError, match="not finite"):
        generate(broken, prompts(2), length=3, temperature=temperature)
    assert broken.training                                     # and the mode is put back


def test_bfloat16_decodes_through_a_bfloat16_cache() -> None:
    narrow = compute_in(Model(model().config), torch.bfloat16)
    narrow.load_state_dict(model().state_dict())
    assert narrow.caches(1, 4)[0].k.dtype == torch.bfloat16
    rows = prompts(8)
    made, want = (generate(module, rows, length=1) for module in (narrow, model()))
    assert sum(m.tokens == w.tokens for m, w in zip(made, want, strict=True)) >= 6
