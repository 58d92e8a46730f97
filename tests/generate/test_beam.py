"""Beam search gives the tokens and scores of transformers' on one small model."""
import numpy as np
import pytest
import torch
import transformers

from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling
from meristem.generate.score import logprobs
from meristem.hub import hf
from tests.generate.small import model, prompts

STOP = 39


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> transformers.LlamaForCausalLM:
    """The same weights in transformers."""
    folder = tmp_path_factory.mktemp("beam") / "model"
    hf.save(folder, "llama", model().config, model())
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize(("beams", "penalty", "stop", "extra"), [
    (2, 1.0, [STOP], {}), (4, 1.0, [STOP], {}), (4, 2.0, [STOP], {}), (4, 0.0, [STOP], {}), (3, -0.7, [STOP], {}),
    (5, 1.0, [STOP, 9, 20], {}), (3, 1.0, [], {}),
    (4, 1.0, [STOP], {"no_repeat_ngram_size": 2, "repetition_penalty": 1.4}),
], ids=str)
def test_tokens_and_scores_are_those_of_transformers(theirs, beams: int, penalty: float, stop: list,
                                                     extra: dict) -> None:
    how = Sampling(length=14, beams=beams, length_penalty=penalty, no_repeat_ngram=extra.get("no_repeat_ngram_size", 0),
                   repetition_penalty=extra.get("repetition_penalty", 1.0))
    rows = prompts(8, seed=3)
    found = generate(model(), rows, how, stop=stop)
    for row, made in zip(rows, found, strict=True):
        with torch.no_grad():
            want = theirs.generate(torch.tensor(row)[None], max_new_tokens=14, num_beams=beams, do_sample=False,
                                   length_penalty=penalty, eos_token_id=stop or None, pad_token_id=0,
                                   output_scores=True, return_dict_in_generate=True,
                                   attention_mask=torch.ones(1, len(row)), **extra)
        tokens = want.sequences[0, len(row):].tolist()
        cut = next((i for i, t in enumerate(tokens) if t in stop), len(tokens))
        assert made.tokens == tokens[:cut]
        assert made.score == pytest.approx(float(want.sequences_scores[0]), rel=1e-5, abs=2e-5)
        assert made.stopped == (cut < len(tokens))
    assert not stop or any(g.stopped for g in found)
    greedy = generate(model(), rows, Sampling(length=14), stop=stop)
    assert extra or any(g.tokens != f.tokens for g, f in zip(greedy, found, strict=True))


def test_a_prompt_does_not_depend_on_its_batch_and_logprobs_add_up() -> None:
    rows, how = prompts(5, seed=4), Sampling(length=12, beams=3, length_penalty=0.0)
    heard: list[tuple[int, int]] = []
    together = generate(model(), rows, how, on_token=lambda row, token: heard.append((row, token)))
    assert heard == [(row, t) for row, made in enumerate(together) for t in made.tokens]
    for row, made in zip(rows, together, strict=True):
        assert generate(model(), [row], how)[0].tokens == made.tokens
        np.testing.assert_allclose(made.logprobs, logprobs(model(), [np.append(row, made.tokens)])[0][-12:], atol=1e-5)
        assert made.score == pytest.approx(sum(made.logprobs), abs=1e-4)      # length_penalty 0, and no stop token


def test_wide_enough_beams_find_the_likeliest_text_of_all() -> None:
    """Three tokens allowed, four places: 81 texts, all of which fit in 27 beams."""
    how = Sampling(length=4, beams=27, logit_bias={t: float("-inf") for t in range(3, 61)})
    prompt = prompts(1)[0]
    made = generate(model(), [prompt], how)[0]
    texts = np.stack(np.meshgrid(*[np.arange(3)] * 4), -1).reshape(-1, 4)
    all_ = [p[-4:].sum() for p in logprobs(model(), [np.append(prompt, text) for text in texts])]
    assert made.tokens == texts[int(np.argmax(all_))].tolist()
    assert sum(made.logprobs) == pytest.approx(max(all_), abs=1e-4)


def test_candidates_can_be_ended_by_a_question() -> None:
    made = generate(model(), prompts(4), Sampling(length=12, beams=3), ends=lambda row, tokens: tokens[-1] % 5 == row)
    for row, g in enumerate(made):
        assert not any(t % 5 == row for t in g.tokens[:-1]) and g.stopped == (g.tokens[-1] % 5 == row)
    assert any(g.stopped for g in made)


def test_nothing_allowed_is_an_end() -> None:
    how = Sampling(length=30, beams=2, logit_bias={t: float("-inf") for t in range(2, 61)}, no_repeat_ngram=2)
    assert 2 <= len(generate(model(), [np.array([5])], how)[0].tokens) <= 6
