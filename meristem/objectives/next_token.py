"""Next-token prediction: pretraining, supervised fine-tuning, captioning, action prediction (Radford et al. 2018).

Batch: tokens [B, T+1]; weight [B, T], 0 where a prediction is not trained on (prompts, padding); with data.packing =
separate also segments and positions [B, T], which the model must take: the loss of a packed row is then that of its
documents one by one. A model that sees is given the images of each row, [B, P, C, H, W].
"""
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from meristem.core.types import Batch
from meristem.nn.image import between
from meristem.objectives.base import Objective

BESIDE = ("segments", "positions", "images")


class NextToken(Objective):
    """Summed -log p(token t+1 | tokens 0..t) over positions of weight > 0."""

    def prepare(self, batch: Batch) -> Batch:
        """Pictures between -1 and 1, where there are any."""
        return {**batch, "images": between(batch["images"])} if "images" in batch else batch

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """tokens [B, T]; segments and positions [B, T] and images where the batch has them."""
        return {"tokens": batch["tokens"][:, :-1], **{key: batch[key] for key in BESIDE if key in batch}}

    def score(self, output: Float[Tensor, "B T V"], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and batch -> (summed loss, {})."""
        nll = -log_probs(output, batch["tokens"][:, 1:])
        return (nll * batch["weight"]).sum(), {}


def log_probs(logits: Float[Tensor, "B T V"], target: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """log p(target) at every position; fp32, because a bf16 log-sum-exp has 3 digits."""
    return -F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none").view_as(target)
