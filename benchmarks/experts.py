"""Mixture of experts or dense: equal active FLOPs, the same tokens of the standard library (rows C13 and C14).

    python -m benchmarks.experts --out runs/experts

Recipes `mixtral` and `dense`: the same body, eight experts of width 192 of which a token meets two, or one network of
384. The router's 0.3 % more FLOPs are given to the dense one as steps. Each is trained with Muon at two rates with
the first seed, then with the other seeds at its best rate. After training every expert's share of the choices on the
validation split is counted: one without any is dead. The same call goes on where it was; the table is
benchmarks/results/experts.json.
"""
import argparse
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import record
from meristem.core.config import edit
from meristem.core.files import read_json
from meristem.corpus import find
from meristem.corpus.curate import curate
from meristem.data.loader import sweep
from meristem.data.shards import tokenise
from meristem.hub import hf
from meristem.nn import moe
from meristem.plan.cost import Cost, on_meta
from meristem.recipes import recipes
from meristem.train.run import codec_of, pretrain

RATES = (5e-3, 1e-2)
JUDGED = 1 << 16                        # tokens of the validation split by which loads are counted


@torch.no_grad()
def loads(folder: Path, split: Any, context: int) -> list[list[float]]:
    """[layers, experts]: each expert's share of its layer's choices, 1 / experts when even."""
    model = hf.load(folder).module.train()                     # without dropout: only then are loads counted
    routed = moe.layers(model)
    total = [torch.zeros(layer.experts.gate.shape[0]) for layer in routed]
    for batch in sweep(split, context, 16, JUDGED):
        model(batch["tokens"][:, :-1])
        for layer, sums in zip(routed, total, strict=True):
            assert layer.load is not None
            sums += layer.load
    return [(sums / sums.sum()).tolist() for sums in total]


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    corpus = curate(find.standard_library(), given.out / "corpus")
    runs = {name: recipes()[name]() for name in ("mixtral", "dense")}
    codec = codec_of(runs["dense"].data.codec, corpus)
    shards = tokenise(corpus, codec)
    costs = {name: Cost.of(on_meta(run.model.with_fields(vocab=codec.vocab)), run.train.context)
             for name, run in runs.items()}
    ratio = costs["mixtral"].training_flops / costs["dense"].training_flops
    runs["dense"] = edit(runs["dense"], {"train.steps": round(runs["dense"].train.steps * ratio)})
    def trained(name: str, rate: float, seed: int) -> float:
        folder = given.out / f"{name}-{rate:g}-{seed}"
        pretrain(edit(runs[name], {"data.corpus": str(corpus.folder), "train.lr": rate, "train.compile": False,
                                   "seed": seed}), folder)
        value = float(read_json(folder / "result.json")["validation"])
        print(folder.name, value, f"{time.process_time():.0f} CPU s", flush=True)
        return value

    tried = {name: {rate: trained(name, rate, given.seeds[0]) for rate in RATES} for name in runs}
    best = {name: min(values, key=values.__getitem__) for name, values in tried.items()}
    found = [{name: trained(name, best[name], seed) for name in runs} for seed in given.seeds]
    table: dict[str, Any] = {name: {
        "parameters": costs[name].parameters, "active": costs[name].active, "steps": run.train.steps,
        "training_flops_per_token": costs[name].training_flops, "rate": best[name],
        "tried": {f"{rate:g}": value for rate, value in tried[name].items()},
        "nats_per_token": [values[name] for values in found]} for name, run in runs.items()}
    shares = [loads(given.out / f"mixtral-{best['mixtral']:g}-{seed}", shards.split("validation"),
                    runs["mixtral"].train.context) for seed in given.seeds]
    table["mixtral"]["smallest_share"] = [min(map(min, model)) for model in shares]
    table["mixtral"]["largest_share"] = [max(map(max, model)) for model in shares]
    gaps = [a - b for a, b in zip(table["mixtral"]["nats_per_token"], table["dense"]["nats_per_token"], strict=True)]
    record("experts", {"seeds": given.seeds, "corpus": corpus.hash, "networks": table, "mixtral_minus_dense": gaps,
                       "cpu_minutes": time.process_time() / 60})


if __name__ == "__main__":
    main()
