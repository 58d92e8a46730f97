"""Adaptation as a run: every method trains, resumes, is opened again, and what the base forgot is told."""
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import meristem
from meristem.cli.main import main
from meristem.core.config import Part, edit
from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.core.run import Data, Run, Train
from meristem.corpus.curate import curate
from meristem.evals.subject import Subject
from meristem.train import forgetting
from meristem.train.run import assemble, pretrain

SHAPE = Train(steps=3, batch=16, context=32, lr=3e-2, warmup=1, validate_every=0, dtype="float32", compile=False)
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2}, "qlora": {"rank": 2}, "ia3": {}, "bottleneck": {"size": 2},
    "prefix": {"length": 4, "text": "def "}, "prompt": {"length": 4}, "gated_prefix": {"length": 2}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, real_files: Path) -> tuple[Path, Run]:
    """A trained little model and the run that adapts it."""
    folder = tmp_path_factory.mktemp("adapted")
    curate(sorted(real_files.iterdir())[:12], folder / "corpus")
    shape = {"dim": 32, "layers": 2, "heads": 2, "groups": 2, "hidden": 64, "context": 64}
    run = Run("base", Part("llama", shape), data=Data(str(folder / "corpus"), Part("bpe", {"vocab": 300})), train=SHAPE)
    pretrain(run, folder / "base")
    return folder, edit(run, {"name": "fill", "base": str(folder / "base"), "train.steps": 4})


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_every_method(method: str, base: tuple[Path, Run], tmp_path: Path) -> None:
    folder, run = base
    run = edit(run, {"adapt.name": method, **{f"adapt.{k}": v for k, v in METHODS[method].items()}})
    out = pretrain(run, tmp_path / "out")
    result = read_json(out / "result.json")
    kept = result["forgetting"]
    assert kept["on"] == "held-out data of corpus, by next_token" and kept["after"] != kept["before"]
    whole = method in ("lora", "qlora", "ia3")
    assert (out / "model" / "config.json").is_file() == whole and (out / "adapter" / "adapter_config.json").is_file()
    text = "def one(x):\n    return x\n"
    model, adapted = meristem.load(out), meristem.load(out / "adapter")
    assert model.score(text).nats == pytest.approx(adapted.score(text).nats, abs=1e-3)
    assert abs(model.score(text).nats - meristem.load(folder / "base").score(text).nats) > 1e-4
    subject = Subject.open(out)
    assert subject.model_hash == result["model"] and subject.folder == out and subject.name == "out"


def test_full_and_frozen_by_name(base: tuple[Path, Run], tmp_path: Path) -> None:
    """No method: every weight is trained but those a regex freezes; forgetting is told as well."""
    folder, run = base
    run = edit(run, {"train.groups": [{"match": r"embed|head|blocks\.0\.", "freeze": True}]})
    out = pretrain(run, tmp_path / "out")
    old, new = (meristem.load(f).module.state_dict() for f in (folder / "base", out))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed and all(name.startswith(("blocks.1.", "norm")) for name in changed)
    assert read_json(out / "result.json")["forgetting"]["rise"] != 0


def test_lora_plus_is_a_row_of_groups(base: tuple[Path, Run], tmp_path: Path) -> None:
    """B learns 16 times as fast: the first steps of Adam are as long as the learning rate."""
    def length(match: str, lr: float) -> float:
        _, run = base
        wanted = edit(run, {"adapt.name": "lora", "adapt.rank": 2, "train.steps": 1, "train.lr": 1e-4,
                            "train.weight_decay": 0.0, "train.groups": [{"match": match, "lr": lr}]})
        pretrain(wanted, tmp_path / f"{lr}")
        module = meristem.load(tmp_path / f"{lr}" / "adapter").module
        return max(t.abs().max().item() for n, t in module.named_parameters() if n.endswith(".b"))
    assert length(r"\.b$", 16.0) == pytest.approx(16 * length(r"\.b$", 1.0), rel=0.01)


def test_a_base_without_its_run_is_judged_on_its_own_texts(base: tuple[Path, Run], tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    folder, run = base
    monkeypatch.setattr(forgetting, "TEXTS", 8)
    monkeypatch.setattr(forgetting, "LENGTH", 8)
    meristem.save(meristem.load(folder / "base"), tmp_path / "alone")
    out = pretrain(edit(run, {"base": str(tmp_path / "alone"), "adapt.name": "lora"}), tmp_path / "out")
    kept = read_json(out / "result.json")["forgetting"]
    assert kept["on"] == "8 texts that it wrote itself" and kept["after"] > kept["before"]


def test_adapting_is_resumed_bit_for_bit(base: tuple[Path, Run], tmp_path: Path) -> None:
    for method in ("prefix", "gated_prefix", "qlora"):
        run = edit(base[1], {"adapt.name": method})
        whole = pretrain(run, tmp_path / f"{method}-whole")
        cut = tmp_path / f"{method}-cut"
        from meristem.train import trainer
        saved = trainer.Trainer.update
        calls: list[int] = []

        def stop(self: Any, micro: Any, saved: Any = saved, calls: list[int] = calls) -> Any:
            calls.append(self.step)
            if len(calls) == 3:
                self.save(wait=True)
                raise KeyboardInterrupt
            return saved(self, micro)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(trainer.Trainer, "update", stop)
            pretrain(run, cut)
        pretrain(run, cut)
        name = "adapter/adapter_model.safetensors"
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), method


def test_a_base_in_bf16_is_recognised(base: tuple[Path, Run], tmp_path: Path) -> None:
    folder, run = base
    model = meristem.load(folder / "base")
    model.module.bfloat16()
    meristem.save(model, tmp_path / "small")
    out = pretrain(edit(run, {"base": str(tmp_path / "small"), "adapt.name": "lora", "train.steps": 1,
                              "train.dtype": "bfloat16"}), tmp_path / "out")
    assert meristem.load(out / "adapter").family == "llama"


def test_bad_requests_are_one_line(base: tuple[Path, Run]) -> None:
    _, run = base
    with pytest.raises(RequestError, match="did you mean lora"):
        assemble(edit(run, {"adapt.name": "lorra"}))
    with pytest.raises(RequestError, match=r"rnak.*did you mean rank"):
        assemble(edit(run, {"adapt.name": "lora", "adapt.rnak": 4}))
    with pytest.raises(RequestError, match="exceed"):
        assemble(edit(run, {"adapt.name": "prefix", "adapt.length": 40, "train.context": 64})).objective.model(
            torch.zeros(1, 64, dtype=torch.long))


def test_the_run_names_its_adapter(base: tuple[Path, Run], tmp_path: Path) -> None:
    out = pretrain(edit(base[1], {"adapt.name": "prompt", "train.steps": 1}), tmp_path / "out")
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base[0] / "base")


def test_a_card_and_an_export_of_a_run_without_plain_weights(base: tuple[Path, Run], tmp_path: Path) -> None:
    out = pretrain(edit(base[1], {"adapt.name": "prefix", "adapt.length": 2, "train.steps": 1}), tmp_path / "out")
    assert main(["card", str(out)]) == 0 and "prefix" in (out / "adapter" / "README.md").read_text()
    text = "def one(x):\n    return x\n"
    assert main(["export", str(out), "--to", "hf", "--out", str(tmp_path / "peft")]) == 0
    assert meristem.load(tmp_path / "peft").score(text).nats == meristem.load(out).score(text).nats
    lora = pretrain(edit(base[1], {"adapt.name": "lora", "train.steps": 1}), tmp_path / "lora")
    assert main(["export", str(lora / "adapter"), "--to", "hf", "--out", str(tmp_path / "whole")]) == 0
    assert meristem.load(tmp_path / "whole").score(text).nats == pytest.approx(meristem.load(lora).score(text).nats)
