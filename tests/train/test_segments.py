"""Segment Anything goes through the same run as text: killed and resumed, adapted, written, asked from the shell."""
import json
import signal
from pathlib import Path

import pytest
import torch

from meristem.cli.main import main
from meristem.codecs.image import decode
from meristem.core.config import Part, edit, to_dict
from meristem.core.files import read_json
from meristem.corpus.pictures import Tar
from meristem.corpus.store import Corpus
from meristem.data.objects import make
from meristem.hub import hf
from meristem.hub.tensors import Tensors
from meristem.recipes import resolve
from meristem.train.run import pretrain
from tests.starter import killed

EDITS = {"train.steps": 6, "train.batch": 4, "train.compile": False, "train.warmup": 1, "train.save_seconds": 0.0,
         "train.sample_every": 3,
         "model.image": 16, "model.patch": 4, "model.dim": 32, "model.layers": 1, "model.width": 32, "model.window": 2,
         "model.decoder_hidden": 32}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make(tmp_path_factory.mktemp("objects") / "corpus", {"documents": 40, "side": 16, "most": 2})


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, _ = resolve("sam", {**EDITS, "data.corpus": str(corpus.folder)})
    return pretrain(run, tmp_path_factory.mktemp("runs") / "sam")


def test_a_run_that_is_killed_ends_in_the_same_bits(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((trained / "recipe.json").read_bytes())
    assert killed(tmp_path / "run.json", tmp_path / "killed", "step.end:4:kill") == -signal.SIGKILL
    again = pretrain(resolve(str(tmp_path / "run.json"))[0], tmp_path / "killed")
    one, two = (Tensors.open(folder / "model") for folder in (trained, again))
    assert sorted(one) == sorted(two) and all(torch.equal(one[name], two[name]) for name in one)
    result = read_json(trained / "result.json")
    assert result["step"] == 6 and result["validation"] > 0 and result["flops"] > 0
    assert hf.load(trained).family == "sam"
    shown = decode((trained / "samples" / "3.png").read_bytes())               # masks over held-out pictures
    assert shown.shape[0] == 3 and shown.shape[1] >= 2 * 16 and shown.std() > 0


def test_an_adapter_changes_the_model_and_lies_beside_it(corpus: Corpus, trained: Path, tmp_path: Path) -> None:
    run, _ = resolve("sam", {**EDITS, "data.corpus": str(corpus.folder), "base": str(trained)})
    run = edit(run, {"train.steps": 2, "adapt.name": "lora", "adapt.rank": 2})
    assert run.adapt == Part("lora", {"rank": 2}) and to_dict(run)["base"]
    folder = pretrain(run, tmp_path / "adapted")
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    before, after = (Tensors.open(f / "model") for f in (trained, folder))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("qkv" in n or "proj" in n or "lin" in n for n in changed)


def test_masks_from_the_shell(corpus: Corpus, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    document = next(corpus.documents("test"))
    picture = tmp_path / "a.png"
    picture.write_bytes(Tar(corpus.folder / "test.tar")[document.fields["image"]])
    for words, count in ((["--click", "8,8"], 3), (["--box", "2,2,12,12"], 1),
                         (["--click", "8,8", "--click", "7,7", "--away", "0,0"], 1), ([], None)):
        out = tmp_path / "masks.png"
        assert main(["generate", str(trained), "--segment", str(picture), "--out", str(out), *words, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert count is None or len(facts["masks"]) == count
        assert decode(out.read_bytes()).shape[1] == 16 + 4
        assert [m["quality"] for m in facts["masks"]] == sorted((m["quality"] for m in facts["masks"]), reverse=True)
    assert main(["generate", str(trained), "--segment", str(picture), "--out", str(out), "--click", "8,99"]) == 2
    assert "x,y in pixels from 0 to 15" in capsys.readouterr().err
