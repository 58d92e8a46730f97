"""Speculative decoding: greedily the same tokens, sampled the same distribution, whoever guesses."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from meristem.core import registry
from meristem.core.errors import RequestError
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling, distribution
from meristem.generate.score import logprobs
from meristem.generate.speculative import look_up
from tests.generate.small import model, prompts

STOP = 33


def passes(module: torch.nn.Module) -> tuple[list[int], torch.utils.hooks.RemovableHandle]:
    """A list that grows with the width of each forward pass."""
    widths: list[int] = []
    return widths, module.register_forward_hook(lambda m, given, out: widths.append(out.shape[1]))


@pytest.mark.parametrize("draft", [None, "other", "self"])
@pytest.mark.parametrize("ahead", [1, 3, 6])
def test_greedy_is_plain_greedy_token_by_token(draft: str | None, ahead: int) -> None:
    rows, guide = prompts(7, seed=2), {"other": model(seed=5, layers=1), "self": model(), None: None}[draft]
    plain = generate(model(), rows, length=40, stop={STOP})
    widths, hook = passes(model())
    heard: list[tuple[int, int]] = []
    made = generate(model(), rows, Sampling(length=40, ahead=ahead), stop={STOP}, draft=guide,
                    on_token=lambda row, token: heard.append((row, token)))
    hook.remove()
    for row, (one, want) in enumerate(zip(made, plain, strict=True)):
        assert one.tokens == want.tokens and one.stopped == want.stopped
        assert [t for r, t in heard if r == row] == one.tokens
        np.testing.assert_allclose(one.logprobs, want.logprobs, rtol=0, atol=1e-5)
    assert {len(g.tokens) < 40 for g in made} == {True, False}                 # some stop early, some do not
    if draft == "self" and ahead > 1:                          # the draft's own passes read one or two tokens
        judged = [w for w in widths if w == ahead + 1]
        assert 40 / (ahead + 1) - 2 <= len(judged) <= 40 / (ahead + 1) + 1


def test_look_up_saves_passes_where_the_text_repeats() -> None:
    """A greedy text soon runs in circles; penalties and bans are honoured all the same."""
    widths, hook = passes(model())
    made = generate(model(), [np.array([3])], Sampling(length=80, ahead=5))[0]
    hook.remove()
    assert len(made.tokens) == 80 and len(widths) <= 66
    how = Sampling(length=30, repetition_penalty=1.3, frequency_penalty=0.3, no_repeat_ngram=3, logit_bias={4: 1.0})
    for guide in (None, model(seed=5, layers=1)):
        plain, fast = (generate(model(), prompts(4), h, draft=guide) for h in (how, replace(how, ahead=4)))
        assert [g.tokens for g in plain] == [g.tokens for g in fast]


@pytest.mark.parametrize("guide", ["look-up", "draft"])
def test_samples_have_the_models_distribution(guide: str) -> None:
    """Pairs of tokens of 2,000 rows against p(a) p(b | a) in closed form, all of which a guess came before."""
    how = Sampling(length=4, ahead=3, temperature=0.8, top_k=4)
    prompt = np.array([3, 9, 4, 3, 9, 4, 3, 9])
    draft = model(seed=0, layers=2, move=0.28) if guide == "draft" else None
    made = generate(model(), [prompt] * 2000, how, draft=draft)

    def share(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return distribution(model()(torch.tensor([ids]))[0, -1].float(), how).numpy()

    common = max(range(61), key=lambda t: sum(g.tokens[0] == t for g in made))
    got = [g.tokens[1:3] for g in made if g.tokens[0] == common]
    start = [*prompt.tolist(), common]
    want = {(a, b): p * q for a, p in enumerate(share(start)) if p for b, q in enumerate(share([*start, a])) if q}
    seen = [sum(tuple(g) == pair for g in got) for pair in want]
    assert sum(seen) == len(got) > 400 and len(want) == 16
    assert chisquare(seen, [len(got) * p for p in want.values()]).pvalue > 1e-4


def test_a_useful_draft_is_mostly_kept() -> None:
    """The model as its own draft: every guess has p = q and is kept."""
    widths, hook = passes(model())
    generate(model(), prompts(1), Sampling(length=41, ahead=4, temperature=1.0), draft=model())
    hook.remove()
    assert sum(w == 5 for w in widths) == 8


@pytest.mark.parametrize("draft", [False, True])
def test_a_sampled_row_does_not_depend_on_its_batch(draft: bool) -> None:
    rows, how = prompts(5, seed=1), Sampling(length=20, ahead=3, temperature=0.9, top_p=0.95, seed=5)
    guide = model(seed=5, layers=1) if draft else None
    together = generate(model(), rows, how, stop={7, 8}, draft=guide)
    assert len({tuple(g.tokens) for g in together}) == 5
    for i, row in enumerate(rows):
        among = [*[np.array([3])] * i, row]
        assert generate(model(), among, how, stop={7, 8}, draft=guide)[i].tokens == together[i].tokens


def test_the_context_can_be_filled_and_numbers_reported() -> None:
    how = Sampling(length=5, ahead=9, top_logprobs=2)
    prompt = np.arange(91) % 61
    made = generate(model(), [prompt, prompt[:3]], how, draft=model(seed=5, layers=1))
    assert [len(g.tokens) for g in made] == [5, 5] == [len(g.top) for g in made]
    assert all(top[0][1] == pytest.approx(p, abs=1e-6) for top, p in zip(made[0].top, made[0].logprobs, strict=True))
    want = logprobs(model(), [np.append(prompt, made[0].tokens)])[0][-5:]
    np.testing.assert_allclose(made[0].logprobs, want, atol=1e-5)


@pytest.mark.parametrize(("family", "fields"), [
    ("llama", {"window": 8}), ("gpt2", {}), ("llama4", {"groups": 2}), ("lstm", {"hidden": 48})])
def test_every_kind_of_cache_forgets_rejected_guesses(family: str, fields: dict) -> None:
    """Windows, learned positions, chunks and recurrent states; beams fork all of them, and batches change none."""
    entry, heads = registry.load("models", family), {} if family == "lstm" else {"heads": 4}
    torch.manual_seed(0)
    module = entry.Model(entry.Config(vocab=61, context=64, dim=32, layers=2, **heads, **fields)).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 61, n) for n in (36, 2, 20)]
    plain = [g.tokens for g in generate(module, rows, length=14)]
    assert [g.tokens for row in rows for g in generate(module, [row], length=14)] == plain
    for draft in (None, module):
        assert [g.tokens for g in generate(module, rows, Sampling(length=14, ahead=4), draft=draft)] == plain
    beams = Sampling(length=5, beams=2)
    assert [g.tokens for g in generate(module, rows, beams)] == [
        g.tokens for row in rows for g in generate(module, [row], beams)]


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(RequestError, match="vocabulary of 50 tokens, the model one of 61"):
        generate(model(), prompts(1), Sampling(ahead=2), draft=model(vocab=50))


@pytest.mark.parametrize(("text", "count", "want"), [
    ([1, 2, 3, 9, 1, 2, 3], 2, [9, 1]), ([1, 2, 3], 4, []), ([5, 1, 6, 1], 9, [6, 1]), ([4], 3, []),
    ([1, 7, 1, 8, 1], 1, [8]), ([2, 2, 2], 3, [2]), ([1, 2, 3, 9, 7, 2, 3, 8, 1, 2, 3], 1, [9])])
def test_look_up_takes_the_longest_and_latest_match(text: list[int], count: int, want: list[int]) -> None:
    assert look_up(text, count) == want
