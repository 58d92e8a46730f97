"""Series of numbers: forecasts with intervals.

Rows are {"series": [numbers at equal times, null: unknown]}; `meristem curate toy:waves --out runs/waves` makes some.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def series() -> Run:
    """A small patch transformer that forecasts 24 numbers from 96, in tenths.

    Command: `meristem pretrain series data.corpus=SERIES.jsonl --out runs/series`, then `meristem evaluate runs/series
    --corpus SERIES.corpus --tasks forecast`. CPU time: not measured yet. Expected: no score was measured yet.
    """
    return Run(
        name="series",
        model=Part("series", {"context": 96, "horizon": 24, "patch": 8, "dim": 64, "layers": 3, "heads": 4,
                              "dropout": 0.1}),
        objective=Part("quantiles", {}), data=Data(codec=Part("protein"), examples="series"),
        train=Train(steps=1500, batch=64, context=96, lr=1e-3, warmup=50, weight_decay=0.01, guard=False,
                    compile=False, dtype="float32"))
