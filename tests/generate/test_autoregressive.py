"""Decoding: a row's text depends on its prompt, the seed and its place only, and equals decoding without a cache."""
import numpy as np
import pytest
import torch

from meristem.core.errors import MachineError, RequestError
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling
from meristem.generate.score import logprobs
from meristem.models.llama import Config, Model
from meristem.nn.linear import compute_in
from tests.generate.small import model, prompts

SAMPLED = {"temperature": 0.9, "top_k": 30, "top_p": 0.95}


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


@pytest.mark.parametrize(("change", "line"), [
    ({"length": 0}, "length 0 must be >= 1"), ({"temperature": -0.1}, "temperature -0.1"),
    ({"temperature": float("nan")}, "temperature nan"), ({"temperature": float("inf")}, "temperature inf"),
    ({"top_k": -1}, "top_k -1"), ({"top_p": 0.0}, "top_p 0.0"), ({"top_p": 1.1}, "top_p 1.1"),
    ({"top_p": float("nan")}, "top_p nan"),
    ({"prompts": []}, "nothing to go on from"), ({"prompts": [np.array([], dtype=np.int64)]}, "nothing to go on from"),
    ({"prompts": [np.arange(60).repeat(2)]}, "120 tokens and 5 new ones exceed the model's context of 96"),
    ({"prompts": [np.array([61])]}, "outside the model's vocabulary of 61"),
    ({"prompts": [np.array([-1])]}, "outside the model's vocabulary of 61"),
])
def test_bad_numbers_are_one_line(change: dict, line: str) -> None:
    asked = {"prompts": prompts(1), "length": 5, **change}
    with pytest.raises(RequestError, match=line):
        generate(model(), **asked)


def test_a_context_can_be_filled_to_the_last_token() -> None:
    assert len(generate(model(), [np.arange(91) % 61], length=5)[0].tokens) == 5


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


def test_controls_change_what_is_written_and_not_its_logprobs() -> None:
    rows = prompts(4)
    free = [g.tokens for g in generate(model(), rows, length=20)]
    banned = {t for tokens in free for t in tokens[:2]}
    how = Sampling(length=20, logit_bias=dict.fromkeys(banned, float("-inf")), no_repeat_ngram=2)
    for prompt, made in zip(rows, generate(model(), rows, how), strict=True):
        ids = [*prompt.tolist(), *made.tokens]
        assert not banned & set(made.tokens)
        new = list(zip(ids, ids[1:], strict=False))[max(0, len(prompt) - 1):]
        assert all(list(zip(ids, ids[1:], strict=False)).count(pair) == 1 for pair in new[1:])
        np.testing.assert_allclose(made.logprobs, logprobs(model(), [np.array(ids)])[0][-20:], rtol=0, atol=1e-5)


def test_a_row_that_may_write_nothing_more_ends() -> None:
    """Two tokens allowed and no pair twice: at most five tokens can follow."""
    for temperature in (0.0, 1.0):
        how = Sampling(length=30, logit_bias={t: float("-inf") for t in range(2, 61)}, no_repeat_ngram=2,
                       temperature=temperature)
        made = generate(model(), [np.array([0]), np.array([5])], how)
        assert all(g.stopped and 2 <= len(g.tokens) <= 6 and set(g.tokens) <= {0, 1} for g in made)


def test_the_likeliest_tokens_come_with_their_logprobs() -> None:
    row = prompts(1)[0]
    made = generate(model(), [row], Sampling(length=6, temperature=1.0, top_logprobs=3))[0]
    with torch.no_grad():
        logp = model()(torch.tensor([[*row.tolist(), *made.tokens]]))[0].log_softmax(-1)
    for i, (token, p, top) in enumerate(zip(made.tokens, made.logprobs, made.top, strict=True)):
        here = logp[len(row) - 1 + i]
        assert [t for t, _ in top] == here.topk(3).indices.tolist()
        np.testing.assert_allclose([q for _, q in top], here.topk(3).values, rtol=0, atol=1e-5)
        assert p == pytest.approx(float(here[token]), abs=1e-5)


def test_on_token_can_end_its_row() -> None:
    rows = prompts(3)
    free = generate(model(), rows, length=9)
    made = generate(model(), rows, length=9, on_token=lambda row, token: row == 1)
    assert made[1].tokens == free[1].tokens[:1] and made[1].stopped
    assert [made[i].tokens for i in (0, 2)] == [free[i].tokens for i in (0, 2)]


def test_texts_and_grammars_need_a_codec() -> None:
    for how in (Sampling(stop=("a",)), Sampling(regex="a"), Sampling(schema={})):
        with pytest.raises(RequestError, match="need a tokenizer"):
            generate(model(), prompts(1), how)
