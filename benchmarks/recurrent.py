"""LSTM or Transformer: equal parameters, equal training FLOPs, the same tokens of the standard library (row A10).

    python -m benchmarks.recurrent --out runs/recurrent

Both have 2.16 M parameters, tied embeddings, 2,048 byte-pair tokens, context 256 and 16 rows a step; the LSTM trains
for 9 % more steps, because a token costs it 9 % less (attention over half of the context counted). Each is given the
best of both optimizers at several rates, by validation loss. The same call goes on where it was; the table is
benchmarks/results/recurrent.json.
"""
import argparse
import json
from math import log
from pathlib import Path
from typing import Any

from benchmarks.common import record
from meristem.core.config import edit
from meristem.core.run import Run
from meristem.corpus import find
from meristem.corpus.curate import curate
from meristem.data.shards import tokenise
from meristem.plan.cost import Cost, on_meta
from meristem.recipes import recipes
from meristem.train.run import codec_of, pretrain

RATES = {"muon": (5e-3, 1e-2, 2e-2), "adamw": (2.5e-3, 5e-3, 1e-2)}
STEPS = 500                             # of the Transformer
LLAMA = {"model.dim": 192, "model.layers": 4, "model.heads": 4, "model.groups": 4, "model.hidden": 512,
         "model.tied": True, "data.codec.vocab": 2048, "train.warmup": 30, "train.validate_every": 100,
         "train.sample_every": 0, "train.steps": STEPS}


def cost(run: Run, vocab: int) -> Cost:
    """Counts of a run's network."""
    return Cost.of(on_meta(run.model.with_fields(vocab=vocab)), run.train.context)


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    corpus = curate(find.standard_library(), given.out / "corpus")
    runs = {"llama": edit(recipes()["llama"](), LLAMA), "lstm": recipes()["lstm"]()}
    codec = codec_of(runs["lstm"].data.codec, corpus)
    held_out = tokenise(corpus, codec).split("validation")
    costs = {name: cost(run, codec.vocab) for name, run in runs.items()}
    ratio = costs["llama"].training_flops / costs["lstm"].training_flops
    runs["lstm"] = edit(runs["lstm"], {"train.steps": round(STEPS * ratio)})
    table: dict[str, Any] = {}
    for name, run in runs.items():
        tried: dict[str, float] = {}
        for optimizer, rates in RATES.items():
            for rate in rates:
                folder = given.out / f"{name}-{optimizer}-{rate:g}"
                pretrain(edit(run, {"data.corpus": str(corpus.folder), "train.optimizer": optimizer, "train.lr": rate,
                                    "train.compile": False, "seed": given.seed}), folder)
                tried[f"{optimizer} {rate:g}"] = json.loads((folder / "result.json").read_text())["validation"]
        best = min(tried, key=tried.__getitem__)
        table[name] = {"parameters": costs[name].parameters, "steps": run.train.steps,
                       "training_flops": costs[name].training_flops * run.train.steps * 16 * 256, "best": best,
                       "nats_per_token": tried[best],
                       "bits_per_byte": tried[best] * len(held_out.tokens) / held_out.bytes / log(2), "tried": tried}
        print(name, table[name], flush=True)
    record("recurrent", {"seed": given.seed, "corpus": corpus.hash, "networks": table})


if __name__ == "__main__":
    main()
