"""Published runs refitted: Chinchilla's 240 (constants, objective, coverage) and the over-trained ones of Gadre et al.

    python -m benchmarks.scaling_points svg_extracted_data.csv                    # (N, FLOP, loss) of Epoch AI
    python -m benchmarks.scaling_points --runs exp_data/models                    # instead: the over-trained
    python -m benchmarks.scaling_points svg_extracted_data.csv --write            # plan/chinchilla.json

Chinchilla: Besiroglu et al. 2024 (https://arxiv.org/abs/2404.10102) read the runs off Hoffmann et al.'s figure 4; the
five of lowest D/N are left out, D = C / 6N. Coverage: the largest fifth by compute forecast from the rest, and what
each part of the interval adds (`plan.forecast`). Over-training: Gadre et al. 2024 (https://arxiv.org/abs/2403.08540),
104 runs on three corpora with 5 to 640 tokens a parameter; the law is fitted to the runs of at most 0.16 B parameters
and forecasts those of 0.4, 1.4 and 6.9 B: freely, and with the exponents' prior, as three sizes cannot tell E from A
and alpha. About two CPU minutes in all.
"""
import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import record
from meristem.core.files import read_json, write_json
from meristem.plan import forecast, scaling
from meristem.plan.scaling import EPOCH, HOFFMANN
from meristem.train.abroad import CHINCHILLA

DROPPED = 5                             # runs of lowest D/N
SMALL = 2e8                             # parameters: the runs that the over-training law is fitted to
HELD_OUT = "c4_val"                     # the validation text of these runs


def points_of(table: Path) -> np.ndarray:
    """[240, 3]: N, D, loss, from Epoch's file or the columns N, C, loss, smallest compute first."""
    head = table.read_text(encoding="utf-8").splitlines()[0].split(",")
    if "Model Size" in head:
        columns = [head.index(name) for name in ("Model Size", "Training FLOP", "loss")]
        rows = np.loadtxt(table, delimiter=",", skiprows=1, usecols=columns, comments=None)      # colours begin with #
    else:
        rows = np.loadtxt(table, delimiter=",", skiprows=2)
    n, c, loss = rows.T
    d = c / (6 * n)
    points = np.stack([n, d, loss], 1)[np.argsort(d / n)[DROPPED:]]
    return points[np.argsort(points[:, 0] * points[:, 1])]


def coverage(points: np.ndarray) -> dict:
    """The largest fifth forecast from the rest: share inside the 80 % interval, and without each of its parts."""
    cut = round(0.8 * len(points))
    found = forecast.of(points[:cut])

    def inside(made: forecast.Forecast) -> float:
        return round(float(np.mean([low <= x[2] <= high for x in points[cut:]
                                    for low, high in [made.interval(*x[:2])]])), 3)
    alone, wide = replace(found, reach=0.0), found.scatter
    widths = [high / low - 1 for x in points[cut:] for low, high in [found.interval(*x[:2])]]
    return {"held_out": len(points) - cut, "decades_beyond": round(max(found.beyond(*x[:2]) for x in points[cut:]), 2),
            "covered": inside(found), "without_doubling": inside(alone),
            "without_backtest": inside(replace(alone, scatter=found.law.residual)),
            "without_refits": inside(replace(found, laws=(found.law,))),
            "residual": found.law.residual, "backtest": wide, "median_width": round(float(np.median(widths)), 4)}


def overtrained(folder: Path) -> dict:
    """Each corpus: the law of the small runs, its exponents, and the larger runs it forecasts."""
    found = {}
    for corpus in ("c4_original", "rpj", "rw_original"):
        rows = []
        for path in sorted(folder.glob(f"{corpus}-*.json")):
            tree = read_json(path)
            loss = [r["loss"] for r in tree["results"] if any(HELD_OUT in place for place in r["val_data"])]
            rows.append([tree["hyperparameters"]["params"], tree["hyperparameters"]["tokens"], *loss[:1]])
        points = np.array([r for r in rows if len(r) == 3])
        small, larger_runs = points[points[:, 0] < SMALL], points[points[:, 0] >= SMALL]
        free = scaling.fit(small)
        made = forecast.of(small, source=corpus, prior=scaling.Prior())
        larger = []
        for n, d, loss in larger_runs:
            low, high = made.interval(n, d)
            larger.append({"parameters": n, "tokens_per_parameter": round(d / n), "measured": round(loss, 4),
                           "forecast": round(made.law.loss(n, d), 4), "inside": bool(low <= loss <= high)})
        errors = [abs(r["forecast"] / r["measured"] - 1) for r in larger]
        over = [r for r in larger if r["tokens_per_parameter"] > 100]
        slopes = {}                                            # of log(L - E) over log C, along one D / N
        for ratio in sorted({round(float(d / n)) for n, d, _ in points}):
            own = np.array([(math.log(n * d), math.log(loss - made.law.E)) for n, d, loss in points
                            if round(float(d / n)) == ratio])
            if len(own) >= 4:
                slopes[ratio] = round(float(np.polyfit(*own.T, 1)[0]), 4)
        found[corpus] = {"fitted": len(small), "alpha": round(made.law.alpha, 4), "beta": round(made.law.beta, 4),
                         "E": round(made.law.E, 4), "held_out": len(larger),
                         "free": {"alpha": round(free.alpha, 4), "E": round(free.E, 4), "mean_error": round(float(
                             np.mean([abs(free.loss(n, d) / loss - 1) for n, d, loss in larger_runs])), 4)},
                         "slope_by_tokens_per_parameter": slopes,
                         "mean_error": round(float(np.mean(errors)), 4), "largest_error": round(max(errors), 4),
                         "covered": round(float(np.mean([r["inside"] for r in larger])), 3),
                         "over_trained": {"runs": len(over), "mean_error": round(float(np.mean(
                             [abs(r["forecast"] / r["measured"] - 1) for r in over])), 4)} if over else None,
                         "largest": max(larger, key=lambda r: r["parameters"])}
    return found


def main() -> None:
    """Fit, forecast, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--write", action="store_true", help="keep the refit as the package's law for large runs")
    given = parser.parse_args()
    if given.runs:
        record("over_training", overtrained(given.runs))
        return
    if given.table is None:
        parser.error("give the table of Chinchilla's runs, or --runs FOLDER")
    points = points_of(given.table)
    source = "Chinchilla's 240 runs (Epoch AI's reading of figure 4), refitted by benchmarks/scaling_points.py"
    whole = forecast.of(points, source=source)
    if given.write:
        write_json(CHINCHILLA, scaling.to_json(whole.to_law()))
        return
    law = whole.law
    laws = {"hoffmann": HOFFMANN, "epoch": EPOCH, "refit": law}
    ratios = {name: {f"{flops:g}": round(each.tokens_per_parameter(flops), 1) for flops in (1e21, 5.76e23)}
              for name, each in laws.items()}
    spread = [each.tokens_per_parameter(5.76e23) for each in whole.laws]
    record("scaling_points", {
        "runs": len(points), "A": law.A, "B": law.B, "E": law.E, "alpha": law.alpha, "beta": law.beta,
        "objective": scaling.objective(law, points),
        "objective_hoffmann": scaling.objective(HOFFMANN, points), "tokens_per_parameter": ratios,
        "at_gophers_budget_80": [round(float(q), 1) for q in np.quantile(spread, [0.1, 0.9])],
        "coverage": coverage(points)})


if __name__ == "__main__":
    main()
