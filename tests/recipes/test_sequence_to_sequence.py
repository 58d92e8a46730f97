"""The encoder-decoder recipes end to end, tiny: span corruption, then tasks with that base, then answers."""
import json
from pathlib import Path

import pytest

import meristem
from meristem.core.config import edit
from meristem.core.errors import RequestError
from meristem.corpus.curate import curate
from meristem.generate.seq2seq import answers
from meristem.hub import hf
from meristem.objectives.span_corruption import lengths
from meristem.recipes import recipes
from meristem.train.run import pretrain

TINY = {"train.compile": False, "train.warmup": 2, "train.batch": 4}
SHAPE = {"model.dim": 32, "model.layers": 1, "model.heads": 2, "model.head_dim": 16, "model.hidden": 64}


def test_the_recipe_of_t5_says_its_lengths() -> None:
    assert lengths(recipes()["t5"]().train.context) == (256, 58)


def test_from_text_to_tasks_to_answers(real_files: Path, tmp_path: Path) -> None:
    corpus = curate([real_files], tmp_path / "corpus", limit_bytes=200_000)
    base = edit(recipes()["t5"](), {**TINY, **SHAPE, "data.corpus": str(corpus.folder), "data.codec.vocab": 400,
                                    "train.steps": 6, "train.sample_every": 3, "train.context": 100})
    pretrain(base, tmp_path / "base")
    log = [json.loads(line) for line in (tmp_path / "base" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["validation"] > 0 and " -> " in (tmp_path / "base" / "samples.jsonl").read_text()
    assert log[0]["targets"] == 4 * lengths(100)[1]
    tasks = [{"input": f"say {a} or {b}", "target": a} for a in ("yes", "no") for b in map(str, range(40))]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    tune = edit(recipes()["flan"](), {**TINY, "base": str(tmp_path / "base"), "train.context": 60, "train.steps": 100,
                                      "train.lr": 1e-2, "data.corpus": str(tmp_path / "tasks.jsonl")})
    pretrain(tune, tmp_path / "tuned")
    loaded = hf.load(tmp_path / "tuned")
    assert loaded.family == "t5" and loaded.config.head == "lm"
    assert answers(loaded.module, loaded.codec, ["say yes or 7", "say no or 12"], length=4) == ["yes", "no"]
    model = meristem.load(tmp_path / "tuned")
    assert model.generate("say no or 3", length=4, temperature=0.0) == "no"
    with pytest.raises(RequestError, match="neither score nor embed a text"):
        model.score("say no or 3")
