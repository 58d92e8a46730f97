"""Flamingo: the frozen language model is itself at step 0, a token looks at the last picture before it, files."""
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.core.config import Part, from_dict, to_dict
from meristem.generate.autoregressive import generate
from meristem.generate.base import Shown
from meristem.hub import hf
from meristem.models.flamingo import Config, Model
from tests.models import parity

TOKEN = 90
DECODERS = {"gpt2": {"dim": 32, "layers": 4, "heads": 4}, "llama": {"dim": 32, "layers": 3, "heads": 4, "hidden": 64},
            "neox": {"dim": 32, "layers": 2, "heads": 4}}
VIT = Part("vit", {"image": 16, "patch": 8, "dim": 24, "layers": 1, "heads": 4})
CLIP = Part("clip", {"image": 16, "patch": 8, "vision": {"dim": 32, "layers": 1, "heads": 4}})


def fields(language: str = "gpt2", vision: Part = VIT) -> dict[str, Any]:
    return {"vocab": 97, "context": 64, "language": to_dict(Part(language, DECODERS[language])),
            "vision": to_dict(vision), "image_token": TOKEN, "latents": 3, "resampler": 2, "every": 2, "heads": 4}


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = parity.ids(TOKEN, 2, 40).clamp(min=1)
    tokens[0, [4, 20]], tokens[1, [9, 10]] = TOKEN, TOKEN
    return tokens, torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("language", DECODERS)
@torch.no_grad()
def test_at_step_0_the_language_model_is_itself_to_the_bit(language: str) -> None:
    model = Model(from_dict(Config, fields(language)))
    parity.perturb(model.language)
    tokens, images = inputs()
    assert torch.equal(model(tokens, images=images), model.language(tokens)[:, :])
    for look in model.looks:
        look.gate.fill_(0.5)
    assert not torch.allclose(model(tokens, images=images), model(tokens), atol=1e-4), "open gates do nothing"
    assert torch.equal(model(tokens), model.language(tokens)), "without pictures nothing is looked at"


@pytest.mark.parametrize(("language", "vision"), [("gpt2", VIT), ("llama", CLIP)])
@torch.no_grad()
def test_a_token_looks_at_the_last_picture_before_it(language: str, vision: Part, tmp_path: Path) -> None:
    config, model = parity.ours("flamingo", **fields(language, vision))
    for look in model.looks:
        look.gate.fill_(0.7)
        look.gate_mlp.zero_()
    tokens, images = inputs()
    got, first, last = model(tokens, images=images), images.clone(), images.clone()
    first[:, 0] += 1
    last[:, 1] += 1
    other = model(tokens, images=last)
    assert torch.equal(other[0, :20], got[0, :20]) and not torch.allclose(other[0, 20:], got[0, 20:], atol=1e-3)
    other = model(tokens, images=first)
    assert torch.equal(other[1, :9], got[1, :9]) and not torch.allclose(other[1, 9], got[1, 9], atol=1e-3)
    assert torch.equal(got[:, :4], model.language(tokens)[:, :4]), "before the first picture there is none"
    hf.save(tmp_path, "flamingo", config, model)
    loaded = hf.load(tmp_path)
    assert loaded.config == config and torch.equal(loaded.module(tokens, images=images), got)


@torch.no_grad()
def test_pictures_pass_through_the_cache() -> None:
    model = parity.ours("flamingo", **fields())[1]
    tokens, images = inputs()
    whole, cache, at = model(tokens, images=images), model.caches(2, 40, images), torch.arange(40).expand(2, -1)
    pieces = [model(tokens[:, a:b], at[:, a:b], cache) for a, b in ((0, 7), (7, 10), (10, 11), (11, 40))]
    parity.close(torch.cat(pieces, 1), whole)
    prompts = [row[: len(row) - n].numpy() for row, n in zip(tokens, (0, 2), strict=True)]
    made = generate(model, prompts, length=4, source=Shown(model, images))
    for row, (prompt, one) in enumerate(zip(prompts, made, strict=True)):
        ids = torch.from_numpy(prompt)[None]
        for _ in range(4):
            ids = torch.cat([ids, model(ids, images=images[row:row + 1])[:, -1:].argmax(-1)], 1)
        assert one.tokens == ids[0, len(prompt):].tolist()


def test_shapes_that_cannot_be() -> None:
    for wrong in ({"image_token": 0}, {"every": 0}, {"heads": 5}):
        with pytest.raises(ValueError):
            from_dict(Config, {**fields(), **wrong})
