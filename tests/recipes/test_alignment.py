"""From a base to a policy: instruction tuning, a reward model, preferences and GRPO as recipes, one on the other."""
import json
from pathlib import Path

import pytest

from meristem.core.config import edit
from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.hub import hf
from meristem.objectives.reward import judge
from meristem.recipes import recipes
from meristem.train.hooks import read_log
from meristem.train.run import pretrain

QUICK = {"train.batch": 2, "train.steps": 3, "train.context": 64, "train.warmup": 1, "train.compile": False,
         "train.dtype": "float32", "train.validate_every": 0}
SMALL = {"dim": 16, "layers": 1, "heads": 2, "groups": 1, "hidden": 32}


def rows(folder: Path, name: str, made) -> str:
    for split, start, count in (("train", 0, 20), ("validation", 20, 3), ("test", 23, 3)):
        (folder / name).mkdir(exist_ok=True)
        lines = [json.dumps(made(n)) + "\n" for n in range(start, start + count)]
        (folder / name / f"{split}.jsonl").write_text("".join(lines))
    return str(folder / name)


def test_one_after_the_other(tmp_path: Path) -> None:
    def ask(n: int) -> list[dict]:
        return [{"role": "user", "content": f"what is {n} and one?"}]
    chats = rows(tmp_path, "chats", lambda n: {"messages": [*ask(n), {"role": "assistant", "content": f"{n + 1}"}]})
    pairs = rows(tmp_path, "pairs", lambda n: {"prompt": ask(n), "chosen": f"{n + 1}", "rejected": "no"})
    asked = rows(tmp_path, "asked", lambda n: {"prompt": ask(n), "answer": f"{n + 1}"})
    shape = {f"model.{key}": value for key, value in SMALL.items()}
    sft = pretrain(edit(recipes()["sft"](), {**QUICK, **shape, "data.corpus": chats, "data.codec.vocab": 300}),
                   tmp_path / "sft")
    assert hf.load(sft).chat is not None                       # the template goes with the model
    runs = {name: edit(recipes()[name](), {**QUICK, "base": str(sft), "data.corpus": pairs}) for name in
            ("reward", "dpo")}
    scored = pretrain(runs["reward"], tmp_path / "reward")
    assert len(judge(scored)([hf.load(scored).codec.encode("and one")])) == 1
    pretrain(edit(runs["dpo"], {"adapt": {"name": "lora"}}), tmp_path / "dpo")
    first = read_log(tmp_path / "dpo" / "log.jsonl")[0]
    assert abs(first["loss"] - 0.693147) < 1e-6 and first["margin"] == 0
    for name, reward in (("grpo", "exact"), ("ppo", str(scored))):
        run = edit(recipes()[name](), {**QUICK, "base": str(sft), "data.corpus": asked, "objective.length": 8,
                                       "objective.reward": reward, "train.steps": 2})
        log = read_log(pretrain(run, tmp_path / name) / "log.jsonl")
        assert log[0]["ratio"] == 1 and log[0]["tokens_each"] >= 1 and "reward" in log[0]
        assert read_json(tmp_path / name / "result.json")["validation"] is not None
    with pytest.raises(RequestError, match="no judged answers"):
        pretrain(edit(runs["dpo"], {"data.corpus": chats}), tmp_path / "wrong")
    with pytest.raises(RequestError, match="holds no reward model"):
        judge(sft)
