"""A step never mixes devices: every objective, moved to a device that holds no numbers, scores a batch made on the CPU.

No accelerator is needed: the meta device refuses a product with a CPU tensor, as a GPU does.
"""
from pathlib import Path

import pytest
import torch

from meristem.core import machine
from meristem.core.types import Batch
from meristem.data import objects, scenes
from meristem.objectives.base import Objective
from meristem.recipes import resolve
from meristem.train import devices
from meristem.train.run import assemble
from tests.objectives.test_interface import EVERY, UNLABELLED, codecs, labelled, loader, objective  # noqa: F401
from tests.train.test_pictures import EDITS, SMALL
from tests.train.test_segments import EDITS as SAM


def scored(o: Objective, batch: Batch) -> None:
    """One step as `Trainer.update` takes it, up to the gradients."""
    o.to("meta")
    for module in o.modules():                                 # counters that decide: a GPU tells them, meta cannot
        module._buffers.update({key: torch.zeros_like(x, device="cpu") for key, x in module._buffers.items()
                                if x is not None and not x.ndim and x.dtype == torch.int64})
    torch.manual_seed(0)
    with torch.no_grad():
        batch = o.prepare(batch)
    loss, facts = o(batch)
    assert loss.device.type == "meta" and all(value.device.type == "meta" for value in facts.values())
    loss.backward()
    assert all(p.grad.device.type == "meta" for p in o.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", EVERY)
def test_a_step_of_text_stays_on_its_device(name: str, codecs, tmp_path) -> None:  # noqa: F811
    codec = codecs["encoder" if EVERY[name][0] == "bert" else "decoder"]
    o = objective(name, codec, tmp_path)
    batch = loader(codec)(0)[0] if name in UNLABELLED else labelled(codec)[name][0]
    scored(o, batch)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, told = tmp_path_factory.mktemp("corpora"), {"documents": 24, "side": 16}
    return {"scenes": scenes.make(folder / "scenes", {**told, "held_out": 0.0, "objects": 1}).folder,
            "objects": objects.make(folder / "objects", {**told, "most": 2}).folder}


PICTURES = {**{name: ("scenes", fields) for name, fields in EDITS.items()},
            "dvae": ("scenes", {"model.channels": [16, 32]}),
            "sam": ("objects", {**SAM, "objective.rounds": 0})}


@pytest.mark.parametrize("name", PICTURES)
def test_a_step_of_pictures_stays_on_its_device(name: str, corpora: dict[str, Path]) -> None:
    which, fields = PICTURES[name]
    parts = assemble(resolve(name, {**SMALL, **fields, "data.corpus": str(corpora[which])})[0])
    scored(parts.objective, parts.source(0)[0])


def test_a_run_settles_where_it_computes_with_what_it_keeps_beside(codecs, tmp_path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(machine, "device", lambda: torch.device("meta"))
    o = objective("distillation", codecs["decoder"], tmp_path)
    devices.settle(o)
    assert o.device.type == "meta" and all(p.device.type == "meta" for p in o.teacher.parameters())
    stays = objective("next_token", codecs["decoder"], tmp_path)
    monkeypatch.setattr(type(stays), "anywhere", False)
    devices.settle(stays)
    assert stays.device.type == "cpu"


def test_what_rests_comes_back_as_it_was() -> None:
    model = torch.nn.Linear(3, 2).double()
    weight, numbers = model.weight, model.weight.detach().clone()
    with devices.resting(model):
        assert model.weight is weight
    assert model.weight is weight and torch.equal(weight, numbers)
