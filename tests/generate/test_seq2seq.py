"""Answers of an encoder-decoder: greedy with the cache and without, whatever else is in the batch; beams; errors."""
import numpy as np
import pytest
import torch

from meristem.codecs.char import Char
from meristem.core.errors import RequestError
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling
from meristem.generate.seq2seq import answers
from tests.models import parity

CODEC = Char("abcdefghijklmnopqrstuvwxyz ")
FIELDS = {"vocab": CODEC.vocab, "dim": 32, "layers": 2, "heads": 4, "head_dim": 8, "hidden": 48, "context": 40,
          "start": 2}
SOURCES = ["sort three one two", "reverse abc", "x", "a longer source than the others are"]


def model(**fields) -> torch.nn.Module:
    _, module = parity.ours("t5", **{**FIELDS, **fields})
    return parity.perturb(module, 0.3, 4)                      # far from uniform, so that answers differ


@torch.no_grad()
def by_hand(module: torch.nn.Module, source: np.ndarray, length: int) -> list[int]:
    """Greedy decoding without a cache, alone, until the end token."""
    tokens = torch.tensor([[module.config.start]])
    for _ in range(length):
        new = int(module(tokens, torch.as_tensor(source, dtype=torch.long)[None])[0, -1].argmax())
        if new == CODEC.end:
            break
        tokens = torch.cat([tokens, torch.tensor([[new]])], 1)
    return tokens[0, 1:].tolist()


@pytest.mark.parametrize("fields", [{}, {"feed_forward": "gated-gelu", "tied": False}], ids=["v1.0", "v1.1"])
def test_greedy_answers_are_those_without_cache_and_batch(fields: dict) -> None:
    module = model(**fields)
    rows = [np.append(CODEC.encode(s), CODEC.end) for s in SOURCES]
    want = [by_hand(module, row, 12) for row in rows]
    made = generate(module, [np.array([2])] * 4, length=12, stop={CODEC.end}, source=rows)
    assert [m.tokens for m in made] == want and len({tuple(w) for w in want}) >= 3
    assert answers(module, CODEC, SOURCES, length=12) == [CODEC.decode(w) for w in want]


@torch.no_grad()
def test_the_encoder_runs_once() -> None:
    module, calls = model(), []
    module.encoder.register_forward_hook(lambda *_: calls.append(1))
    answers(module, CODEC, SOURCES, length=10)
    assert len(calls) == 1


def test_beams_find_answers_at_least_as_likely() -> None:
    module = model()
    rows = [np.append(CODEC.encode(s), CODEC.end) for s in SOURCES]
    one = generate(module, [np.array([2])] * 4, length=6, source=rows)
    four = generate(module, [np.array([2])] * 4, Sampling(length=6, beams=4), source=rows)
    gains = [sum(b.logprobs) - sum(a.logprobs) for a, b in zip(one, four, strict=True)]
    assert min(gains) > -1e-4 and max(gains) > 1e-3


def test_what_cannot_be_answered_is_said() -> None:
    with pytest.raises(RequestError, match="exceeds the model's context of 40"):
        answers(model(), CODEC, ["a" * 60])
    _, decoder = parity.ours("llama", vocab=CODEC.vocab, dim=16, layers=1, heads=2)
    with pytest.raises(RequestError, match="no encoder"):
        answers(decoder, CODEC, SOURCES)
