"""The mark is found by who has the key and by nobody else, in text and in pictures."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling
from meristem.generate.watermark import SHARE, Key, mark, trace
from meristem.models import llama


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return llama.Model(llama.Config(vocab=200, context=96, dim=16, layers=1, heads=2, groups=1, hidden=32)).eval()


def test_marked_text_is_found_with_the_key_only(module):
    prompts = [np.array([i + 1]) for i in range(4)]
    how = Sampling(length=48, temperature=1.0, watermark="secret")
    texts = {word: [one.tokens for one in generate(module, prompts, replace(how, watermark=word))]
             for word in ("secret", "")}
    key, other = Key("secret", 200), Key("another", 200)
    marked, plain, wrong = ([k.found([int(p[0]), *ids]).z for p, ids in zip(prompts, some, strict=True)]
                            for k, some in ((key, texts["secret"]), (key, texts[""]), (other, texts["secret"])))
    assert min(marked) > 4 and max(plain + wrong) < 4 and abs(np.mean(plain + wrong)) < 1.5
    assert texts["secret"] == [one.tokens for one in generate(module, prompts, how)]


def test_a_quarter_is_green_and_it_hangs_on_the_token_before():
    key = Key("k", 1000)
    assert int(key.green(3).sum()) == SHARE * 1000
    assert 0.15 < float((key.green(3) & key.green(4)).sum() / 250) < 0.35
    assert key.found([5] * 50).tokens == 1                     # repeats say nothing new


def test_marked_pictures_are_found_with_the_key_only():
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((20, 3, 6, 6)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(48, 40), mode="bicubic").clamp(0, 1)
    pixels = (smooth * 255).round().to(torch.uint8).numpy()
    marked = mark(pixels, "secret")
    assert np.abs(marked.astype(int) - pixels).mean() < 5
    assert trace(marked, "secret").min() > 4 and np.abs(trace(pixels, "secret")).max() < 4
    assert np.abs(trace(marked, "another")).max() < 4
