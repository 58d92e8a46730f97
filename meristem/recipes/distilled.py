"""Distillation recipes: a smaller network learns from a larger one (Hinton et al. 2015)."""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def distil() -> Run:
    """A Llama of half the depth learns from recipe llama's model, which must have the same corpus and codec.

    Command: `meristem pretrain distil objective.teacher=runs/llama data.corpus=CORPUS --out runs/distil`. CPU time:
    not measured yet. Expected: not measured yet; the student to compare with has objective.name=next_token.
    """
    return Run(
        name="distil",
        model=Part("llama", {"dim": 256, "layers": 3, "heads": 4, "groups": 2, "hidden": 704}),
        objective=Part("distillation", {"temperature": 2.0, "alpha": 0.5}),
        data=Data(codec=Part("bpe", {"vocab": 4096})),
        train=Train(steps=800, batch=16, context=256, lr=3e-3, warmup=50, validate_every=200))
