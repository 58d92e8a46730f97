"""BERT, RoBERTa and DistilBERT compute what transformers computes, for every head, with padding, both ways."""
import json
from pathlib import Path

import pytest
import torch
import transformers

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.models.bert import HEADS, RELATES, Config, Model
from meristem.nn.attention import two_way
from tests.models import parity

HEADED = [(kind, head) for kind in ("bert", "roberta", "distilbert") for head in HEADS
          if kind == "bert" or head not in RELATES]
NAMES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
AUTO = {"none": "AutoModel", "lm": "AutoModelForMaskedLM", "pretraining": "AutoModelForPreTraining",
        "next_sentence": "AutoModelForNextSentencePrediction", "sequence": "AutoModelForSequenceClassification",
        "token": "AutoModelForTokenClassification", "qa": "AutoModelForQuestionAnswering"}
THEIRS = {
    "bert": {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
             "max_position_embeddings": 160},
    "roberta": {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
                "max_position_embeddings": 162, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1},
    "distilbert": {"dim": 48, "hidden_dim": 80, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 160},
}
OURS = {"vocab": 97, "context": 160, "dim": 48, "hidden": 80, "layers": 3, "heads": 4}
LENGTHS = torch.tensor([150, 61, 9])                           # 150: past the first chunk of 128 queries


def batch(kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """tokens, attention mask and token types [3, 150]: padded on the right with RoBERTa's and BERT's own id."""
    tokens = parity.ids(batch=3, length=150).clamp(min=2)
    mask = (torch.arange(150) < LENGTHS[:, None]).long()
    types = (torch.arange(150) >= LENGTHS[:, None] // 2).long()
    return torch.where(mask == 1, tokens, int(kind == "roberta")), mask, types


def seen(output: torch.Tensor | tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
    """Every number that an output has about text, in one row: what stands on padding is nobody's."""
    parts = [output] if isinstance(output, torch.Tensor) else list(output)
    return torch.cat([(p[mask == 1] if p.ndim == 3 else p).flatten() for p in parts])


def call_ours(kind: str, pool: bool = False):
    tokens, mask, types = batch(kind)

    def call(module: torch.nn.Module) -> torch.Tensor:
        output = module(tokens, 1 - mask, types if kind == "bert" else None)
        return seen((output, module.pool(output)) if pool else output, mask)
    return call


def call_theirs(kind: str, head: str):
    tokens, mask, types = batch(kind)

    def call(model: transformers.PreTrainedModel) -> torch.Tensor:
        output = model(tokens, attention_mask=mask, **({"token_type_ids": types} if kind == "bert" else {}))
        if head == "none":
            pooled = output.get("pooler_output")
            return seen(output.last_hidden_state if pooled is None else (output.last_hidden_state, pooled), mask)
        if head == "pretraining":
            return seen((output.prediction_logits, output.seq_relationship_logits), mask)
        if head == "qa":
            return seen(torch.stack([output.start_logits, output.end_logits], -1), mask)
        return seen(output.logits, mask)
    return call


@pytest.mark.parametrize(("kind", "head"), HEADED)
def test_a_folder_that_transformers_wrote(kind: str, head: str, tmp_path: Path) -> None:
    labels = {"num_labels": 5} if head in ("sequence", "token") else {}
    model = parity.theirs(f"{NAMES[kind]}{HEADS[head]}", f"{NAMES[kind]}Config", vocab_size=97, **THEIRS[kind],
                          **labels)
    loaded = parity.read_theirs(model, tmp_path, call_ours(kind, pool=head == "none" and kind != "distilbert"),
                                call_theirs(kind, head))
    assert (loaded.family, loaded.config.kind, loaded.config.head) == ("bert", kind, head)
    assert loaded.config.context == 160


@pytest.mark.parametrize(("kind", "head"), HEADED)
def test_transformers_reads_our_folder(kind: str, head: str, tmp_path: Path) -> None:
    fields = {**OURS, "kind": kind, "head": head, "pad": int(kind == "roberta"), "activation": "gelu_new",
              "labels": ["no", "yes", "maybe"] if head in ("sequence", "token") else ["LABEL_0", "LABEL_1"]}
    model = parity.theirs_reads("bert", fields, tmp_path, call_ours(kind, pool=head == "none" and kind != "distilbert"),
                                call_theirs(kind, head), AUTO[head])
    assert list(model.config.id2label.values()) == fields["labels"]


@torch.no_grad()
def test_the_vocabulary_is_asked_at_some_places_only() -> None:
    _, module = parity.ours("bert", **OURS, head="pretraining")
    tokens, mask, types = batch("bert")
    places = torch.tensor([[3, 149, 0], [5, 5, 60], [1, 2, 8]])
    everywhere, relation = module(tokens, 1 - mask, types)
    some, again = module(tokens, 1 - mask, types, places)
    assert some.shape == (3, 3, 97) and torch.equal(relation, again)
    parity.close(some, everywhere.gather(1, places[..., None].expand(-1, -1, 97)))


@torch.no_grad()
@pytest.mark.parametrize("kind", NAMES)
def test_padding_changes_nothing_and_a_text_is_seen_from_both_sides(kind: str) -> None:
    _, module = parity.ours("bert", **OURS, kind=kind, pad=int(kind == "roberta"))
    tokens, mask, _ = batch(kind)
    padded = module(tokens, 1 - mask)
    for row, n in enumerate(LENGTHS.tolist()):
        parity.close(padded[row, :n], module(tokens[row:row + 1, :n])[0])
    last = tokens.clone()
    last[0, 149] = 7 + (tokens[0, 149] == 7)
    assert not torch.equal(module(last, 1 - mask)[0, 0], padded[0, 0])
    assert torch.equal(module(last, 1 - mask)[1:], padded[1:])


@torch.no_grad()
@pytest.mark.parametrize("kind", NAMES)
def test_what_follows_a_masked_token_changes_its_prediction_and_a_decoders_never(kind: str) -> None:
    """The same tokens after the mask in another order; a decoder asked at the same place gives the same bits."""
    tokens, at, mask = parity.ids(batch=1, length=60).clamp(min=2), 20, 96
    tokens[0, at] = mask
    turned = tokens.clone()
    turned[0, at + 1:] = tokens[0, at + 1:][torch.randperm(39, generator=torch.Generator().manual_seed(3))]
    assert torch.equal(turned.sort().values, tokens.sort().values) and not torch.equal(turned, tokens)
    _, encoder = parity.ours("bert", **OURS, kind=kind, head="lm")
    places = torch.tensor([[at]])
    parity.perturb(encoder, 0.3)                               # fresh weights attend to all places nearly alike
    before, after = (encoder(t, places=places)[0, 0].softmax(-1) for t in (tokens, turned))
    assert (before - after).abs().sum() > 0.01
    _, decoder = parity.ours("llama", vocab=97, context=160, dim=48, layers=3, heads=4)
    assert torch.equal(decoder(tokens)[0, :at + 1], decoder(turned)[0, :at + 1])
    assert two_way(encoder) and not two_way(decoder)


@torch.no_grad()
def test_old_checkpoints_and_their_leftovers_are_read(tmp_path: Path) -> None:
    """As google-bert/bert-base-uncased: gamma and beta, a buffer, the pooler and pair head beside masked prediction."""
    from safetensors.torch import load_file, save_file
    model = parity.theirs("BertForPreTraining", "BertConfig", vocab_size=97, **THEIRS["bert"])
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
               for name, t in tensors.items()}
    tensors["bert.embeddings.position_ids"] = torch.arange(160)[None]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tree = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**tree, "architectures": ["BertForMaskedLM"]}))
    loaded = hf.load(tmp_path)
    tokens, mask, types = batch("bert")
    want = model(tokens, attention_mask=mask, token_type_ids=types).prediction_logits
    parity.close(loaded.module(tokens, 1 - mask, types)[mask == 1], want[mask == 1])
    tensors.pop("bert.encoder.layer.1.output.LayerNorm.gamma")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"no tensor bert.encoder.layer.1.output.LayerNorm.weight"):
        hf.load(tmp_path)


def test_dropout_acts_in_training_only() -> None:
    _, module = parity.ours("bert", **OURS, dropout=0.5)
    tokens = parity.ids(length=20)
    assert torch.equal(module(tokens), module(tokens))
    module.train()
    assert not torch.equal(module(tokens), module(tokens))


def test_the_embedding_is_the_matrix_of_the_vocabulary_head() -> None:
    module = Model(Config(**OURS, head="lm"))
    assert module.head.weight is module.embed.weight
    module(parity.ids(length=8)).sum().backward()
    assert module.embed.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("fields", "message"), [
    ({"kind": "roberta", "head": "next_sentence"}, "no next_sentence head"),
    ({"kind": "roberta", "positions": 514, "context": 514, "pad": 1}, r"must be context \(514\) \+ 2"),
    ({"dim": 50}, "multiple of heads"),
    ({"kind": "distilbert", "types": 2}, "no token types"),
])
def test_shapes_that_do_not_exist(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**fields)


@pytest.mark.parametrize("change", [{"is_decoder": True}, {"position_embedding_type": "relative_key"},
                                    {"add_cross_attention": True}, {"tie_word_embeddings": False}])
def test_settings_that_would_change_the_numbers_are_refused(change: dict, tmp_path: Path) -> None:
    parity.theirs("BertForMaskedLM", "BertConfig", vocab_size=97, **THEIRS["bert"]).save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**tree, **change}))
    with pytest.raises(RequestError, match=next(iter(change))):
        hf.load(tmp_path)
