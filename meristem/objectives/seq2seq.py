"""Text to text: an encoder-decoder learns to write a target after reading a source (Raffel et al. 2020, section 2.4).

Batch: source [B, S], source_segments [B, S]; tokens [B, T+1], each target behind one place for the start token; weight
[B, T]; segments [B, T] where several pairs share a row. `data.pairs` makes such batches; `span_corruption` makes them
from plain text.
"""
from typing import Any

from torch import Tensor, nn

from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.generate.seq2seq import EncoderDecoder
from meristem.objectives.next_token import NextToken

GIVEN: tuple[str, ...] = ("source", "source_segments", "segments")


class Seq2Seq(NextToken):
    """Summed -log p(target token | source, target so far) over positions of weight > 0."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        config: Any = model.config
        if not isinstance(model, EncoderDecoder):
            raise RequestError(f"objective.name={type(self).__name__} needs an encoder-decoder; set model.name=t5")
        self.start: int = config.start

    def prepare(self, batch: Batch) -> Batch:
        """Put the model's own start token before every target (a corpus knows only its codec's tokens)."""
        tokens = batch["tokens"].clone()
        tokens[:, 0] = self.start
        if "segments" in batch:
            segments = batch["segments"]
            begins = segments[:, 1:] != segments[:, :-1]
            tokens[:, 1:-1][begins] = self.start
        return {**batch, "tokens": tokens}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """tokens [B, T], source [B, S] and whatever segments there are."""
        return {"tokens": batch["tokens"][:, :-1], **{key: batch[key] for key in GIVEN if key in batch}}
