"""Series of numbers: forecasts with intervals.

Rows are {"series": [numbers at equal times, null: unknown]}; `meristem curate toy:waves --out runs/waves` makes some.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def series() -> Run:
    """A small patch transformer that forecasts 24 numbers from 96, in tenths.

    Command: `meristem pretrain series data.corpus=SERIES.jsonl --out runs/series`, then `meristem evaluate runs/series
    --corpus SERIES.corpus --tasks forecast`. CPU time: 37 seconds. Expected: on joint angles of a hand a quantile loss
    of 0.177 (0.159 to 0.199; the last number: 0.235), 83.9 % of the numbers inside the 80 % interval (docs/results.md).
    """
    return Run(
        name="series",
        model=Part("series", {"context": 96, "horizon": 24, "patch": 8, "dim": 64, "layers": 3, "heads": 4,
                              "dropout": 0.1}),
        objective=Part("quantiles", {}), data=Data(codec=Part("protein"), examples="series"),
        train=Train(steps=1500, batch=64, context=96, lr=1e-3, warmup=50, weight_decay=0.01, guard=False,
                    compile=False, dtype="float32"))
