"""One interface for every objective, and unlabelled ones learn from batches that have no labels (FEATURES C2)."""
import inspect

import pytest
import torch

from meristem.codecs import bpe, wordpiece
from meristem.core import registry
from meristem.core.run import Train
from meristem.data.loader import Packed
from meristem.data.shards import Split
from meristem.hub import hf
from meristem.nn.linear import compute_in
from meristem.objectives.base import Objective, make
from meristem.train.trainer import Trainer
from tests.models import parity

T = 32
SENTINELS = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", *(f"<extra_id_{n}>" for n in range(8))]
TEXTS = ["the running lovers outlived everybody", "it was remarkably unbelievable", "unreturnable and unbelievable"] * 3
BODY = {"dim": 32, "layers": 1, "heads": 2}
UNLABELLED = {                          # objective -> the family that it trains here, and its fields
    "next_token": ("llama", {}, {}),
    "fill_in_the_middle": ("starcoder2", {}, {}),
    "masked": ("bert", {"head": "lm", "dropout": 0.0}, {}),
    "span_corruption": ("t5", {"head_dim": 16, "hidden": 64}, {}),
    "distillation": ("llama", {}, {"alpha": 0.7}),
}
LABELLED = {"next_sentence": ("bert", {"head": "pretraining", "dropout": 0.0}, {}),
            "classify": ("bert", {"head": "sequence", "dropout": 0.0}, {}),
            "seq2seq": ("t5", {"head_dim": 16, "hidden": 64}, {})}
EVERY = {**UNLABELLED, **LABELLED}


@pytest.fixture(scope="module")
def codecs():
    """A codec for decoders, and one for encoders, which has a mask token."""
    return {"decoder": bpe.fit(TEXTS, 300, special=SENTINELS), "encoder": wordpiece.fit(TEXTS, 80)}


@pytest.fixture
def codec(name: str, codecs):
    """What the objective under test is trained with."""
    return codecs["encoder" if EVERY[name][0] == "bert" else "decoder"]


def objective(name: str, codec, folder) -> Objective:
    family, fields, more = EVERY[name]
    torch.manual_seed(0)
    entry = registry.load("models", family)
    context = {} if family == "t5" else {"context": 64}
    module = entry.Model(entry.Config(**{"vocab": codec.vocab, **context, **BODY, **fields}))
    if name == "distillation":
        config, teacher = parity.ours("llama", vocab=codec.vocab, context=64, **BODY)
        hf.save(folder / "teacher", "llama", config, teacher, codec)
        more = {**more, "teacher": str(folder / "teacher")}
    return make(name, compute_in(module, torch.float32), more, codec)


def loader(codec) -> Packed:
    """The packed text of a corpus without any labels."""
    rows = [[*codec.encode(text), codec.end] for text in TEXTS * 8]
    split = Split("train", torch.tensor([t for row in rows for t in row]).numpy(), None, [], 0, codec.end)
    return Packed(split, T, 4, 0)


def labelled(codec) -> dict[str, list[dict]]:
    """A batch of each kind that a person, or the order of sentences, had to label."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(20, codec.vocab, (4, T + 1), generator=generator)
    rows = {"tokens": tokens, "weight": torch.ones(4, T), "segments": torch.zeros(4, T, dtype=torch.long)}
    labels = torch.tensor([0, 1, 1, 0])
    return {"next_sentence": [{**rows, "labels": labels, "types": torch.zeros(4, T, dtype=torch.long)}],
            "classify": [{**rows, "labels": labels}],
            "seq2seq": [{"tokens": tokens, "weight": torch.ones(4, T), "source": tokens[:, :12]}]}


@pytest.mark.parametrize("name", EVERY)
def test_one_trainer_and_four_methods_serve_it(name: str, codec, tmp_path) -> None:
    o = objective(name, codec, tmp_path)
    source = loader(codec) if name in UNLABELLED else lambda step: labelled(codec)[name]
    losses: list[float] = []
    config = Train(steps=8, batch=4, context=T, lr=1e-2, warmup=1, save_seconds=1e9)
    Trainer(o, source, config, hooks=[lambda trainer, facts: losses.append(facts["loss"])]).fit()
    assert len(losses) == 8 and all(0 < loss < 20 for loss in losses) and min(losses[4:]) < losses[0]
    for method in ("prepare", "weight", "inputs", "score", "forward", "after_step", "after_skip"):
        theirs, ours = (inspect.signature(getattr(kind, method)) for kind in (type(o), Objective))
        assert list(theirs.parameters) == list(ours.parameters), f"{name}.{method}"


@pytest.mark.parametrize("name", UNLABELLED)
def test_an_unlabelled_objective_reads_no_labels(name: str, codec, tmp_path) -> None:
    """The loader has none to give, and labels that are put into a batch change no bit of loss or gradient."""
    [batch] = loader(codec)(0)
    assert set(batch) == {"tokens", "weight"} and batch["tokens"].shape == (4, T + 1)
    found = []
    for extra in ({}, {"labels": torch.tensor([0, 1, 1, 0])}, {"labels": torch.tensor([9, 9, 9, 9])}):
        o = objective(name, codec, tmp_path)
        torch.manual_seed(3)
        with torch.no_grad():
            prepared = o.prepare({**batch, **extra})
        loss, _ = o(prepared)
        loss.backward()
        moved = torch.cat([p.grad.flatten() for p in o.parameters() if p.grad is not None])
        found.append((float(loss.detach()), float(o.weight(prepared)), moved))
    assert found[0][1] > 0 and found[0][2].abs().sum() > 0
    for other in found[1:]:
        assert other[:2] == found[0][:2] and torch.equal(other[2], found[0][2])


def test_eight_objectives_are_served() -> None:
    assert len(EVERY) >= 8 and set(EVERY) <= set(registry.names("objectives"))
