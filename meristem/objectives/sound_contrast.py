"""Contrastive learning of sounds and texts (CLAP): the sound and the text of a row belong together.

Wu et al. 2022, https://arxiv.org/abs/2211.06687, section 3.1: CLIP's loss with one scale for each way to ask. Rows of
equal texts belong to each other, as captions that are names of classes need. `changes`: fields of data.sounds.Changes.

    meristem pretrain clap data.corpus=SOUNDS.jsonl
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from meristem.core import parallel
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.data.sounds import Changes, Form
from meristem.objectives.contrastive import LARGEST, Contrastive


class SoundContrast(Contrastive):
    """Summed over rows; fact: `accuracy`, how often a text of a row's own scores highest for its sound."""

    family = "clap"
    kinds: Mapping[str, str] = {"clap": "softmax"}

    def __init__(self, model: nn.Module, changes: Mapping[str, Any] | None = None):
        super().__init__(model, together=True)
        self.changes = from_dict(Changes, dict(changes or {}))

    @property
    def sound(self) -> Form:
        """The frames that its model asks for."""
        return Form.wanted(self.model.config, self.changes)

    def prepare(self, batch: Batch) -> Batch:
        """Every row counts 1."""
        if "mel" not in batch:
            raise RequestError("sound_contrast needs sounds with a text; set data.examples=sounds")
        return {**batch, "weight": torch.ones(len(batch["mel"]))}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """source [B, M, F] and tokens [B, T]."""
        return {"source": batch["mel"], "tokens": batch["tokens"][:, :-1]}

    def score(self, output: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Vectors of the sounds and texts here [b, E] -> (summed loss of these rows, sum of right choices)."""
        sounds, texts = output
        others = parallel.gather(sounds), parallel.gather(texts)
        by_sound = self.model.logits(sounds, others[1]).float()             # type: ignore[operator]
        by_text = self.model.text_logits(others[0], texts).float().T        # type: ignore[operator]
        return self._classes(by_sound, by_text, batch)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Both scales stay below 100."""
        super().after_step(step)
        scale = self.model.text_scale
        assert isinstance(scale, Tensor)
        scale.clamp_(max=LARGEST)
