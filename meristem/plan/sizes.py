"""One dial for a transformer's size: nano, micro, mini, small, medium, large, xl (meristem pretrain RECIPE --size X).

    run = sized(recipes()["llama"](), "mini")                  # its family and training, another width and depth

Each size is about three times the one before, from 0.4 M to 0.3 B parameters with 4,096 words; the shapes are those of
the planner (plan.plan.Shape: head size 32 or 64, grouped queries, 8/3 gated hidden units). The learning rate stays the
recipe's and is transferred from its width (train.base_width, docs/optimizers.md), where the optimizer allows that; what
a budget can pay for is `meristem plan`'s to say.
"""
import dataclasses

from meristem.core import registry
from meristem.core.errors import RequestError, nearest
from meristem.core.run import Run
from meristem.plan.plan import Shape

SIZES = {"nano": Shape(64, 3), "micro": Shape(128, 6), "mini": Shape(256, 6), "small": Shape(384, 9),
         "medium": Shape(512, 12), "large": Shape(768, 18), "xl": Shape(1024, 28)}
NEEDED = {"vocab", "dim", "layers", "heads", "hidden"}
TRANSFERS = {"families": ("llama", "gpt2"), "optimizers": ("adamw", "muon")}   # where train.base_width is known


def sized(run: Run, size: str) -> Run:
    """The run with another width and depth; RequestError for an unknown size and for a model without these."""
    if size not in SIZES:
        raise RequestError(f"no size {size!r}; {nearest(size, SIZES)}")
    kind = registry.load("models", run.model.name).Config
    names = {field.name for field in dataclasses.fields(kind)}
    if not names >= NEEDED:
        raise RequestError(f"--size is for models of a width and a depth; {run.model.name} has other fields: set them "
                           f"one by one (meristem show {run.name})")
    shape = {name: value for name, value in SIZES[size].part(run.model).fields.items() if name in names}
    model = run.model.with_fields(**shape)
    before = run.model.fields.get("dim", 0)
    moves = run.model.name in TRANSFERS["families"] and run.train.optimizer in TRANSFERS["optimizers"]
    width = before if before and moves else run.train.base_width
    return dataclasses.replace(run, name=f"{run.name}-{size}", model=model,
                               train=dataclasses.replace(run.train, base_width=width))
