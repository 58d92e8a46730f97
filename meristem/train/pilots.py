"""Tiny runs that forecasts are fitted to: each trained once, kept as a line, read again by whoever asks later.

    rows = pilots(runs, text, corpus, Path("runs/pilots"), Path("runs/pilots.jsonl"))
    points = points_of(rows)            # [R, 3]: parameters in products, effective bytes, bits a byte of validation

A row holds the size, the data, the FLOPs and the held-out loss of a run with batch, rate, seed and corpus; rows of
another corpus, shape or seed never stand in for a run. Stopped half-way, a run goes on from its checkpoint.
"""
import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.core.progress import SILENT, Progress
from meristem.core.run import Run
from meristem.corpus.store import Corpus
from meristem.plan import forecast, scaling
from meristem.plan.plan import Shape, Text, recipe
from meristem.train.run import pretrain

Row = dict[str, Any]
FOLDER = "pilots"                       # in the corpus folder: rows.jsonl, and runs under way
# Width, layers, tokens: the first four span sizes and data by a factor of two and a half and of four, the others lie
# between. All eight are 2e13 FLOPs: some three minutes on two cores.
SET = ((64, 3, 2.5e5), (128, 3, 1e6), (64, 3, 1e6), (128, 3, 2.5e5), (64, 6, 5e5), (128, 3, 5e5), (64, 3, 5e5),
       (64, 6, 1e6))
LEAST = 4
FLOPS = 2e13                            # of the whole set


def law_of(text: Text, corpus: Corpus, template: Run, count: int, progress: Progress = SILENT) -> forecast.Forecast:
    """A law for this corpus and codec from `count` tiny runs, 4 to 8, trained now or read from the corpus folder.

    The package's own law is the prior (`scaling.Prior`), and so few runs scatter by no less than its runs did.
    RequestError for another count, or where the text is too little to train one.
    """
    if not LEAST <= count <= len(SET):
        raise RequestError(f"{count} tiny runs; a law needs {LEAST} to {len(SET)}, or 0 for the package's own law")
    folder = corpus.folder / FOLDER
    runs = [recipe(Shape(dim, layers), tokens, text, template) for dim, layers, tokens in SET[:count]]
    rows = pilots(runs, text, corpus, folder, folder / "rows.jsonl", progress)
    source = f"{count} tiny runs on corpus {corpus.hash[:12]}, with the package's law as the prior"
    own = scaling.own()
    found = forecast.of(points_of(rows), unit="bits/byte", source=source, prior=scaling.Prior(centre=own))
    return replace(found, scatter=max(found.scatter, forecast.stored(own).scatter))


def pilots(runs: Iterable[Run], text: Text, corpus: Corpus, work: Path, rows: Path,
           progress: Progress = SILENT) -> list[Row]:
    """The rows of `runs`, in their order; what `rows` (a JSON-lines file) does not have yet is trained in `work`."""
    found = []
    for run in runs:
        key = key_of(run, text, corpus)                        # what makes two runs one
        row = next((r for r in read(rows) if all(r.get(k) == v for k, v in key.items())), None)
        if row is None:
            folder = work / f"{key['dim']}x{key['layers']}-{key['tokens']}-{key['seed']}"
            pretrain(run, folder, progress=progress)
            row = {**key, **outcome(run, folder, text)}
            rows.parent.mkdir(parents=True, exist_ok=True)
            with open(rows, "a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")
            shutil.rmtree(folder)
        found.append(row)
    return found


def read(rows: Path) -> list[Row]:
    """Finished runs; a torn last line is left out."""
    lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def there(corpus: Corpus, vocab: int) -> int:
    """How many rows of tiny runs a corpus folder keeps for a vocabulary."""
    return sum(r["vocab"] == vocab and r["corpus"] == corpus.hash for r in read(corpus.folder / FOLDER / "rows.jsonl"))


def key_of(run: Run, text: Text, corpus: Corpus) -> Row:
    """What tells a run from every other one."""
    t, fields = run.train, run.model.fields
    return {"dim": fields["dim"], "layers": fields["layers"], "tokens": t.steps * t.batch * t.context,
            "context": t.context, "vocab": text.vocab, "seed": run.seed, "corpus": corpus.hash}


def outcome(run: Run, folder: Path, text: Text) -> Row:
    """What a finished run taught: its size, data, loss and price."""
    result, manifest = read_json(folder / "result.json"), read_json(folder / "manifest.json")
    t = run.train
    return {"parameters": manifest["parameters"], "bytes": round(t.steps * t.batch * t.context * text.bytes_per_token),
            "unique_bytes": text.bytes, "loss_nats": result["validation"],
            "bits_per_byte": result["validation"] / math.log(2) / text.held_out, "flops": result["flops"],
            "seconds": result["train_seconds"], "peak_rss": result["peak_rss"], "lr": t.lr, "batch": t.batch}


def points_of(rows: Sequence[Row]) -> np.ndarray:
    """Rows as a fit takes them, [R, 3]: N, D in bytes with repeats discounted, bits a byte."""
    return np.array([[r["parameters"], scaling.effective(r["bytes"], r["unique_bytes"]), r["bits_per_byte"]]
                     for r in rows])
