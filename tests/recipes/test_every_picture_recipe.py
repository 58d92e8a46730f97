"""Every recipe of pictures the whole way: broken off and resumed to the same bits, adapted, evaluated, reported, asked.

Slow: `pytest -m slow tests/recipes/test_every_picture_recipe.py`; the fast tests do parts of it in smaller shapes.
"""
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meristem.cli.main import main
from meristem.codecs.image import encode
from meristem.core import faults
from meristem.core.errors import RequestError
from meristem.core.run import Run
from meristem.data import edits, objects, scenes
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.recipes import resolve
from meristem.train.run import pretrain

pytestmark = pytest.mark.slow
QUICK = {"train.steps": 4, "train.batch": 8, "train.warmup": 1, "train.save_seconds": 0.0, "train.compile": False,
         "train.sample_every": 2}
TOWER = {"dim": 32, "layers": 1, "heads": 2}
VIT = {"model.image": 16, "model.dim": 32, "model.layers": 1}
UNET = {"model.image": 16, "model.channels": [16, 32], "model.attention": [False, True], "model.head_dim": 16}
MINI: dict[str, dict[str, Any]] = {                            # a later stage names the runs of earlier ones
    "vit": VIT,
    "resnet": {"model.image": 16, "model.stem": 8, "model.widths": [8, 16], "model.depths": [1, 1]},
    "dino": {**VIT, "model.patch": 4, "model.heads": 2, "objective.prototypes": 32, "objective.hidden": 32,
             "objective.local": 1},
    "clip": {"model.image": 16, "model.project": 32, "model.text": TOWER, "model.vision": TOWER},
    "autoencoder": {"model.image": 16, "model.channels": [16, 32]},
    "diffusion": {**UNET, "model.classes": 49},
    "latent_diffusion": {"model.channels": [16, 32], "model.head_dim": 16, "model.classes": 49,
                         "objective.autoencoder": "RUNS/autoencoder"},
    "super_resolution": {**UNET, "objective.low": 4},
    "instruct": {"model.channels": [16, 32], "model.cross": 32, "objective.text": "RUNS/clip",
                 "data.codec.name": "saved", "data.codec.folder": "RUNS/clip"},
    "dvae": {"model.channels": [16, 32]},
    "dalle": {"model.dim": 32, "model.layers": 1, "objective.autoencoder": "RUNS/dvae"},
    "prior": {"model.width": 32, "model.dim": 32, "model.layers": 1, "objective.clip": "RUNS/clip"},
    "unclip": {"model.channels": [16, 32], "model.embedding": 32, "model.cross": 32, "objective.clip": "RUNS/clip",
               "objective.prior": "RUNS/prior"},
    "sam": {"model.image": 16, "model.patch": 4, "model.dim": 32, "model.layers": 1, "model.width": 32,
            "model.decoder_hidden": 32},
}
ADAPTED: dict[str, dict[str, Any]] = {"resnet": {"adapt.where": "head"}}        # its only linear layer
CONVOLUTIONS = {"dvae"}                                        # no linear layer at all: nothing for LoRA
TASKS = {"vit": "classes", "resnet": "classes", "dino": "knn", "clip": "retrieval,zero_shot", "diffusion": "frechet",
         "latent_diffusion": "frechet", "dalle": "caption_consistency=RUNS/vit", "unclip": "frechet", "sam": "masks"}
ASKED = {                                                      # what `generate` is asked, and whether with PICTURE
    "diffusion": (["red circle", "--steps", "2", "--guidance", "2", "--seed", "1"],
                  ["red circle", "--edit", "PICTURE", "--mask", "MASK", "--steps", "2"],
                  ["", "--variations", "PICTURE", "--steps", "2"]),
    "latent_diffusion": (["red circle", "--steps", "2"], ["red circle", "--edit", "PICTURE", "--mask", "MASK",
                                                           "--steps", "2"], ["", "--variations", "PICTURE"]),
    "super_resolution": (["", "--enlarge", "PICTURE", "--steps", "2"],),
    "instruct": (["make it night", "--edit", "PICTURE", "--steps", "2"],),
    "dalle": (["a red circle", "--guidance", "2"], ["a red circle", "--edit", "PICTURE", "--mask", "MASK"]),
    "unclip": (["a red circle", "--steps", "2"], ["", "--variations", "PICTURE", "--steps", "2"],
               ["a blue circle", "--avoid", "a red circle", "--edit", "PICTURE", "--strength", "0.5", "--steps", "2"]),
    "sam": (["--segment", "PICTURE", "--click", "8,8"],),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora, a picture and a mask; runs come as they are asked for."""
    folder = tmp_path_factory.mktemp("pictures")
    one = {"documents": 48, "side": 16}
    scenes.make(folder / "scenes", {**one, "objects": 1, "held_out": 0.0})
    edits.make(folder / "edits", one)
    objects.make(folder / "objects", {**one, "most": 2})
    rng = np.random.default_rng(0)
    (folder / "picture.png").write_bytes(encode(rng.integers(0, 256, (3, 16, 16), dtype=np.uint8)))
    mask = np.zeros((1, 16, 16), dtype=np.uint8)
    mask[:, 4:12, 4:12] = 255
    (folder / "mask.png").write_bytes(encode(mask))
    return folder


@pytest.fixture(scope="module")
def finished(root: Path) -> Callable[[str], Path]:
    """The run of a recipe, broken off once and gone on with, after the runs that it names."""
    def one(name: str) -> Path:
        out = root / "runs" / name
        if not (out / "result.json").exists():
            for value in MINI[name].values():
                if str(value).startswith("RUNS/"):
                    one(str(value).removeprefix("RUNS/"))
            faults.arm("step.end:2:error")
            with pytest.raises(OSError, match="injected"):
                pretrain(recipe(name, root), out)
            faults.arm("")
            pretrain(recipe(name, root), out)
        return out
    return one


def recipe(name: str, root: Path, **more: Any) -> Run:
    """Small, on its corpus."""
    data = {"instruct": "edits", "sam": "objects"}.get(name, "scenes")
    edited = {key: named(value, root) for key, value in MINI[name].items()}
    return resolve(name, {**QUICK, **edited, "data.corpus": str(root / data), **more})[0]


def named(value: Any, root: Path) -> Any:
    """RUNS, PICTURE and MASK as paths."""
    places = {"RUNS": root / "runs", "PICTURE": root / "picture.png", "MASK": root / "mask.png"}
    for word, path in places.items() if isinstance(value, str) else ():
        value = value.replace(word, str(path))
    return value


@pytest.mark.parametrize("name", MINI)
def test_the_whole_way(name: str, root: Path, finished: Callable[[str], Path], tmp_path: Path,
                       capsys: pytest.CaptureFixture[str]) -> None:
    broken, whole = finished(name), pretrain(recipe(name, root), tmp_path / "whole")
    one, two = (Tensors.open(folder / "model") for folder in (broken, whole))
    assert sorted(one) == sorted(two) and all(torch.equal(one[key], two[key]) for key in one)

    more = {"base": str(broken), "adapt.name": "lora", "adapt.rank": 2, "train.lr": 0.01, **ADAPTED.get(name, {})}
    if name in CONVOLUTIONS:
        with pytest.raises(RequestError, match="no Linear layer"):
            pretrain(recipe(name, root, **more), tmp_path / "tuned")
    else:
        tuned = pretrain(recipe(name, root, **more), tmp_path / "tuned")
        before, after = (hf.load(folder).module.state_dict() for folder in (broken, tuned))
        moved = [key for key in before if not torch.equal(before[key], after[key])]
        assert moved and len(moved) < len(before) and any((tuned / "adapter").glob("*.safetensors"))

    def call(*words: str) -> None:
        status = main([named(word, root) for word in words])
        assert status == 0, capsys.readouterr().err

    corpus = str(recipe(name, root).data.corpus)
    if name in TASKS:
        for judge in re.findall(r"RUNS/(\w+)", TASKS[name]):
            finished(judge)
        call("evaluate", str(broken), "--corpus", corpus, "--tasks", TASKS[name], "--limit", "4")
        assert list((broken / "evals").glob("*.json"))
    call("card", str(broken))
    page = (broken / "report.html").read_text()
    assert "<svg" in page and ("data:image/png" in page) == any((broken / "samples").glob("*.png"))
    for number, words in enumerate(ASKED.get(name, ())):
        out = tmp_path / f"{number}.png"
        call("generate", str(broken), *words, "--out", str(out))
        assert out.read_bytes().startswith(b"\x89PNG")
