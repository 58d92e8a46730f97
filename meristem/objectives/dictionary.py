"""Learning a dictionary of directions for activations: squared error plus the sum of the codes (`nn.dictionary`).

Bricken et al. 2023, https://transformer-circuits.pub/2023/monosemantic-features. Batch: activations [B, E]. The
directions keep length 1, else codes could shrink for nothing.
"""
import torch
from torch import Tensor, nn

from meristem.core.types import Batch
from meristem.objectives.base import Objective


class Dictionary(Objective):
    """|x - reconstruction|^2 + sparsity * sum of codes, summed over rows."""

    def __init__(self, model: nn.Module, sparsity: float = 0.1):
        super().__init__(model)
        self.sparsity = sparsity

    def weight(self, batch: Batch) -> Tensor:
        """Rows."""
        return torch.tensor(float(len(batch["activations"])))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """activations [B, E]."""
        return {"activations": batch["activations"]}

    def score(self, output: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction and codes -> (summed loss, {active: codes above 0})."""
        back, codes = output
        error = (back - batch["activations"]).square().sum()
        return error + self.sparsity * codes.sum(), {"active": (codes > 0).float().sum()}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Directions of length 1."""
        super().after_step(step)
        directions = self.model.directions
        assert isinstance(directions, Tensor)
        directions.copy_(nn.functional.normalize(directions, dim=-1))
