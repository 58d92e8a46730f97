"""Recipes with mixtures of experts: more parameters at the same work a token, and the dense network to compare with.

`meristem show mixtral` prints the recipe; `meristem pretrain mixtral data.corpus=CORPUS` trains it;
`python -m benchmarks.experts` trains both on the same tokens with the same FLOPs (FEATURES C13 and C14).
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

BODY = {"dim": 128, "layers": 4, "heads": 4, "groups": 2}
DATA = Data(codec=Part("bpe", {"vocab": 2048}))
TRAIN = Train(steps=500, batch=16, context=256, optimizer="muon", lr=5e-3, warmup=20, validate_every=100)


def mixtral() -> Run:
    """A small Mixtral: eight experts a layer, two for each token, so the work of a dense `hidden` of 384 a token.

    `model.balance_loss=0 model.balance_rate=0.001` balances by biases instead of a loss (nn.moe); the log's `balance`
    is 1 when the loads are even.

    Command: `meristem pretrain mixtral data.corpus=CORPUS --out runs/mixtral`. CPU time: 4.7 minutes. Expected on the
    Python standard library: 3.642 nats a token (seed 0), no expert below 0.089 of its layer's choices.
    """
    return Run(
        name="mixtral",
        model=Part("mixtral", {**BODY, "hidden": 192, "experts": 8, "top_k": 2, "theta": 10_000.0}),
        data=DATA, train=TRAIN)


def dense() -> Run:
    """The dense twin of `mixtral`: one feed-forward network of 384 a layer, the width of two experts.

    Command: `meristem pretrain dense data.corpus=CORPUS --out runs/dense`. CPU time: 2.7 minutes. Expected on the
    Python standard library: 3.693 nats a token (502 steps, seed 0), 0.052 more than `mixtral`.
    """
    return Run(name="dense", model=Part("llama", {**BODY, "hidden": 384}), data=DATA, train=TRAIN)
