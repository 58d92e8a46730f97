"""ESM-2 computes what transformers computes: every head, contacts, padding, masked residues, both ways."""
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.models.esm import Config, Model
from tests.models import parity

THEIRS: dict[str, Any] = {
    "vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 48, "position_embedding_type": "rotary", "layer_norm_eps": 1e-5,
    "emb_layer_norm_before": False, "token_dropout": True, "max_position_embeddings": 64}
OURS: dict[str, Any] = {"dim": 32, "layers": 2, "heads": 4, "hidden": 48, "context": 64}
CLASSES = {"EsmForMaskedLM": "lm", "EsmModel": "none", "EsmForTokenClassification": "token",
           "EsmForSequenceClassification": "sequence"}


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Chains of 20 and 13 tokens, padded, two residues of each masked; and which are real."""
    tokens = torch.randint(4, 24, (2, 20), generator=torch.Generator().manual_seed(1))
    tokens[:, 0], tokens[0, 19], tokens[1, 12], tokens[1, 13:] = 0, 2, 2, 1
    tokens[:, [3, 7]] = 32
    return tokens, (tokens != 1).long()


def said(model: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    out = model(input_ids=tokens, attention_mask=mask)
    out = out.last_hidden_state if "last_hidden_state" in out else out.logits
    return out[mask == 1] if out.ndim == 3 else out


def ours(module: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    out = module(tokens, 1 - mask)
    return out[mask == 1] if out.ndim == 3 else out


def today(name: str) -> str:
    """transformers 5 writes a star for the layer of the angles, and BERT's first names of norms."""
    name = name.replace("encoder.layer.*.attention.self.", "")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


@pytest.mark.parametrize("name", [*CLASSES])
def test_every_head_both_ways(name: str, tmp_path: Path) -> None:
    rows = batch()
    model = parity.theirs(name, "EsmConfig", **THEIRS)
    loaded = parity.read_theirs(model, tmp_path / "a", lambda m: ours(m, *rows), lambda m: said(m, *rows),
                                today=today)
    assert (loaded.family, loaded.config.head) == ("esm", CLASSES[name])
    auto = {"none": "AutoModel", "lm": "AutoModelForMaskedLM", "token": "AutoModelForTokenClassification",
            "sequence": "AutoModelForSequenceClassification"}[CLASSES[name]]
    parity.theirs_reads("esm", {**OURS, "head": CLASSES[name]}, tmp_path / "b", lambda m: ours(m, *rows),
                        lambda m: said(m, *rows), auto)


@torch.no_grad()
def test_contacts_and_the_pooler(tmp_path: Path) -> None:
    tokens, mask = batch()
    tokens = tokens.masked_fill(tokens == 32, 5)
    model = parity.theirs("EsmModel", "EsmConfig", **THEIRS, attn_implementation="eager")
    model.save_pretrained(tmp_path)
    module = hf.load(tmp_path).module
    parity.close(module.contacts(tokens, 1 - mask), model.predict_contacts(tokens, mask))
    parity.close(module.pool(module.features(tokens, 1 - mask)), model(tokens, attention_mask=mask).pooler_output)


@torch.no_grad()
def test_published_files_keep_angles_in_every_layer_and_a_table_that_nothing_reads(tmp_path: Path) -> None:
    """As facebook/esm2_t6_8M_UR50D: fp16-rounded angles a layer, position tables, a null vocabulary, vocab.txt."""
    rows = batch()
    model = parity.theirs("EsmForMaskedLM", "EsmConfig", **THEIRS)
    model.save_pretrained(tmp_path)
    tensors = {today(name): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    angles = tensors.pop("esm.rotary_embeddings.inv_freq").half().float()
    for layer in range(2):
        tensors[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = angles.clone()
    tensors["esm.embeddings.position_embeddings.weight"] = torch.ones(64, 32)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    from meristem.codecs import protein
    (tmp_path / "vocab.txt").write_text("\n".join(protein.TOKENS))
    loaded = hf.load(tmp_path)
    assert torch.equal(loaded.module.frequency, angles) and loaded.codec is not None and loaded.codec.vocab == 33
    model.esm.rotary_embeddings.inv_freq.copy_(angles)
    parity.close(ours(loaded.module, *rows), said(model, *rows))


@torch.no_grad()
def test_places_are_asked_alone_and_padding_changes_nothing() -> None:
    _, module = parity.ours("esm", **OURS)
    tokens, mask = batch()
    whole = module(tokens, 1 - mask)
    places = torch.tensor([[3, 7], [7, 3]])
    parity.close(module(tokens, 1 - mask, places=places), whole[torch.arange(2)[:, None], places])
    parity.close(module(tokens[1:, :13]), whole[1:, :13])


def test_what_is_not_esm2_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        Config(dim=30, heads=4)
    parity.theirs("EsmForMaskedLM", "EsmConfig", **{**THEIRS, "position_embedding_type": "absolute"}).save_pretrained(
        tmp_path)
    with pytest.raises(RequestError, match="position_embedding_type = 'absolute' is not supported"):
        hf.load(tmp_path)
    assert Model(Config(**{**OURS, "head": "token"})).transform is None
