"""The ladder of small runs behind `meristem/plan/law.json`: sizes x token counts, then a fit of L(N, D).

    python -m benchmarks.ladder CORPUS                  # about half an hour on two quiet cores; resumable, a row a run
    python -m benchmarks.ladder CORPUS --fit            # writes meristem/plan/law.json from the rows

Every run has the batch and learning rate that a plan would give it (`plan.recipe`), so the law holds for planned runs.
N is the count of parameters in matrix products, D the bytes of text read; the loss is that of the validation split. A
row: {shape, parameters, non_embedding, tokens, bytes, unique_bytes, loss_nats, bits_per_byte, seconds, lr, batch,
seed, corpus}.
"""
import argparse
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from meristem.core import machine
from meristem.core.config import Part
from meristem.core.errors import RequestError
from meristem.core.files import read_json, write_json
from meristem.core.run import Run
from meristem.corpus.store import Corpus
from meristem.data.shards import tokenise
from meristem.plan import forecast, scaling
from meristem.plan.plan import SHAPES, TEMPLATE, Shape, Text, recipe
from meristem.plan.scaling import Prior
from meristem.train.run import codec_of, pretrain

ROWS = Path(__file__).parent / "results" / "ladder.jsonl"
SIZES = "64x3,128x3,192x4,256x6"
TOKENS = "2.5e5,5e5,1e6,2e6,4e6"
VOCAB = 4096
LARGEST = 6e13                          # FLOPs: five minutes on two cores; a budget of minutes goes no further
# A weak prior (scaling.Prior): eleven runs that scatter by 6 % fit a floor of 0 as well as one of 0.4 bits a byte.
ROUND = scaling.Law(0.4, 30.0, 0.35, 200.0, 0.35)
SMALLEST_RATIO = 0.15                   # tokens a parameter: fewer is no training


def text_of(folder: Path) -> tuple[Text, Corpus]:
    """The corpus tokenised as the quickstart does."""
    corpus = Corpus.open(folder)
    part = Part("bpe", {"vocab": VOCAB})
    codec = codec_of(part, corpus)
    return Text.of(corpus, tokenise(corpus, codec), codec, part), corpus


def shape_of(name: str) -> Shape:
    """"128x3" -> the shape of the planner's ladder."""
    found = {s.name: s for s in SHAPES}
    if name not in found:
        raise RequestError(f"no shape {name!r}; known: {', '.join(found)}")
    return found[name]


def rows_of(path: Path) -> list[dict]:
    """Finished runs; a torn last line is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def climb(folder: Path, sizes: list[str], tokens: list[float], work: Path, rows: Path, template: Run) -> None:
    """Train what is not in `rows` yet, cheapest first."""
    text, corpus = text_of(folder)
    plain = [(shape_of(s), t) for s in sizes for t in tokens]
    priced = sorted(((6 * _parameters(s, text) * t, s, t) for s, t in plain), key=lambda x: x[0])
    done = {(r["shape"], r["asked"], r["seed"], r["corpus"]) for r in rows_of(rows)}
    for flops, shape, count in priced:
        if flops > LARGEST or count < SMALLEST_RATIO * _parameters(shape, text):
            continue
        if (shape.name, count, template.seed, corpus.hash) in done:
            continue
        run = recipe(shape, count, text, template)
        run = replace(run, name=f"ladder-{shape.name}-{count:.0e}",
                      train=replace(run.train, dtype=machine.measured().best_dtype))
        out = work / f"{run.name}-{template.seed}"
        pretrain(run, out)
        row = row_of(run, out, shape, count, text, corpus)
        rows.parent.mkdir(parents=True, exist_ok=True)
        with open(rows, "a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")
        print(f"{shape.name:>8} {row['tokens'] / 1e6:6.2f} M tokens  {row['bits_per_byte']:.4f} bits/byte  "
              f"{row['seconds']:6.1f} s", flush=True)
        shutil.rmtree(out)


def row_of(run: Run, out: Path, shape: Shape, asked: float, text: Text, corpus: Corpus) -> dict:
    """What a finished run taught: its size, data and loss."""
    result, manifest = read_json(out / "result.json"), read_json(out / "manifest.json")
    held_out = tokenise(corpus, codec_of(run.data.codec, corpus)).split("validation")
    tokens = run.train.steps * run.train.batch * run.train.context
    each = held_out.bytes / len(held_out.tokens)
    return {"shape": shape.name, "asked": asked, "parameters": manifest["parameters"],
            "non_embedding": manifest["parameters"] - text.vocab * shape.dim, "tokens": tokens,
            "bytes": round(tokens * text.bytes_per_token), "unique_bytes": text.bytes,
            "loss_nats": result["validation"],
            "bits_per_byte": result["validation"] / math.log(2) / each, "seconds": result["train_seconds"],
            "lr": run.train.lr,
            "batch": run.train.batch, "context": run.train.context, "seed": run.seed, "corpus": corpus.hash}


def fit(rows: list[dict]) -> scaling.Law:
    """The law through all rows, with what it rests on, its refits, and how well it forecast the largest runs."""
    points = np.array([[r["parameters"], scaling.effective(r["bytes"], r["unique_bytes"]), r["bits_per_byte"]]
                       for r in rows])
    seeds, corpora = sorted({r["seed"] for r in rows}), sorted({r["corpus"] for r in rows})
    source = (f"fitted to {len(rows)} runs of benchmarks/ladder.py on corpus {corpora[0][:12]}, seed {seeds[0]}: "
              "bits per byte of its validation split")
    found = forecast.of(points, unit="bits/byte", source=source, prior=Prior(centre=ROUND),
                        facts={"corpora": corpora, "seeds": seeds})
    return found.to_law()


def main() -> None:
    """Parse, climb or fit."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("corpus", type=Path)
    parse.add_argument("--sizes", default=SIZES, help="shapes of plan.SHAPES, width x layers")
    parse.add_argument("--tokens", default=TOKENS)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--optimizer", default="muon", choices=["adamw", "muon"])
    parse.add_argument("--work", type=Path, default=Path("runs/ladder"), help="folder of the runs under way")
    parse.add_argument("--rows", type=Path, default=ROWS)
    parse.add_argument("--fit", action="store_true", help="fit the rows and write the package's law")
    a = parse.parse_args()
    if a.fit:
        law = fit(rows_of(a.rows))
        write_json(scaling.OWN, scaling.to_json(law))
        print(json.dumps(scaling.to_json(law), indent=2))
        return
    template = replace(TEMPLATE, seed=a.seed, train=replace(TEMPLATE.train, optimizer=a.optimizer, save_seconds=1e9))
    climb(a.corpus, a.sizes.split(","), [float(t) for t in a.tokens.split(",")], a.work, a.rows, template)


def _parameters(shape: Shape, text: Text) -> int:
    """About 11 d^2 a layer and the table."""
    return 11 * shape.dim**2 * shape.layers + text.vocab * shape.dim


if __name__ == "__main__":
    try:
        main()
    except RequestError as error:
        sys.exit(f"error: {error}")
