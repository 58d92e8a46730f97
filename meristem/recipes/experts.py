"""Recipes with mixtures of experts: more parameters at the same work a token.

`meristem show mixtral` prints the recipe; `meristem pretrain mixtral data.corpus=CORPUS` trains it.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def mixtral() -> Run:
    """A small Mixtral: eight experts a layer, two for each token, so the work of a dense `hidden` of 512 a token.

    `model.balance_loss=0 model.balance_rate=0.001` balances by biases instead of a loss (nn.moe); the log's `balance`
    is 1 when the loads are even.

    Command: `meristem pretrain mixtral data.corpus=CORPUS --out runs/mixtral`. CPU time: not measured
    yet. Expected score: not measured yet.
    """
    return Run(
        name="mixtral",
        model=Part("mixtral", {"dim": 192, "layers": 4, "heads": 4, "groups": 2, "hidden": 256, "experts": 8,
                               "top_k": 2, "theta": 10_000.0}),
        data=Data(codec=Part("bpe", {"vocab": 4096})),
        train=Train(steps=400, batch=16, context=256, optimizer="muon", lr=1e-2, warmup=20, validate_every=100,
                    sample_every=200))
