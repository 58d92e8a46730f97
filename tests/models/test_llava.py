"""LLaVA computes what transformers computes: CLIP and SigLIP towers, several pictures a row, both layouts, caches."""
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from meristem.core.config import Part, from_dict, to_dict
from meristem.core.names import NameMap
from meristem.generate.autoregressive import generate
from meristem.generate.base import Shown
from meristem.hub import hf
from meristem.models.llava import Config, Model
from tests.models import parity

TOKEN, EACH = 90, 16
VISION = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
          "image_size": 28, "patch_size": 7}
TEXT = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": 128}
LLAMA = {"dim": 32, "layers": 2, "heads": 4, "hidden": 64, "eps": 1e-6}
TOWER = {"image": 28, "patch": 7, "vision": {"dim": 48, "layers": 3, "heads": 4, "hidden": 64}}


def fields(language: Part | None = None, **more: Any) -> dict[str, Any]:
    return {"vocab": 97, "context": 128, "language": to_dict(language or Part("llama", LLAMA)),
            "vision": to_dict(Part("clip", TOWER)), "image_token": TOKEN, **more}


def inputs(pictures: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of 60 tokens, each with so many pictures among its words."""
    tokens = parity.ids(TOKEN, 2, 60).clamp(min=1)
    for row, places in enumerate(((3, 30), (10, 41))):
        for at in places[:pictures]:
            tokens[row, at:at + EACH] = TOKEN
    return tokens, torch.randn(2, pictures, 3, 28, 28, generator=torch.Generator().manual_seed(4))


def run(tokens: torch.Tensor, images: torch.Tensor) -> Any:
    return lambda m: m(input_ids=tokens, pixel_values=images.flatten(0, 1)).logits


@pytest.mark.parametrize(("kind", "layer"), [("CLIP", -2), ("CLIP", -1), ("Siglip", -2)])
def test_their_folder_and_back(kind: str, layer: int, tmp_path: Path) -> None:
    tokens, images = inputs()
    torch.manual_seed(0)
    config = transformers.LlavaConfig(vision_config=getattr(transformers, f"{kind}VisionConfig")(**VISION),
                                      text_config=transformers.LlamaConfig(**TEXT), image_token_index=TOKEN,
                                      vision_feature_layer=layer,
                                      vision_feature_select_strategy="default" if kind == "CLIP" else "full")
    model = parity.perturb(transformers.LlavaForConditionalGeneration(config))
    loaded = parity.read_theirs(model, tmp_path, lambda m: m(tokens, images=images), run(tokens, images))
    assert (loaded.family, loaded.config.image_tokens, loaded.config.layer) == ("llava", EACH, layer)


def test_our_folder_in_transformers(tmp_path: Path) -> None:
    tokens, images = inputs()
    parity.theirs_reads("llava", fields(), tmp_path, lambda m: m(tokens, images=images), run(tokens, images),
                        "AutoModelForImageTextToText")


@torch.no_grad()
def test_names_of_other_versions_are_read(tmp_path: Path) -> None:
    """The Hub's llava-1.5 has vision_tower.vision_model., transformers 4.52 began all names with model."""
    config, model = parity.ours("llava", **fields())
    hf.save(tmp_path, "llava", config, model)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "MANIFEST.json").unlink()
    for swaps in ((("vision_tower.", "vision_tower.vision_model."),),
                  (("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head."),
                   ("vision_tower.", "model.vision_tower."), ("multi_modal", "model.multi_modal"))):
        named = {next((new + n.removeprefix(old) for old, new in swaps if n.startswith(old)), n): t
                 for n, t in tensors.items()}
        save_file(named, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert hf.identity("llava", hf.load(tmp_path).module) == hf.identity("llava", model)


@pytest.mark.parametrize("name", ["gpt2", "neox"])
@torch.no_grad()
def test_any_decoder_and_what_its_row_sees(name: str, tmp_path: Path) -> None:
    """A row is changed by its own pictures, from their places on, by no other's and by none that it does not name."""
    config, model = parity.ours("llava", **fields(Part(name, {"dim": 32, "layers": 2, "heads": 4})))
    (tokens, images), more = inputs(1), torch.randn(2, 1, 3, 28, 28)
    got = model(tokens, images=images)
    other = images.clone()
    other[1] += 1
    moved = model(tokens, images=other)
    assert torch.equal(moved[0], got[0]) and torch.equal(moved[1, :10], got[1, :10])
    assert not torch.allclose(moved[1, 10:], got[1, 10:], atol=1e-3)
    assert torch.allclose(model(tokens, images=torch.cat([images, more], 1)), got, atol=1e-5)
    assert not torch.allclose(model(tokens), got, atol=1e-3), "pictures do nothing"
    hf.save(tmp_path, "llava", config, model)
    loaded = hf.load(tmp_path)
    assert loaded.config == config and torch.equal(loaded.module(tokens, images=images), got)


@torch.no_grad()
def test_pictures_pass_through_the_cache() -> None:
    """In pieces that cut a picture in two, and greedily with rows of several lengths: as without a cache."""
    model = parity.ours("llava", **fields())[1]
    tokens, images = inputs()
    whole, cache, at = model(tokens, images=images), model.caches(2, 60, images), torch.arange(60).expand(2, -1)
    pieces = [model(tokens[:, a:b], at[:, a:b], cache) for a, b in ((0, 7), (7, 8), (8, 60))]
    parity.close(torch.cat(pieces, 1), whole)
    prompts = [row[: len(row) - n].numpy() for row, n in zip(tokens, (0, 2), strict=True)]
    made = generate(model, prompts, length=6, source=Shown(model, images))
    for row, (prompt, one) in enumerate(zip(prompts, made, strict=True)):
        ids = torch.from_numpy(prompt)[None]
        for _ in range(6):
            ids = torch.cat([ids, model(ids, images=images[row:row + 1])[:, -1:].argmax(-1)], 1)
        assert one.tokens == ids[0, len(prompt):].tolist()


def test_packed_documents_keep_their_pictures_and_gradients_reach_all_parts() -> None:
    model = parity.ours("llava", **fields())[1]
    tokens, images = inputs(1)
    row = tokens.reshape(1, -1)
    segments, positions = torch.arange(2).repeat_interleave(60)[None], torch.arange(60).repeat(2)[None]
    packed = model(row, positions=positions, segments=segments, images=images.transpose(0, 1))
    parity.close(packed.detach()[0].unflatten(0, (2, 60)), model(tokens, images=images).detach())
    packed.square().mean().backward()
    names = {n for n, p in model.named_parameters() if p.grad is None}
    assert all(n.startswith(("vision.blocks.2.", "vision.norm.")) for n in names), "past the layer that is read"


def test_shapes_that_cannot_be() -> None:
    siglip = {"name": "clip", "fields": {**TOWER, "kind": "siglip"}}
    for wrong in ({"image_token": 97}, {"image_token": 0}, {"vision": siglip}):
        with pytest.raises(ValueError):
            from_dict(Config, fields(**wrong))
    with torch.device("meta"):
        assert isinstance(Model(Config()).config.language.fields["dim"], int)
    assert NameMap(("a.{x}", "b.{x}")).under("c.", lambda n: "d." + n) == [("c.a.{x}", "d.b.{x}")]
