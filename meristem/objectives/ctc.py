"""Connectionist temporal classification: letters for sounds whose timing nobody marked.

Graves et al. 2006, https://doi.org/10.1145/1143844.1143891; as wav2vec 2.0 and HuBERT are fine-tuned (Baevski et al.
2020, https://arxiv.org/abs/2006.11477, section 4.3). The blank is the codec's end token, which no text holds. Batch:
sound [B, N], heard [B]; tokens [B, T+1], segments [B, T]. `generate.listen.transcribe` reads the result.

    meristem pretrain letters base=runs/wav2vec2 data.corpus=SPEECH.jsonl
"""
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.data.sounds import Changes
from meristem.objectives.base import Objective


class Ctc(Objective):
    """Summed -log p(text | sound) over all alignments; a text that no alignment fits counts 0. Weight: letters."""

    def __init__(self, model: nn.Module, changes: Mapping[str, Any] | None = None):
        super().__init__(model)
        if vars(model.config).get("head") != "ctc":
            raise RequestError("objective.name=ctc needs a head over letters; set model.name=wav2vec2, model.head=ctc")
        self.changes = from_dict(Changes, dict(changes or {}))

    def prepare(self, batch: Batch) -> Batch:
        """weight [B]: letters of each text."""
        if "sound" not in batch:
            raise RequestError("ctc needs sounds with a text; set data.examples=sounds")
        return {**batch, "weight": ((batch["segments"] == 0).sum(1) - 1).clamp(min=1).float()}     # less the end

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """source [B, N], heard [B]."""
        return {"source": batch["sound"], "heard": batch["heard"]}

    def score(self, output: Float[Tensor, "B T V"], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of letters -> (summed loss, {})."""
        config: Any = self.model.config
        letters = (batch["segments"] == 0).sum(1) - 1
        frames = config.frames(batch["heard"]).clamp(min=1, max=output.shape[1])
        logp = output.float().log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(logp, batch["tokens"][:, :-1], frames, letters, blank=config.end, reduction="sum",
                          zero_infinity=True), {}
