"""Rows A23, B14: masks for clicks and boxes on shapes never seen, detection with names.

    python -m benchmarks.segmentation [train.steps=3000] --out runs/segmentation [--tiny]

Recipe sam on `toy:objects`, whose test split shows six shapes that training does not; then tasks masks and detection.
Who names what is found is recipe resnet, trained on squares around things of other scenes, with the shapes of both
splits, so that kinds can be told apart. Training goes on where it was left. Every result is a JSON line, all of them
benchmarks/results/segmentation.json; `--tiny` shows that all of it runs.
"""
import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.common import record
from meristem.codecs.image import encode, grid
from meristem.core.config import parse_edits
from meristem.core.files import read_json
from meristem.corpus.made import LICENCE, Row, made
from meristem.corpus.store import Corpus
from meristem.data import objects
from meristem.data.segments import Mapped
from meristem.evals.judge import crops
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.evals.tasks.detection import kind_of
from meristem.generate.segment import ask, overlay, see, single
from meristem.nn.segment import centre
from meristem.recipes import resolve
from meristem.train.run import pretrain

SIDE, CROP, SHOWN = 64, 28, 16
SPLITS = {"train": 0, "validation": 1, "test": 2}              # of the squares: every split has scenes of its own


def squares(out: Path, scenes: int) -> Corpus:
    """Squares around the objects of scenes that no other corpus has, shapes of both splits, named by their kind."""
    def rows(split: str, folder: Path) -> Iterator[Row]:
        kind = objects.Objects(seed=1, side=SIDE)
        for number in range(scenes if split == "train" else max(4, scenes // 10)):
            scene = kind.scene("test" if number % 2 else "train", 1_000_000 * SPLITS[split] + number)
            rendered = objects.render(scene, SIDE)
            for n, thing in enumerate(scene.things):
                masks = [(thing.shape, rendered.things[n]), (objects.SHADOW, rendered.shadows[n])]
                masks += [(thing.part.shape, rendered.parts[n])] if thing.part else []
                for name, mask in masks:
                    if mask.sum() >= objects.LEAST * mask.size:
                        file = f"{split}-{number}-{n}-{name}.png"
                        (folder / file).write_bytes(encode(crops(rendered.picture, torch.from_numpy(mask[None]),
                                                                 CROP)[0]))
                        yield {"image": file, "text": f"a {name}", "label": name}

    return made(out, "toy pictures", LICENCE, rows)


def fit(recipe: str, corpus: Corpus, out: Path, **edits: object) -> Path:
    """A finished run; says its CPU minutes when it was not there yet."""
    start = time.process_time()
    pretrain(resolve(recipe, {"data.corpus": str(corpus.folder), **edits})[0], out)
    result = read_json(out / "result.json")
    print(json.dumps({"run": out.name, "cpu_minutes_of_this_launch": round((time.process_time() - start) / 60, 2),
                      "step": result["step"], "loss": result["loss"], "validation": result["validation"]}), flush=True)
    return out


def judge(run: Path, corpus: Corpus, tasks: list[str], limit: int) -> list[dict[str, object]]:
    """One JSON line a score, and all of them."""
    lines: list[dict[str, object]] = []
    for score in evaluate(Subject.open(run), corpus, tasks, limit=limit):
        lines.append({"score": score.name, "value": round(score.value, 4), "n": score.n,
                      "interval": [round(score.interval.low, 4), round(score.interval.high, 4)],
                      "beside": {r.what: round(r.value, 4) for r in (score.baseline, *score.beside) if r}})
        print(json.dumps(lines[-1]), flush=True)
    return lines


def shown(run: Path, corpus: Corpus, out: Path) -> None:
    """The first test pictures, one click in the middle of their first object each."""
    module = Subject.open(run).module
    data, views = Mapped.of(corpus, "test", SIDE, 3), []
    for n in range(min(SHOWN, len(data.ids))):
        if data.objects[n]:
            click = centre(torch.from_numpy(data.mask(n, 0))[None])
            pixels = data.pixels[n]
            found = ask(module, see(module, pixels), *single(click))
            (x, y), = click.tolist()
            views.append(overlay(pixels, found.masks.numpy(), [(x, y, True)]))
    out.write_bytes(encode(grid(torch.stack([torch.from_numpy(view) for view in views]).numpy())))


def main() -> None:
    """Make, train, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", nargs="*", metavar="EDIT=VALUE", help="for recipe sam")
    parser.add_argument("--out", type=Path, default=Path("runs/segmentation"))
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--tiny", action="store_true")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    corpus = objects.make(a.out / "objects", {"documents": 40 if a.tiny else 5000, "side": SIDE})
    names = squares(a.out / "squares", 40 if a.tiny else 2500)
    few = {"train.steps": 3, "train.batch": 4, "train.warmup": 1, "train.compile": False}
    namer = fit("resnet", names, a.out / "names", **{"train.steps": 600, **(few if a.tiny else {})})
    scores = judge(namer, names, ["classes"], 20 if a.tiny else 1000)
    run = fit("sam", corpus, a.out / "sam", **{"train.compile": False, **parse_edits(a.edits),
                                               **(few if a.tiny else {})})
    shown(run, corpus, a.out / "sam.png")
    scores += judge(run, corpus, ["masks", f"detection={namer}"], 10 if a.tiny else a.limit)
    kinds = {kind_of(name) for n in Mapped.of(corpus, "test", SIDE, 3).objects for name, _ in n}
    print(json.dumps({"kinds": sorted(kinds)}))
    if not a.tiny:
        record("segmentation", {"edits": a.edits, "kinds": sorted(kinds), "scores": scores})


if __name__ == "__main__":
    main()
