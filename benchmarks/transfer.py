"""Does the best learning rate of a narrow model stay the best of a wider one? A sweep with and without base_width.

    meristem curate stdlib --out CORPUS --limit 8M
    python -m benchmarks.transfer CORPUS --optimizer adamw            # 4 CPU minutes on one thread; resumable
    python -m benchmarks.transfer CORPUS --optimizer muon

Tensor Programs V (Yang et al. 2022, https://arxiv.org/abs/2203.03466, figure 1), small: Llamas of 3 layers with heads
of 32 and widths of 64, 128 and 256, 240 steps of 4 x 64 tokens (512 ids), rates in factors of two; "standard" is what
every run has, "transfer" is train.base_width=256 (`train.groups`), equal at width 256. A row of results/transfer.jsonl:
{optimizer, width, base, lr, seed, loss, seconds}, loss being the validation split's in nats a token. The table printed
has for every width the best rate, the loss there, and the loss at the rate that was best at the smallest width.
"""
import argparse
import json
import math
import time
from pathlib import Path

from meristem.core.config import Part
from meristem.core.run import Data, Run, Train
from meristem.train.hooks import validate
from meristem.train.run import assemble, trainer_of

ROWS = Path(__file__).parent / "results" / "transfer.jsonl"
WIDTHS, BASE = (64, 128, 256), 256
RATES = {"adamw": (-12, -6), "muon": (-10, -4)}                 # powers of two: first and last
HELD_OUT = 64                           # validation batches of 4 x 64 tokens


def run_of(corpus: str, optimizer: str, width: int, base: int, lr: float, seed: int) -> Run:
    """One run of the sweep."""
    shape = {"dim": width, "layers": 3, "heads": width // 32, "hidden": 64 * round(width / 24), "qk_norm": True}
    return Run("transfer", Part("llama", shape), data=Data(corpus, Part("bpe", {"vocab": 512})), seed=seed,
               train=Train(steps=240, batch=4, context=64, optimizer=optimizer, lr=lr, warmup=24, guard=False,
                           base_width=base, compile=False))


def measure(run: Run) -> dict[str, float]:
    """Train it; validation loss, nan where it diverged, and seconds of processor time."""
    start = time.process_time()
    parts = assemble(run)
    trainer = trainer_of(parts)
    trainer.fit()
    loss = validate(parts.objective, parts.held_out[:HELD_OUT])
    return {"loss": loss, "seconds": time.process_time() - start}


def rows() -> list[dict]:
    """What has been measured; a torn last line is left out."""
    lines = ROWS.read_text().splitlines() if ROWS.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def table(found: list[dict], optimizer: str) -> list[str]:
    """Best rate and losses of each width under both parameterisations, one line each; means over seeds."""
    lines = []
    for base in (0, BASE):
        first = None
        for width in WIDTHS:
            losses: dict[float, list[float]] = {}
            for row in found:                                  # at the base both parameterisations are the same
                same = row["base"] == base or width == BASE and row["base"] == 0
                if (row["optimizer"], row["width"]) == (optimizer, width) and same:
                    losses.setdefault(row["lr"], []).append(row["loss"])
            mean = {lr: sum(ls) / len(ls) for lr, ls in losses.items() if not any(map(math.isnan, ls))}
            if not mean:
                continue
            best = min(mean, key=lambda lr: mean[lr])
            first = first or best
            lines.append(f"{optimizer} {'transfer' if base else 'standard'} width {width}: best rate 2^"
                         f"{math.log2(best):g}, loss {mean[best]:.3f}; at 2^{math.log2(first):g} "
                         f"{mean.get(first, math.nan):.3f}; all "
                         + ", ".join(f"2^{math.log2(lr):g} {mean[lr]:.3f}" for lr in sorted(mean)))
    return lines


def main() -> None:
    """Every missing run of one optimizer, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--optimizer", choices=sorted(RATES), default="adamw")
    parser.add_argument("--seeds", type=int, default=1)
    a = parser.parse_args()
    first, last = RATES[a.optimizer]
    for seed in range(a.seeds):
        for width in WIDTHS:
            for base in (0, BASE) if width != BASE else (0,):
                for power in range(first, last + 1):
                    key = {"optimizer": a.optimizer, "width": width, "base": base, "lr": 2.0**power, "seed": seed}
                    if any(key.items() <= row.items() for row in rows()):
                        continue
                    row = {**key, **measure(run_of(a.corpus, **key))}
                    with open(ROWS, "a") as f:
                        f.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)
    print("\n".join(table(rows(), a.optimizer)))


if __name__ == "__main__":
    main()
