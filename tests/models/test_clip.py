"""CLIP and SigLIP compute what transformers computes: both towers, each alone, both ways."""
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.models.clip import Config, Model
from tests.models import parity

TEXT = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 56, "vocab_size": 97,
        "max_position_embeddings": 20}
VISION = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
          "image_size": 28, "patch_size": 7}
END = 96


def fields(kind: str) -> dict[str, Any]:
    text = {**TEXT, **({"eos_token_id": END} if kind == "CLIP" else {"projection_size": 48})}
    return {"text_config": text, "vision_config": VISION, **({"projection_dim": 24} if kind == "CLIP" else {})}


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Three images, four texts that end at different places."""
    tokens = torch.randint(0, 90, (4, 20), generator=torch.Generator().manual_seed(1))
    for row, end in enumerate((19, 3, 11, 7)):
        tokens[row, end:] = END
    return torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(4)), tokens


def ours(kind: str, part: str = "both") -> dict[str, Any]:
    more = {"project": 24, "end": END} if kind == "clip" else {"project": 48, "activation": "gelu_pytorch_tanh"}
    return {"kind": kind, "part": part, "vocab": 97, "context": 20, "image": 28, "patch": 7,
            "text": {"dim": 40, "layers": 2, "heads": 4, "hidden": 56},
            "vision": {"dim": 48, "layers": 3, "heads": 4, "hidden": 64}, **more}


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_both_towers_both_ways(kind: str, tmp_path: Path) -> None:
    images, tokens = inputs()
    model = parity.theirs(f"{kind}Model", f"{kind}Config", **fields(kind))
    loaded = parity.read_theirs(model, tmp_path / "a", lambda m: m.logits(*m(images, tokens)),
                                lambda m: m(pixel_values=images, input_ids=tokens).logits_per_image)
    assert (loaded.family, loaded.config.kind, loaded.config.part) == ("clip", kind.lower(), "both")
    parity.theirs_reads("clip", ours(kind.lower()), tmp_path / "b", lambda m: m.logits(*m(images, tokens)),
                        lambda m: m(pixel_values=images, input_ids=tokens).logits_per_image, "AutoModel")


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
@torch.no_grad()
def test_a_text_tower_alone(kind: str, tmp_path: Path) -> None:
    tokens = inputs()[1]
    model = parity.theirs(f"{kind}TextModel", f"{kind}TextConfig", **fields(kind)["text_config"])
    model.save_pretrained(tmp_path / "in")
    loaded = hf.load(tmp_path / "in")
    got = loaded.module.text(tokens)
    parity.close(got if kind == "CLIP" else loaded.module.text_map(got), model(tokens).pooler_output)
    parity.close(loaded.module.text.features(tokens), model(tokens).last_hidden_state)
    hf.save(tmp_path / "out", loaded.family, loaded.config, loaded.module)
    back = getattr(transformers, f"{kind}TextModel").from_pretrained(tmp_path / "out")
    assert torch.equal(back.eval()(tokens).pooler_output, model(tokens).pooler_output)
    assert hf.load(tmp_path / "out").config == loaded.config


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
@torch.no_grad()
def test_a_vision_tower_alone_at_another_size(kind: str, tmp_path: Path) -> None:
    model = parity.theirs(f"{kind}VisionModel", f"{kind}VisionConfig", **VISION)
    model.save_pretrained(tmp_path / "in")
    loaded = hf.load(tmp_path / "in")
    for size in (28, 42):
        images = torch.randn(2, 3, size, size + 7, generator=torch.Generator().manual_seed(4))
        parity.close(loaded.module.vision(images), model(images, interpolate_pos_encoding=True).pooler_output)
    hf.save(tmp_path / "out", loaded.family, loaded.config, loaded.module)
    back = getattr(transformers, f"{kind}VisionModel").from_pretrained(tmp_path / "out")
    assert torch.equal(back.eval()(images, interpolate_pos_encoding=True).pooler_output,
                       model(images, interpolate_pos_encoding=True).pooler_output)


@torch.no_grad()
def test_an_old_config_reads_texts_at_their_highest_id(tmp_path: Path) -> None:
    model = parity.theirs("CLIPModel", "CLIPConfig", **{**fields("CLIP"), "text_config": {**TEXT, "eos_token_id": 2}})
    model.save_pretrained(tmp_path)
    images, tokens = inputs()
    loaded = hf.load(tmp_path)
    assert loaded.config.end == END
    parity.close(loaded.module.logits(*loaded.module(images, tokens)),
                 model(pixel_values=images, input_ids=tokens).logits_per_image)


@torch.no_grad()
def test_padding_of_a_text_is_not_seen() -> None:
    model = parity.ours("clip", **ours("siglip"))[1]
    tokens = inputs()[1]
    short = model.text.features(tokens[:, :9])
    segments = (torch.arange(20) >= 9).long().expand(4, -1)
    parity.close(model.text.features(tokens, segments)[:, :9], short)


@torch.no_grad()
def test_places_after_the_last_end_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = parity.ours("clip", **ours("clip"))[1], inputs()[1][1:]    # ends at 3, 11 and 7 of 20 places
    read: list[int] = []
    features = type(model.text).features
    monkeypatch.setattr(type(model.text), "features", lambda self, tokens, segments=None: (
        read.append(tokens.shape[1]), features(self, tokens, segments))[1])
    short = model.text(tokens)
    monkeypatch.setattr("meristem.models.clip.STRIDE", 20)
    torch.testing.assert_close(short, model.text(tokens))
    assert read == [16, 20]


@torch.no_grad()
def test_vectors_have_length_one_and_the_scale_is_applied() -> None:
    model = parity.ours("clip", **ours("clip"))[1]
    images, tokens = inputs()
    a, b = model.embed_images(images), model.embed_texts(tokens)
    parity.close(a.norm(dim=-1), torch.ones(3))
    parity.close(model.logits(*model(images, tokens)), model.scale.exp() * a @ b.T)


def test_what_is_not_supported_is_refused(tmp_path: Path) -> None:
    text = {**TEXT, "hidden_act": "gelu"}
    model = parity.theirs("CLIPModel", "CLIPConfig", **{**fields("CLIP"), "text_config": text})
    model.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="text_config.hidden_act = 'gelu' and vision_config's 'quick_gelu' differ"):
        hf.load(tmp_path)
    with pytest.raises(ValueError, match="width of the vision tower"):
        Config(kind="siglip", project=1)
    assert Model(Config(**{**ours("clip", "text"), "text": Config().text, "vision": Config().vision})).vision is None


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
@torch.no_grad()
def test_where_it_looks(kind: str, tmp_path: Path) -> None:
    model = parity.theirs(f"{kind}Model", f"{kind}Config", **fields(kind), attn_implementation="eager")
    model.save_pretrained(tmp_path)
    images, _ = inputs()
    found = hf.load(tmp_path).module.looks(images)
    want = model.vision_model(pixel_values=images, output_attentions=True).attentions[-1]
    parity.close(found.flatten(2), want[:, :, 0, 1:] if kind == "CLIP" else want.mean(2))
    assert found.shape == (3, 4, 4, 4)
