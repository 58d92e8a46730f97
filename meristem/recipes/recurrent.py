"""Recurrent recipes: the LSTM language model that a Transformer is compared with.

`python -m benchmarks.recurrent` compares both at equal parameters and equal FLOPs. Times are for one thread.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def lstm() -> Run:
    """A two-layer LSTM of 2.16 M parameters on any corpus.

    Command: `meristem pretrain lstm data.corpus=CORPUS --out runs/lstm`. CPU time: not measured yet
    (benchmarks/recurrent.py). Expected on the Python standard library: more than the 3.609 nats a token of a Llama of
    equal size and training FLOPs (Muon, rate 0.01, seed 0, 3.2 minutes).
    """
    return Run(
        name="lstm",
        model=Part("lstm", {"dim": 192, "hidden": 472, "layers": 2}),
        data=Data(codec=Part("bpe", {"vocab": 2048})),
        train=Train(steps=547, batch=16, context=256, lr=5e-3, warmup=30, validate_every=100))
