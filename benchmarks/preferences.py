"""What people preferred: a reward model, DPO and its kin on held-out pairs, beside what needs no network (D-10, D-11).

    python -m benchmarks.preferences harmless-base.test.jsonl.gz --out runs/preferences [--losses dpo ipo] [--tiny]

The file is Anthropic's hh-rlhf (chosen and rejected conversations), three pairs of ten held out. A base model learns
the assistant's words of the training split; from it a reward model and one model for each loss are trained on the same
pairs. Each is asked the pairs of the test split: how often is the chosen answer's reward the larger (for DPO the reward
is beta log p / p_0; for ORPO and SimPO log p per token), with Wilson's interval. Baselines: the longer answer, the
shorter one, and the base model's own log p per token. The table is benchmarks/results/preferences.json.
"""
import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation import write
from benchmarks.common import record
from meristem.core.config import edit
from meristem.corpus.dialogues import normal
from meristem.corpus.labelled import labelled
from meristem.data.conversations import Fields, Reader
from meristem.evals.statistics import wilson
from meristem.generate.answers import answers
from meristem.hub import hf
from meristem.objectives.reward import judge
from meristem.recipes import recipes
from meristem.train.hooks import read_log
from meristem.train.run import pretrain

REFERENCED = ("dpo", "ipo")
HELD, CHECKED = 0.3, 60                 # the share of pairs that is asked about; how many watch the training
LONGEST = 1200                          # characters of a conversation with its answer: two fit a row


def prepare(source: Path, out: Path) -> tuple[Path, Path, int]:
    """Pairs by split, and the conversations of those to train on, as rows; and how many pairs were left out."""
    rows, left = [], 0
    with gzip.open(source, "rt", encoding="utf-8") as f:
        for line in f:
            row = normal(json.loads(line))
            if isinstance(row, str) or len(row["text"]) > LONGEST:
                left += 1
                continue
            rows.append({key: row[key] for key in ("messages", "chosen", "rejected")})
    order = np.random.default_rng(0).permutation(len(rows))
    test = round(HELD * len(rows))
    given = [rows[i] for i in order[test + CHECKED:]]          # the base must not read the pairs it is judged on
    pairs, chats = write(out / "pairs", {"train": given, "validation": [rows[i] for i in order[test:test + CHECKED]],
                                         "test": [rows[i] for i in order[:test]]}), out / "chats.jsonl"
    whole = [[*row["messages"], {"role": "assistant", "content": row["chosen"]}] for row in given]
    chats.write_text("".join(json.dumps({"messages": one}) + "\n" for one in whole))
    return pairs, chats, left


def per_token(run: Path, rows: list[Fields], mean: bool) -> np.ndarray:
    """log p of the chosen and the rejected answer of each row, [N, 2]; their mean over tokens, or the sum."""
    loaded = hf.load(run)
    assert loaded.codec is not None
    reader = Reader(loaded.codec, loaded.chat)
    read = [reader.answered(row, row[key]) for row in rows for key in ("chosen", "rejected")]
    limit = loaded.config.context
    asked = [(one.tokens[~one.own], one.tokens[one.own]) for one in read]
    fit = [n for n, (prompt, answer) in enumerate(asked) if len(prompt) + len(answer) <= limit]
    made = dict(zip(fit, answers(loaded.module, [asked[n] for n in fit]), strict=True))
    return np.array([(made[n].logprobs.mean() if mean else made[n].logprobs.sum()) if n in made else np.nan
                     for n in range(len(asked))]).reshape(-1, 2)


def share(margin: np.ndarray) -> dict[str, Any]:
    """How often a margin is above 0 (half of the ties), with its interval; pairs that did not fit are left out."""
    known = margin[~np.isnan(margin)]
    hits = round(float((known > 0).sum() + (known == 0).sum() / 2))
    interval = wilson(hits, len(known))
    return {"accuracy": hits / len(known), "low": interval.low, "high": interval.high, "n": len(known)}


def main() -> None:
    """Prepare, train, ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--losses", nargs="*", default=["dpo"])
    parser.add_argument("--steps", type=int, default=120, help="of the reward model and of each loss")
    parser.add_argument("--lr", type=float, default=1e-4, help="of each loss")
    parser.add_argument("--beta", type=float, default=0.1, help="how much a loss keeps to the base")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it runs")
    given = parser.parse_args()
    start, tiny = time.process_time(), given.tiny
    pairs, chats, left = prepare(given.pairs, given.out)
    common = {"seed": given.seed, "train.compile": False, "train.context": 512, "train.batch": 2 if tiny else 16}
    base = pretrain(edit(recipes()["sft"](), {**common, "data.corpus": str(chats), "data.codec.vocab": 2048,
                                              "train.steps": 2 if tiny else 400, "train.optimizer": "muon",
                                              "train.lr": 1e-2}), given.out / "base")
    more = {**common, "base": str(base), "data.corpus": str(pairs), "train.steps": 2 if tiny else given.steps}
    test = [d.fields for d in labelled(pairs).documents("test")]
    test = test[:8] if tiny else test
    size = np.array([[len(row["chosen"]), len(row["rejected"])] for row in test], dtype=float)
    first = {mean: per_token(base, test, mean) for mean in (True, False)}
    table = {"the longer answer": share(size[:, 0] - size[:, 1]), "the shorter answer": share(size[:, 1] - size[:, 0]),
             "base, log p per token": share(first[True][:, 0] - first[True][:, 1])}
    run = pretrain(edit(recipes()["reward"](), more), given.out / "reward")
    loaded = hf.load(run)
    assert loaded.codec is not None
    reader = Reader(loaded.codec, loaded.chat)
    scores = np.array(judge(run)([reader.answered(row, row[key]).tokens for row in test for key in
                                  ("chosen", "rejected")])).reshape(-1, 2)
    table["reward model"] = share(scores[:, 0] - scores[:, 1])
    for loss in given.losses:
        run = pretrain(edit(recipes()["dpo"](), {**more, "objective.loss": loss, "objective.beta": given.beta,
                                              "train.lr": given.lr}),
                       given.out / loss)
        mean = loss not in REFERENCED
        after = per_token(run, test, mean) - (0 if mean else first[False])
        log = read_log(run / "log.jsonl")
        table[loss] = {**share(after[:, 0] - after[:, 1]), "first loss": log[0]["loss"], "last loss": log[-1]["loss"]}
    record("preferences-tiny" if tiny else "preferences", {
        "left out": left, "held-out pairs": table, "cpu_minutes": (time.process_time() - start) / 60})


if __name__ == "__main__":
    main()
