"""Forecast quantiles: the pinball loss, whose least value is taken by the true quantiles.

Koenker & Bassett 1978, https://doi.org/10.2307/1913643, equation 2.1; as in TimesFM and Chronos-Bolt. Numbers are in
units of their window's deviation, so that no series counts more than another. Batch: series [B, context + horizon].

    meristem pretrain series data.corpus=SERIES.jsonl
"""
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.objectives.base import Objective


class Quantiles(Objective):
    """Summed over forecast numbers, the mean over quantiles; fact: `inside`, the share within the outermost two."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        if "quantiles" not in vars(model.config):
            raise RequestError("objective.name=quantiles needs a model of series; set model.name=series")
        self.register_buffer("levels", torch.tensor(vars(model.config)["quantiles"]), persistent=False)

    def prepare(self, batch: Batch) -> Batch:
        """Windows of series are needed."""
        if "series" not in batch:
            raise RequestError("quantiles needs series; set data.examples=series")
        return batch

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """source [B, context]."""
        return {"source": batch["series"][:, :vars(self.model.config)["context"]]}

    def score(self, output: Float[Tensor, "B H Q"], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Quantiles and the numbers that came -> (summed loss, sum of those within)."""
        context = vars(self.model.config)["context"]
        _, spread = self.model.scale(batch["series"][:, :context])     # type: ignore[operator]
        came = batch["series"][:, context:].nan_to_num(0.0)[..., None]
        loss = pinball(output, came, self.levels).mean(-1) / spread    # type: ignore[arg-type]
        inside = ((came[..., 0] >= output[..., 0]) & (came[..., 0] <= output[..., -1])).float()
        return (loss * batch["weight"]).sum(), {"inside": (inside * batch["weight"]).sum()}


def pinball(said: Float[Tensor, "*B Q"], came: Float[Tensor, "*B 1"],
            levels: Float[Tensor, "Q"]) -> Float[Tensor, "*B Q"]:
    """level * (came - said) where too low was said, (1 - level) * (said - came) where too high."""
    gap = came - said
    return torch.maximum(levels * gap, (levels - 1) * gap)
