"""Each step of choosing a token, against transformers' processors and against frequencies."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs

from meristem.core.errors import RequestError
from meristem.generate.sampling import (
    Penalties,
    Sampling,
    add_bias,
    ban_repeats,
    distribution,
    penalise_counts,
    penalise_repetition,
    pick,
)

VOCAB = 23


def numbers(rows: int = 1, seed: int = 0) -> torch.Tensor:
    """Random logits [rows, VOCAB]."""
    return 3 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def kept(logits: np.ndarray, how: Sampling) -> dict[int, float]:
    """The truncated distribution, token by token as the papers say it."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])[:how.top_k or None]
    p = np.exp((logits[order] - logits.max()) / how.temperature)
    p /= p.sum()
    total, chosen = 0.0, {}
    for token, share in zip(order, p, strict=True):
        if total >= how.top_p or share < how.min_p * p[0]:
            break
        chosen[token], total = share, total + share
    return {token: share / sum(chosen.values()) for token, share in chosen.items()}


@pytest.mark.parametrize("how", [
    Sampling(), Sampling(top_k=5), Sampling(top_p=0.7), Sampling(top_k=9, top_p=0.8), Sampling(top_k=1, top_p=0.5),
    Sampling(top_p=1e-9), Sampling(top_k=99), Sampling(min_p=0.1), Sampling(min_p=1.0), Sampling(top_p=0.9, min_p=0.2),
    Sampling(top_k=7, min_p=0.05)], ids=str)
def test_frequencies_are_the_truncated_softmax(how: Sampling) -> None:
    """60,000 draws; p > 1e-4 by chi-square; `distribution` is the same thing in closed form."""
    how = replace(how, temperature=0.7)
    rng = np.random.default_rng(0)
    logits, count = rng.normal(size=VOCAB).astype(np.float32), 60_000
    drawn = pick(torch.from_numpy(logits).expand(count, -1), rng.random(count), how)
    seen = np.bincount(drawn.numpy(), minlength=VOCAB)
    want = kept(logits.astype(float), how)
    assert set(np.flatnonzero(seen)) <= set(want) and (len(want) == 1 or len(set(np.flatnonzero(seen))) > 1)
    if len(want) > 1:
        assert chisquare([seen[i] for i in want], [count * p for p in want.values()]).pvalue > 1e-4
    exact = distribution(torch.from_numpy(logits), how).numpy()
    np.testing.assert_allclose(exact, [want.get(i, 0.0) for i in range(VOCAB)], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("how", "processors"), [
    (Sampling(temperature=0.7), [theirs.TemperatureLogitsWarper(0.7)]),
    (Sampling(temperature=1.0, top_k=6), [theirs.TopKLogitsWarper(6)]),
    (Sampling(temperature=1.0, top_p=0.8), [theirs.TopPLogitsWarper(0.8)]),
    (Sampling(temperature=1.0, min_p=0.07), [theirs.MinPLogitsWarper(0.07)]),
    (Sampling(temperature=1.4, top_k=12, top_p=0.9, min_p=0.03),
     [theirs.TemperatureLogitsWarper(1.4), theirs.TopKLogitsWarper(12), theirs.TopPLogitsWarper(0.9),
      theirs.MinPLogitsWarper(0.03)])], ids=lambda x: str(x)[:60])
def test_the_distribution_is_that_of_transformers(how: Sampling, processors: list) -> None:
    logits = numbers(40)
    want = LogitsProcessorList(processors)(torch.zeros(40, 1, dtype=torch.long), logits.clone()).double().softmax(-1)
    got = distribution(logits, how)
    assert ((got > 0) == (want > 0)).all()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_penalties_are_those_of_transformers() -> None:
    rng, logits = np.random.default_rng(0), numbers(8)
    ids = torch.from_numpy(rng.integers(0, 6, (8, 20)))
    seen = torch.zeros(8, VOCAB, dtype=torch.bool).scatter(1, ids, True)
    want = theirs.RepetitionPenaltyLogitsProcessor(1.7)(ids, logits.clone())
    torch.testing.assert_close(penalise_repetition(logits, seen, 1.7), want)
    for size in (1, 2, 3, 21, 30):
        want = theirs.NoRepeatNGramLogitsProcessor(size)(ids, logits.clone())
        got = torch.stack([ban_repeats(row, i.tolist(), size) for row, i in zip(logits, ids, strict=True)])
        assert torch.equal(got, want) and (size > 3 or bool(want.isinf().any()))
    want = theirs.SequenceBiasLogitsProcessor([[[3], 2.5], [[7], -9.0]])(ids, logits.clone())
    torch.testing.assert_close(add_bias(logits, {3: 2.5, 7: -9.0}), want)


def test_counts_are_penalised_by_hand() -> None:
    counts = torch.tensor([[0, 1, 3]])
    got = penalise_counts(torch.tensor([[1.0, 1.0, 1.0]]), counts, 0.5, 0.25)
    assert got.tolist() == [[1.0, 0.25, -0.75]]


def test_a_history_follows_its_row_and_forks() -> None:
    """Frequency and presence count what was written, repetition what was read as well."""
    how = Sampling(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=1.0, logit_bias={9: 4.0})
    logits, row = torch.full((VOCAB,), 8.0), Penalties(how, [1, 2], VOCAB)
    other = row.copy()
    for token in (2, 3, 3):
        row.push(token)
    want = {1: 4.0, 2: 4.0 - 1.5, 3: 4.0 - 2.0, 9: 12.0}
    assert row.apply(logits).tolist() == [want.get(i, 8.0) for i in range(VOCAB)]
    assert other.apply(logits).tolist() == [{1: 4.0, 2: 4.0, 9: 12.0}.get(i, 8.0) for i in range(VOCAB)]
    with pytest.raises(RequestError, match="outside the model's vocabulary of 23"):
        Penalties(Sampling(logit_bias={23: 1.0}), [1], VOCAB)


def test_the_edges_of_the_interval_stay_on_likely_tokens() -> None:
    """A token of probability 0 is never drawn, whatever the number; a tiny temperature is greedy."""
    for low in (-1e30, float("-inf")):
        logits = torch.tensor([[low, 2.0, low, 2.5, low]])
        for how in (Sampling(), Sampling(top_k=3), Sampling(top_p=0.99), Sampling(min_p=0.01)):
            ends = [int(pick(logits, np.array([at]), replace(how, temperature=1.0))) for at in (0.0, 1 - 2.0**-53)]
            assert set(ends) == {1, 3}
        for temperature in (0.0, 1e-300):
            assert int(pick(logits, np.array([0.999]), Sampling(temperature=temperature, top_p=0.9))) == 3
    many = torch.randn(5000, 6, generator=torch.Generator().manual_seed(0)) * 5
    many[:, 5] = -1e30                                         # the last number must not round onto the last edge
    for top_p in (1.0, 0.9):
        how = Sampling(temperature=1.0, top_p=top_p)
        assert int(pick(many, np.full(5000, 1 - 2.0**-53), how).max()) < 5


@pytest.mark.parametrize(("fields", "line"), [
    ({"length": 0, "top_k": -1}, "length 0 must be >= 1; top_k -1 must be >= 0"),
    ({"min_p": 1.5}, r"min_p 1.5 must be in"),
    ({"repetition_penalty": 5e-324}, "repetition_penalty 5e-324 must be from 0.01"),
    ({"beams": 0}, "beams 0 must be >= 1"),
    ({"frequency_penalty": float("nan")}, "frequency_penalty nan"), ({"presence_penalty": float("inf")}, "presence"),
    ({"no_repeat_ngram": -2}, "no_repeat_ngram -2"), ({"logit_bias": {1: float("nan")}}, "logit_bias must be"),
    ({"logit_bias": {1: 1e308}}, "logit_bias must be"), ({"stop": ("a", "")}, "empty text"),
    ({"beams": 2, "temperature": 1.0}, "set temperature 0"), ({"beams": 2, "ahead": 3}, "exclude each other"),
    ({"regex": "a", "schema": {}}, "schema and lark exclude"), ({"ahead": -1}, "ahead -1"),
    ({"length_penalty": float("nan")}, "length_penalty nan"), ({"top_logprobs": -1}, "top_logprobs -1"),
])
def test_settings_outside_their_range_are_all_named(fields: dict, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        Sampling(**fields)


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 30.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95, 0.9999])
def test_sorting_the_candidates_alone_gives_the_nucleus_of_all(spread, top_p):
    torch.manual_seed(0)
    logits = (spread * torch.randn(5, 300)).round(decimals=1)  # with ties
    logits[1, 7:] = float("-inf")
    got = distribution(logits, Sampling(temperature=0.7, top_p=top_p))
    order = logits.sort(descending=True, stable=True)
    p = (order.values.double() / 0.7).softmax(-1)
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)
    want = torch.zeros_like(p).scatter(-1, order.indices, p / p.sum(-1, keepdim=True))
    assert torch.equal(got > 0, want > 0)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
