"""SCAN: commands to actions, on commands like those of training, and on longer ones than any.

    python -m benchmarks.scan --scan SCAN --out runs/scan [EDIT=VALUE ...]

SCAN: a folder with the gzipped files of Lake & Baroni 2018 (https://arxiv.org/abs/1711.00350). Splits: `simple`
(random) and `length` (training has at most 22 actions, the test more). Their third, a word that training has only
alone, is left out: it asks for that row a thousand times, and a corpus keeps no exact copies. An action is a letter.
Recipe text_to_text, trained from scratch for each split; exact matches over a seeded choice of test rows with Wilson's
interval. The same call goes on where it was; the table is benchmarks/results/scan.json.
"""
import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.common import record
from benchmarks.text_to_text import Rows, run
from meristem.core.config import edit, parse_edits
from meristem.core.random import seed_of
from meristem.evals.statistics import wilson
from meristem.generate.seq2seq import answers
from meristem.hub import hf
from meristem.recipes import recipes

LETTERS = {"I_TURN_RIGHT": "r", "I_TURN_LEFT": "l", "I_WALK": "w", "I_LOOK": "k", "I_RUN": "n", "I_JUMP": "j"}
LONGEST = 22                            # actions in training (length)
ASKED = 500


def read(path: Path) -> Rows:
    """(command, letters of its actions) of a file."""
    rows = []
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        command, _, actions = line.removeprefix("IN: ").partition(" OUT: ")
        rows.append((command.strip(), "".join(LETTERS[one] for one in actions.split())))
    return rows


def splits(folder: Path) -> dict[str, tuple[Rows, Rows]]:
    """Training and test rows of each split."""
    train, test = (read(folder / f"tasks_{part}_simple.txt.gz") for part in ("train", "test"))
    short = [row for row in train + test if len(row[1]) <= LONGEST]
    return {"simple": (train, test), "length": (short, read(folder / "tasks_test_length.txt.gz"))}


def main() -> None:
    """All splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", nargs="*", metavar="EDIT=VALUE")
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/scan"))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    recipe = edit(recipes()["text_to_text"](), {"seed": a.seed, "train.compile": False, **parse_edits(a.edits)})
    table = {}
    for name, (train, test) in splits(a.scan).items():
        assert not {command for command, _ in train} & {command for command, _ in test}
        start = time.process_time()
        folder, passes = run(name, train, a.out, recipe)
        asked = [test[i] for i in np.random.default_rng(seed_of(a.seed, "scan")).permutation(len(test))[:ASKED]]
        loaded = hf.load(folder)
        assert loaded.codec is not None
        said = answers(loaded.module, loaded.codec, [command for command, _ in asked], length=LONGEST * 2 + 8)
        right = sum(one == actions for one, (_, actions) in zip(said, asked, strict=True))
        interval = wilson(right, len(asked))
        table[name] = {"exact": right / len(asked), "interval": [round(interval.low, 3), round(interval.high, 3)],
                       "n": len(asked), "train": len(train), "passes": round(passes, 2),
                       "cpu_minutes": round((time.process_time() - start) / 60, 2)}
        print(json.dumps({name: table[name]}), flush=True)
    record("scan", {"seed": a.seed, "steps": recipe.train.steps, "splits": table})


if __name__ == "__main__":
    main()
