"""Answers after prompts: shared prompts read once give the numbers of whole rows, in any batch, in the order asked."""
import numpy as np
import pytest
import torch

from meristem.generate import answers as module_under_test
from meristem.generate.answers import Pair, answers
from meristem.generate.score import logprobs
from tests.generate.small import VOCAB, model


def questions(seed: int = 0) -> list[Pair]:
    """Shuffled pairs: prompts with one, two or five answers of 1 to 9 tokens; some prompts begin alike."""
    rng = np.random.default_rng(seed)
    stem = rng.integers(0, VOCAB, 20)
    prompts = [np.concatenate([stem[:n], rng.integers(0, VOCAB, m)]) for n, m in
               ((0, 1), (0, 30), (20, 5), (20, 6), (0, 7), (0, 28), (20, 40))]
    counts = (1, 2, 5, 5, 5, 1, 3)
    pairs = [(p, rng.integers(0, VOCAB, rng.integers(1, 10))) for p, n in zip(prompts, counts, strict=True)
             for _ in range(n)]
    return [pairs[i] for i in rng.permutation(len(pairs))]


@pytest.mark.parametrize("batch_tokens", [1, 150, 16_384])
@pytest.mark.parametrize("worth", [0, 24, 10**9])
def test_the_numbers_are_those_of_whole_rows(batch_tokens: int, worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "WORTH", worth)
    for (prompt, answer), found in zip(questions(), answers(model(), questions(), batch_tokens), strict=True):
        row = np.concatenate([prompt, answer])
        np.testing.assert_allclose(found.logprobs, logprobs(model(), [row])[0][len(prompt) - 1:], atol=2e-5)
        with torch.no_grad():
            best = model()(torch.from_numpy(row)[None])[0, len(prompt) - 1:-1].argmax(-1).numpy()
        assert (found.likeliest == (best == answer)).all()


def test_a_shared_prompt_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    network = model()
    features = network.features
    monkeypatch.setattr(network, "features", lambda tokens, **words: seen.append(tokens.numel()) or
                        features(tokens, **words))
    prompt, rng = np.arange(50) % VOCAB, np.random.default_rng(0)
    options = [(prompt, rng.integers(0, VOCAB, 4)) for _ in range(5)]
    answers(network, options)
    assert seen == [50, 5 * 3]
    seen.clear()
    answers(network, [(prompt, ids[:1]) for _, ids in options])            # single letters: one pass for all
    assert seen == [50]
    seen.clear()
    answers(network, [(prompt[:2], ids) for _, ids in options])            # too short to be worth a second pass
    assert seen == [5 * 5]


def test_the_model_keeps_its_mode_and_nothing_is_nothing() -> None:
    assert answers(model(), []) == []
    network = model().train()
    answers(network, questions()[:2])
    assert network.training
    network.eval()
