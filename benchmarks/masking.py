"""RoBERTa's switches beside BERT's recipe at equal FLOPs (Liu et al. 2019, section 4; row A7 of the features).

    python -m benchmarks.masking --out runs/masking [--seeds 3]

Recipe bert has ten fixed maskings a row, rows of two sentences with the question whether B follows A, and 16 rows an
update; recipe roberta draws masks anew, has running text without the question, and 32 rows an update. Network, rate,
vocabulary and text (sources of Python's standard library) are the same, and the steps are such that both spend the same
FLOPs. The score is the loss a hidden token on the same held-out text with the same masks, once in running rows, as
RoBERTa was trained, and once in pairs, as BERT was. Further rows switch one thing at a time.
"""
import argparse
import json
import statistics
import sysconfig
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import meristem
from benchmarks.common import record
from meristem.core.config import Part, parse_edits
from meristem.core.run import Run
from meristem.corpus.curate import curate
from meristem.data import encoders
from meristem.data.shards import tokenise
from meristem.objectives.base import make
from meristem.recipes import resolve
from meristem.train import hooks
from meristem.train.run import assemble, codec_of, corpus_of, pretrain

BYTES = 4_000_000                       # of text: the runs see about half of it twice


def variants(steps: int, edits: dict[str, object]) -> dict[str, Run]:
    """The two recipes, and what lies between them; `steps` are the roberta recipe's."""
    bert, roberta = (resolve(name, {**edits, "train.steps": steps, "train.validate_every": 0})[0]
                     for name in ("bert", "roberta"))
    pairs = replace(bert, objective=Part("next_sentence"))
    small = replace(roberta, train=replace(roberta.train, batch=bert.train.batch))
    return {"bert": bert, "bert, masks drawn anew": pairs, "roberta, BERT's batch": small, "roberta": roberta}


def at_equal_flops(run: Run, budget: float) -> Run:
    """The run with as many steps as the budget pays."""
    each = assemble(run).flops_per_token * run.train.batch * run.train.context
    return replace(run, train=replace(run.train, steps=round(budget / each)))


class Words(nn.Module):
    """A model's logits of hidden tokens, without the answer about the pair that BERT's gives beside them."""

    def __init__(self, model: Any):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, **given: Tensor) -> Tensor:
        """[B, K, V]."""
        made = self.model(**given)
        return made if isinstance(made, Tensor) else made[0]


def losses(folder: Path, run: Run) -> dict[str, float]:
    """Nats a hidden token of a run's model on the held-out split, in running rows and in pairs."""
    model, corpus, t = meristem.load(folder), corpus_of(run), run.train
    split = tokenise(corpus, model.codec).split("validation")
    found = {}
    for name in ("full_sentences", "sentence_pairs"):
        given = encoders.Given(corpus, model.codec, split, t.context, (32, 0, 0))
        batches = list(encoders.held_out(encoders.source(name, given), 32, 1 << 16))
        if not model.config.types > 1:
            batches = [{key: value for key, value in batch.items() if key != "types"} for batch in batches]
        objective = make("masked", Words(model.module), {}, model.codec)
        found[name] = round(hooks.validate(objective, batches), 4)
    return found


def main() -> None:
    """Train every variant on every seed, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/masking"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000, help="of the roberta recipe")
    parser.add_argument("--only", nargs="*", default=[], help="variants; all of them without")
    parser.add_argument("--edits", nargs="*", default=[], help="fields of all recipes, train.lr=1e-3")
    given = parser.parse_args()
    started = time.process_time()
    corpus = curate([Path(sysconfig.get_paths()["stdlib"])], given.out / "corpus", limit_bytes=BYTES)
    edits = {"data.corpus": str(corpus.folder), **parse_edits(given.edits)}
    all_ = variants(given.steps, edits)
    last = all_["roberta"]
    codec_of(last.data.codec, corpus)
    budget = assemble(last).flops_per_token * last.train.batch * last.train.context * given.steps
    table: dict[str, Any] = {}
    for name, run in all_.items():
        if given.only and name not in given.only:
            continue
        run = at_equal_flops(run, budget)
        rows = []
        for seed in range(given.seeds):
            folder = pretrain(replace(run, seed=seed), given.out / f"{name.replace(',', '').replace(' ', '_')}-{seed}")
            rows.append(losses(folder, run))
            print(name, seed, rows[-1], flush=True)
        table[name] = {"steps": run.train.steps, "batch": run.train.batch,
                       "flops": json.loads((folder / "result.json").read_text())["flops"],
                       **{key: [row[key] for row in rows] for key in rows[0]},
                       "mean": {key: round(statistics.mean(row[key] for row in rows), 4) for key in rows[0]}}
    record("masking", {"seeds": given.seeds, "bytes": BYTES, "variants": table,
                       "cpu_minutes": round((time.process_time() - started) / 60, 1)})


if __name__ == "__main__":
    main()
