"""Speech to text: a model that hears frames learns to write what was said (Radford et al. 2022, section 2.3).

https://arxiv.org/abs/2212.04356. Batch: mel [B, M, F]; tokens [B, T+1], the text and its end token; segments [B, T], 1
behind it. Before the text stand the marks of the model's tokenizer, or its start token; loss on text and end token.

    meristem pretrain listen data.corpus=SPEECH.jsonl
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.data.sounds import Changes
from meristem.generate.listen import prompt
from meristem.objectives.next_token import NextToken


class Transcribe(NextToken):
    """Summed -log p(token | frames, text so far); `changes` are fields of `data.sounds.Changes`."""

    def __init__(self, model: nn.Module, codec: Codec, language: str = "", changes: Mapping[str, Any] | None = None):
        super().__init__(model)
        config: Any = model.config
        if not {"mels", "start"} <= vars(config).keys() or config.head != "lm":
            raise RequestError("objective.name=transcribe needs a model that hears frames and writes; set "
                               "model.name=whisper, model.head=lm")
        self.before, self.changes = prompt(config, codec, language=language), from_dict(Changes, dict(changes or {}))

    def prepare(self, batch: Batch) -> Batch:
        """tokens [B, P+T], the marks before the text; weight [B, P+T-1], 1 where text or the end is predicted."""
        if "mel" not in batch:
            raise RequestError("transcribe needs sounds with a text; set data.examples=sounds")
        text, first = batch["tokens"][:, :-1], torch.tensor(self.before, device=batch["tokens"].device)
        tokens = torch.cat([first.expand(len(text), -1), text], 1)
        silent = torch.zeros(len(text), len(first) - 1, device=tokens.device)
        return {**batch, "tokens": tokens, "weight": torch.cat([silent, (batch["segments"] == 0).float()], 1)}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """tokens [B, T] and the frames."""
        return {"tokens": batch["tokens"][:, :-1], "source": batch["mel"]}
