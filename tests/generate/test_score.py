"""Scoring: the same numbers alone and in a batch, and the ones that training minimises."""
import numpy as np
import pytest
import torch

from meristem.generate.score import logprobs
from meristem.models.llama import Config, Model
from meristem.objectives.next_token import NextToken


@pytest.fixture(scope="module")
def model() -> Model:
    """Small, with every weight moved; in training mode, which scoring leaves as it was."""
    torch.manual_seed(0)
    made, generator = Model(Config(vocab=61, context=64, dim=32, layers=2, heads=4)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return made.train()


def rows() -> list[np.ndarray]:
    """Ragged rows, two of them without anything to predict."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 61, n) for n in (40, 3, 1, 17, 64, 2, 40, 0, 9)]


@pytest.mark.parametrize("batch_tokens", [1, 60, 128, 10_000])
def test_a_row_scores_the_same_in_any_batch(model: Model, batch_tokens: int) -> None:
    for row, found in zip(rows(), logprobs(model, rows(), batch_tokens), strict=True):
        alone = logprobs(model, [row])[0]
        assert found.dtype == np.float32 and found.shape == alone.shape == (max(len(row) - 1, 0),)
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)
    assert model.training


def test_it_is_the_loss_of_training(model: Model) -> None:
    row = rows()[4]
    tokens = torch.from_numpy(row)[None]
    loss, _ = NextToken(model)({"tokens": tokens, "weight": torch.ones(1, 63)})
    assert float(loss.detach()) == pytest.approx(-float(logprobs(model, [row])[0].sum()), rel=1e-6)
    assert float(loss.detach()) > 63                           # more than a nat a token: a random model


def test_probabilities_of_all_next_tokens_sum_to_one(model: Model) -> None:
    start = rows()[3]
    last = logprobs(model, [np.append(start, token) for token in range(61)])
    assert sum(np.exp(float(p[-1])) for p in last) == pytest.approx(1, abs=1e-5)


def test_the_head_sees_slices_without_padding_and_the_numbers_are_equal(
        model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sizes = logprobs(model, rows()), list[int]()
    hook = model.head.register_forward_hook(lambda module, given, out: sizes.append(out.numel()))
    monkeypatch.setattr("meristem.generate.score.LOGITS", 7 * 61 + 5)
    sliced = logprobs(model, rows())
    hook.remove()
    assert max(sizes) == 7 * 61 and sum(sizes) == 61 * sum(max(len(row) - 1, 0) for row in rows())
    for a, b in zip(whole, sliced, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_one_place_is_scored_even_when_the_vocabulary_exceeds_a_slice(
        model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meristem.generate.score.LOGITS", 10)
    assert len(logprobs(model, rows())[0]) == 39
