"""Fine-tuning on labels: the class of a text, of each token, or where an answer begins and ends.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805 section 4: cross-entropy of the head over the last layer; for spans
the mean of the two over the text's places (section 4.2). Batch: labels [B] with a "sequence" head, [B, T] with "token"
(-1: not scored, such as the later pieces of a word), [B, 2] with "qa". `changes`: fields of `data.sounds.Changes`.

    meristem pretrain classify data.corpus=reviews.jsonl base=runs/bert
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.data.sounds import Changes
from meristem.nn.image import between
from meristem.objectives.base import Objective

HEADS = ("sequence", "token", "qa", "image", "audio")


def heard_of(batch: Batch) -> dict[str, Tensor]:
    """Frames, or samples and how many of them are no silence behind the sound, as models of sounds are called."""
    return {"source": batch["mel"]} if "mel" in batch else {"source": batch["sound"], "heard": batch["heard"]}


class Classify(Objective):
    """Summed -log p(label); facts: `accuracy` (for spans: both ends right)."""

    def __init__(self, model: nn.Module, changes: Mapping[str, Any] | None = None):
        super().__init__(model)
        self.changes = from_dict(Changes, dict(changes or {}))
        self.head = vars(model.config).get("head")
        if self.head not in HEADS:
            raise RequestError(f"a model with head {self.head!r} gives no classes; set model.head to one of "
                               f"{', '.join(HEADS)}")

    def prepare(self, batch: Batch) -> Batch:
        """weight becomes 1 for each label that is scored, [B] or [B, T]."""
        if "labels" not in batch:
            raise RequestError("classify needs labelled rows; set data.examples=labels")
        labels = batch["labels"]
        if self.head == "audio":
            return {**batch, "weight": torch.ones(len(labels))}
        if self.head == "image":
            return {**batch, "images": between(batch["images"]), "weight": torch.ones(len(labels))}
        return {**batch, "weight": torch.ones(len(labels)) if self.head != "token" else (labels >= 0).float()}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """tokens [B, T], and what the batch says of segments and types; images or sounds for their head."""
        if self.head == "audio":
            return heard_of(batch)
        if self.head == "image":
            return {"images": batch["images"]}
        return {"tokens": batch["tokens"][:, :-1], **{key: batch[key] for key in ("segments", "types") if key in batch}}

    def score(self, output: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, L], [B, T, L] or [B, T, 2] -> (summed loss, sum of right answers)."""
        labels, logits = batch["labels"], output.float()
        if self.head == "qa":
            if "segments" in batch:                            # an answer never lies in the padding
                logits = logits.masked_fill((batch["segments"] != batch["segments"][:, :1])[..., None], -torch.inf)
            nll = F.cross_entropy(logits, labels, reduction="none").mean(1)        # [B, T, 2]: T are the classes
            right = (logits.argmax(1) == labels).all(1)
        else:
            known = labels.clamp(min=0)
            nll = F.cross_entropy(logits.movedim(-1, 1), known, reduction="none")
            right = logits.argmax(-1) == labels
        return (nll * batch["weight"]).sum(), {"accuracy": (right.float() * batch["weight"]).sum()}
