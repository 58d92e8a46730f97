"""Encoders that learn without labels, and what they are worth: rows A22 C7 A37 B5 B30 C17 C19 F10 H12 on digits.

    python -m benchmarks.self_supervised --out runs/self_supervised --mnist FOLDER [--rows A22,H12] [--tiny]

MNIST's files are those of `meristem curate toy:strokes folder=FOLDER`. Every run is small; one that is there goes on or
is not made again. Each row is printed as it is known, with the CPU minutes that it took, and all are written to
benchmarks/results/self_supervised.json. `--tiny` shows that everything works, on drawn digits.
"""
import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import record
from meristem.core.errors import MachineError
from meristem.corpus.labelled import labelled
from meristem.corpus.store import Corpus
from meristem.data import cues, strokes
from meristem.evals.base import Score
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.recipes import resolve
from meristem.train.run import pretrain

VIT = {"model.image": 28, "model.patch": 7, "model.dim": 96, "model.layers": 3, "model.heads": 3}
TUNED = {**VIT, "model.kind": "dinov2", "train.optimizer": "muon", "train.lr": 1e-2, "train.warmup": 20}
QUIET = {"train.compile": False, "train.context": 16, "train.batch": 64}
LABELS = (10, 50, 200, 1000)


class Bench:
    """The corpora and runs below one folder, each made when it is first asked for."""

    def __init__(self, out: Path, mnist: str, tiny: bool, seed: int):
        self.out, self.mnist, self.tiny, self.seed = out, mnist, tiny, seed
        self.limit = 40 if tiny else 2000

    def steps(self, count: int) -> int:
        """So many steps, or a few."""
        return 12 if self.tiny else count

    def corpus(self, name: str) -> Corpus:
        """mnist, drawn, cues or a "mnist-50": so many labels of it."""
        folder = self.out / "corpora" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        if name == "cues":
            return cues.make(folder, {"documents": 120 if self.tiny else 2000, "side": 28})
        if name == "drawn" or (name == "mnist" and self.tiny):
            return strokes.make(folder, {"documents": 200 if self.tiny else 4000, "seed": int(name == "mnist")})
        if name == "mnist":
            return strokes.make(folder, {"documents": 10_000, "folder": self.mnist})
        return self._fewer(int(name.removeprefix("mnist-")))

    def _fewer(self, count: int) -> Corpus:
        whole, rows = self.corpus("mnist").folder, self.out / "corpora" / f"mnist-{count}.rows"
        if not rows.is_dir():
            source = whole.with_name("mnist.rows")
            rows.mkdir(parents=True)
            lines = (source / "train.jsonl").read_text().splitlines()
            parts = {"train": lines[:count][:len(lines) // 2], "validation": lines[len(lines) // 2:][-200:],
                     "test": (source / "test.jsonl").read_text().splitlines()[:self.limit]}
            for split, some in parts.items():
                for text in some:
                    name = json.loads(text)["image"]
                    shutil.copyfile(source / name, rows / name)
                (rows / f"{split}.jsonl").write_text("\n".join(some) + "\n")
        return labelled(rows, rows.with_suffix(""))

    def run(self, name: str, recipe: str, corpus: str, edits: dict[str, Any]) -> Path:
        """The folder of a finished run."""
        more = {"data.corpus": str(self.corpus(corpus).folder), "seed": self.seed}
        return pretrain(resolve(recipe, {**QUIET, **edits, **more})[0], self.out / "runs" / name)

    def dino(self) -> Path:
        """The encoder that all rows share."""
        few = {"model.dim": 32, "model.layers": 1, "model.heads": 2} if self.tiny else {}
        return self.run("dino", "dino", "mnist", {**few, **({"train.steps": self.steps(0)} if self.tiny else {}),
                                                  "train.batch": resolve("dino")[0].train.batch})

    def untrained(self) -> Path:
        """The same encoder as it is drawn."""
        few = {"model.dim": 32, "model.layers": 1, "model.heads": 2} if self.tiny else {}
        return self.run("untrained", "dino", "mnist", {**few, "train.steps": 1, "train.lr": 1e-12, "train.ema": 0.0})

    def shape(self) -> dict[str, Any]:
        """Of a classifier that is the encoder with a head."""
        return {**TUNED, **({"model.dim": 32, "model.layers": 1, "model.heads": 2} if self.tiny else {}),
                "model.head": "image"}

    def judge(self, folder: Path, corpus: str, *tasks: str, against: Path | None = None) -> list[Score]:
        """Certificates."""
        other = Subject.open(against, "untrained") if against else None
        return evaluate(Subject.open(folder), self.corpus(corpus), tasks, limit=self.limit, against=other)


def features(b: Bench) -> dict[str, Any]:
    """A22, B30, C17: neighbours and probes of the encoder, of one that was never trained, and of the pixels."""
    scores = b.judge(b.dino(), "mnist", "knn", "linear_probe", against=b.untrained())
    log = [json.loads(text) for text in (b.dino() / "log.jsonl").read_text().splitlines()]
    return {**told(scores), "spread": [log[0]["spread"], log[-1]["spread"]], "steps": log[-1]["step"]}


def collapse(b: Bench) -> dict[str, Any]:
    """C7: without centre and KoLeo the run collapses, and says so."""
    edits = {**VIT, "model.dim": 32, "model.layers": 1, "model.heads": 2, "objective.centre": "none",
             "objective.koleo": 0.0, "objective.ibot": 0.0, "objective.local": 2, "train.steps": b.steps(500),
             "train.lr": 3e-3}
    try:
        folder = b.run("collapse", "dino", "drawn", edits)
    except MachineError as error:
        return {"ended": str(error)}
    return {"ended": "", "spread": json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["spread"]}


def tuning(b: Bench) -> dict[str, Any]:
    """B5: updates until the validation loss that a network from scratch ends with, on three tasks."""
    found = {}
    for corpus in ("mnist", "drawn", "mnist-200"):
        curves = {}
        for name, base in (("scratch", {}), ("pretrained", {"base": str(b.dino())})):
            steps = {"train.steps": b.steps(150), "train.validate_every": 5, "train.floor": 1.0}
            folder = b.run(f"tune-{corpus}-{name}", "vit", corpus, {**b.shape(), **steps, **base})
            lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
            curves[name] = {line["step"]: line["validation"] for line in lines if "validation" in line}
        target = min(curves["scratch"].values())
        needed = {name: next((step for step, loss in curve.items() if loss <= target), None)
                  for name, curve in curves.items()}
        found[corpus] = {"target": target, **needed}
    return found


def labels(b: Bench) -> dict[str, Any]:
    """F10: so many labels to the probe of the encoder (row A22's figures) and to the same network from scratch."""
    return {str(n): told(b.judge(b.run(f"scratch-{n}", "vit", f"mnist-{n}", {
        **b.shape(), "train.steps": b.steps(150), "train.batch": min(64, n)}), f"mnist-{n}", "classes"))
        for n in (LABELS[:1] if b.tiny else LABELS)}


def transfer(b: Bench) -> dict[str, Any]:
    """C19: trained on drawn digits, asked for real ones; beside it the forest that learned from real ones."""
    shape = b.shape()
    return {name: {**told(b.judge(folder, "mnist", "classes")),
                   "drawn": told(b.judge(folder, "drawn", "classes"))["classes"]["value"]}
            for name, folder in (("vit", b.run("vit-drawn", "vit", "drawn", {**shape, "train.steps": b.steps(300)})),
                                 ("resnet", b.run("resnet-drawn", "resnet", "drawn", {"train.steps": b.steps(200)})))}


def bias(b: Bench) -> dict[str, Any]:
    """A37, H12: turned digits, and shape against texture, for a ViT and a ResNet."""
    found = {}
    for recipe, shape, steps in (("vit", b.shape(), 300), ("resnet", {}, 200)):
        of = {corpus: b.run(f"{recipe}-{corpus}", recipe, corpus, {**shape, "train.steps": b.steps(steps)})
              for corpus in ("mnist", "cues")}
        found[recipe] = told([*b.judge(of["mnist"], "mnist", "classes", "rotation"),
                              *b.judge(of["cues"], "cues", "cue_conflict")])
    return found


def told(scores: list[Score]) -> dict[str, Any]:
    """Each score with its interval and what stands beside it."""
    return {s.name: {"value": round(s.value, 4), "interval": [round(s.interval.low, 4), round(s.interval.high, 4)],
                     "n": s.n, **{r.what: round(r.value, 4) for r in (s.baseline, *s.beside) if r},
                     **({"over untrained": round(s.paired.difference, 4), "p": s.paired.p} if s.paired else {})}
            for s in scores}


ROWS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "A22": features, "C7": collapse, "B5": tuning, "F10": labels, "C19": transfer, "H12": bias}


def main() -> None:
    """Run the rows, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mnist", default="")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    bench, table = Bench(given.out, given.mnist, given.tiny, given.seed), {}
    for row in given.rows.split(","):
        start = time.process_time()
        table[row] = {**ROWS[row](bench), "cpu_minutes": round((time.process_time() - start) / 60, 2)}
        print(row, json.dumps(table[row], indent=1), flush=True)
    if not given.tiny:
        record("self_supervised", {"seed": given.seed, "rows": table})


if __name__ == "__main__":
    main()
