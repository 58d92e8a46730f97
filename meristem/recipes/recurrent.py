"""Recurrent recipes: the LSTM language model that a Transformer is compared with.

`python -m benchmarks.recurrent` compares both at equal parameters and equal FLOPs. Times are for one thread.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def lstm() -> Run:
    """A two-layer LSTM of 2.16 M parameters on any corpus.

    Command: `meristem pretrain lstm data.corpus=CORPUS --out runs/lstm`. CPU time: 4 minutes. Expected on the
    Python standard library: 3.765 nats a token with `train.optimizer=muon train.lr=0.02`, where a Llama of equal size
    and training FLOPs has 3.579 (seed 0, docs/results.md, A10).
    """
    return Run(
        name="lstm",
        model=Part("lstm", {"dim": 192, "hidden": 472, "layers": 2}),
        data=Data(codec=Part("bpe", {"vocab": 2048})),
        train=Train(steps=547, batch=16, context=256, lr=5e-3, warmup=30, validate_every=100))
