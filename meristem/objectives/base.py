"""What an objective is. The trainer knows these methods and nothing else.

An objective is a module that holds whatever training involves: the model and, if the method needs them, a teacher, a
reference, a value head, a frozen autoencoder. So one optimizer sees every trainable parameter and one state dict saves
everything. `inputs` and `score` are apart so that a pipeline can run the model between them on other processes.
"""
from torch import Tensor, nn

from meristem.core.types import Batch


class Objective(nn.Module):
    """Base class: owns `model`; subclasses give `inputs` and `score`, and the rest where they need it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def prepare(self, batch: Batch) -> Batch:
        """Corrupt, mask or add noise. Runs without gradients, before `weight` is asked."""
        return batch

    def weight(self, batch: Batch) -> Tensor:
        """How many terms the loss sums over (scalar); the trainer divides by the total over micro-batches and ranks."""
        return batch["weight"].sum()

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the model is called with."""
        raise NotImplementedError

    def score(self, output: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over its terms (scalar, fp32), and other sums worth logging."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs -> model -> score."""
        return self.score(self.model(**self.inputs(batch)), batch)

    def after_step(self, step: int) -> None:
        """Whatever follows an update: moving a teacher, adapting a penalty."""
