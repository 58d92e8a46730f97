"""What was said and when: parts between times, windows over long sounds, letters that repeat."""
import numpy as np
import pytest
import torch

from meristem.codecs import bpe, char
from meristem.core.errors import RequestError
from meristem.generate.listen import BEGIN, PLAIN, TASK, collapsed, parse, prompt, segments, times_of
from tests.models import parity

TIMES = [f"<|{n * 0.02:.2f}|>" for n in range(26)]             # a window of half a second


@pytest.fixture(scope="module")
def codec() -> bpe.Bpe:
    return bpe.fit(["a quick brown fox"], 300, special=[BEGIN, TASK, "<|en|>", PLAIN, *TIMES])


def test_parts_lie_between_times(codec: bpe.Bpe) -> None:
    times = times_of(codec)
    at = {text: codec.special[text] for text in TIMES}
    fox, dog = codec.encode(" fox").tolist(), codec.encode(" a").tolist()
    parts, until = parse([at["<|0.00|>"], *fox, at["<|0.20|>"], at["<|0.24|>"], *dog, at["<|0.40|>"],
                          at["<|0.42|>"], *fox], codec, times)
    assert [(p.start, p.end, p.text) for p in parts] == [(0.0, 0.2, "fox"), (0.24, 0.4, "a")] and until == 0.4
    assert parse(fox, codec, times) == ([], 0.0)
    with pytest.raises(RequestError, match="has no times"):
        times_of(char.Char("ab"))


def test_the_marks_before_a_text(codec: bpe.Bpe) -> None:
    config = parity.ours("whisper", vocab=codec.vocab, dim=16, layers=1, heads=2, places=25, mels=8, context=40)[0]
    assert prompt(config, codec, language="en") == [codec.special[t] for t in (BEGIN, "<|en|>", TASK, PLAIN)]
    assert prompt(config, codec, times=True) == [codec.special[t] for t in (BEGIN, TASK)]
    assert prompt(config, char.Char("ab")) == [config.start]


def test_windows_go_over_a_long_sound(codec: bpe.Bpe) -> None:
    module = parity.ours("whisper", vocab=codec.vocab, dim=16, layers=1, heads=2, places=25, mels=8, context=12,
                         end=codec.end)[1]
    sound = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)             # 1.25 seconds
    parts = segments(module, codec, sound)
    assert all(0 <= p.start <= p.end <= 1.3 and p.text for p in parts)
    assert [p.start for p in parts] == sorted(p.start for p in parts)


def test_letters_that_repeat_are_one() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 1, 0, 1, 2, 2, 0]]), 3).float()
    assert collapsed(logits, torch.tensor([7]), 0) == [[1, 1, 2]] and collapsed(logits, torch.tensor([2]), 0) == [[1]]
