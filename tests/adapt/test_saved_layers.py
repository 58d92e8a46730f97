"""Layers trained whole beside an adapter: a new head under LoRA is trained, saved, opened again, read by PEFT."""
import json
import warnings
from pathlib import Path

import peft
import pytest
import torch

import meristem
from meristem.adapt import base, files
from meristem.core.config import Part
from meristem.core.errors import RequestError
from meristem.core.run import Data, Run, Train
from meristem.hub import hf
from meristem.train.run import pretrain
from tests.adapt import methods


@pytest.mark.parametrize("family", ["vit", "llama"])
def test_a_head_is_saved_in_pefts_layout_and_read_again(family: str, tmp_path: Path) -> None:
    module = methods.attach(methods.small(family), "lora", rank=2)
    base.keep(module, "head")
    methods.shaken(module)
    assert module.head.weight.requires_grad and not module.blocks[0].mlp.up.base.weight.requires_grad
    want = methods.output(module, family)
    files.save(tmp_path / "a", module, family, "h", "base")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == [{"vit": "classifier", "llama": "lm_head"}[family]]
    again = files.load(tmp_path / "a", methods.small(family), family, "h")
    torch.testing.assert_close(methods.output(again, family), want)
    assert again.head.weight.requires_grad and list(base.kept(again)) == ["head"]
    theirs = methods.theirs(tmp_path / "base", methods.small(family), family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.PeftModel.from_pretrained(theirs, tmp_path / "a").eval()
    given = {"pixel_values": methods.PIXELS} if family == "vit" else {"input_ids": methods.TOKENS}
    torch.testing.assert_close(wrapped(**given).logits, want, rtol=1e-4, atol=1e-5)
    if family == "llama":                                      # and back
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped.save_pretrained(tmp_path / "b")
        back = files.load(tmp_path / "b", methods.small(family), family, "h")
        torch.testing.assert_close(methods.output(back, family), want)


def test_what_cannot_be_saved_whole_is_one_line() -> None:
    module = methods.attach(methods.small("llama"), "lora", rank=2)
    for where, line in (("haed", "did you mean head"), (r".*\.q", "has an adapter")):
        with pytest.raises(RequestError, match=line):
            base.keep(module, where)
    with pytest.raises(RequestError, match="shares its weight"):
        base.keep(methods.small("gpt2"), "head")


def test_a_run_with_a_new_head_leaves_an_adapter_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for number, split in enumerate(("train", "validation", "test")):
        rows = [{"text": f"{word} {12 * number + n}", "label": word} for n in range(12) for word in ("good", "bad")]
        (tmp_path / "rows" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = Train(steps=3, batch=4, context=16, lr=3e-2, warmup=1, dtype="float32", compile=False, guard=False)
    data = Data(str(tmp_path / "rows"), Part("wordpiece", {"vocab": 60}))
    shape = {"dim": 32, "layers": 1, "heads": 2, "hidden": 64, "context": 16, "head": "lm"}
    pretrain(Run("base", Part("bert", shape), Part("masked"), data, train), tmp_path / "base")
    run = Run("classes", Part("bert", {"head": "sequence"}), Part("classify"),
              Data(str(tmp_path / "rows"), examples="labels"), train, base=str(tmp_path / "base"),
              adapt=Part("bottleneck", {"size": 2}))
    out = pretrain(run, tmp_path / "out")
    assert not (out / "model").exists()                        # no plain weights compute a bottleneck
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["dense", "classifier"]
    opened = meristem.load(out)
    assert opened.config.labels == ("bad", "good") and opened.classify("good 3")["good"] != 0.5
    again = meristem.load(out / "adapter")
    assert again.classify("good 3") == opened.classify("good 3")
    head = opened.module.head.weight
    assert not torch.equal(head, hf.load(tmp_path / "base").module.embed.weight[:2])
