"""Recurrent recipes: the LSTM language model that a Transformer is compared with.

`docs/results.md` has the comparison at equal parameters and equal FLOPs. Times are for one thread.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def lstm() -> Run:
    """A two-layer LSTM on any corpus, as large as the Llama it is compared with in docs/results.md (2.16 M).

    Command: `meristem pretrain lstm data.corpus=CORPUS --out runs/lstm`. CPU time: about 5 minutes. Expected on the
    Python standard library: see docs/results.md.
    """
    return Run(
        name="lstm",
        model=Part("lstm", {"dim": 192, "hidden": 472, "layers": 2}),
        data=Data(codec=Part("bpe", {"vocab": 2048})),
        train=Train(steps=547, batch=16, context=256, lr=5e-3, warmup=30, validate_every=100))
