"""Span corruption: the encoder reads a text with spans replaced by sentinels, the decoder writes what they hid.

Raffel et al. 2020, https://arxiv.org/abs/1910.10683 section 3.1.4, as in the authors' preprocessors: 15 % of the tokens
in spans of mean length 3; text and noise are both cut into equally many pieces, uniformly among all ways to do so, and
alternate, text first. Every span of one text has a sentinel of its own, from the end of the vocabulary:

    text     a b c d e f g h        source  a b <0> e f <1> end        target  <0> c d <1> g h end

`train.context` counts tokens of the text; `text_length(512)` is the paper's 568, which gives 512 tokens of source and
114 of target. Corruption is drawn from torch's generator, which the trainer seeds for each step.
"""
import itertools

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from meristem.codecs.base import Codec, Fast
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.objectives.seq2seq import Seq2Seq

SENTINELS = 100


class SpanCorruption(Seq2Seq):
    """Seq2Seq on corrupted text. Sentinels are the codec's <extra_id_0>, <extra_id_1>, ... (T5's own spelling).

    Without a codec they are the last 100 ids of the model's vocabulary, the very last one first, and 0 ends a text.
    """

    def __init__(self, model: nn.Module, density: float = 0.15, span: float = 3.0, codec: Codec | None = None):
        super().__init__(model)
        if not 0 < density < 1 or span < 1:
            raise RequestError(f"objective.density={density} must be between 0 and 1, objective.span={span} at least 1")
        vocab: int = model.config.vocab                        # type: ignore[union-attr, assignment]
        self.density, self.span, self.end = density, span, codec.end if codec else 0
        self.sentinels = sentinels(codec) if codec else list(range(vocab - 1, max(vocab - 1 - SENTINELS, 0), -1))

    def prepare(self, batch: Batch) -> Batch:
        """tokens [B, L+1] -> source [B, S], tokens [B, T+1] (start, target), weight [B, T]; all rows equally long.

        The last token of a row is left out: it is the first of another row. Rows with padding (weight 0) train on none
        of it, but it may be read.
        """
        if "segments" in batch:
            raise RequestError("span corruption hides spans of whole rows, across documents; leave data.packing=joined")
        text, weight = batch["tokens"][:, :-1], batch["weight"]
        noise = noise_mask(len(text), text.shape[1], self.density, self.span).to(text.device)
        spans = int((noise[0, 1:] & ~noise[0, :-1]).sum())
        if spans > len(self.sentinels):
            raise RequestError(f"{text.shape[1]} tokens are corrupted in {spans} spans, but there are only "
                               f"{len(self.sentinels)} sentinels; lower train.context, or fit the codec with more "
                               "special tokens <extra_id_N>")
        counted = torch.cat([weight[:, :1], weight[:, :-1]], 1)           # of each token of the text
        source, _ = self.replaced(text, noise, counted)
        target, weight = self.replaced(text, ~noise, counted)
        start = torch.full_like(target[:, :1], self.start)
        return {"source": source, "tokens": torch.cat([start, target], 1), "weight": weight}

    def replaced(self, text: Int[Tensor, "B L"], hide: Bool[Tensor, "B L"],
                 weight: Tensor) -> tuple[Int[Tensor, "B N"], Tensor]:
        """`text` with each hidden span as one sentinel, then the end token; and the weights of what is left."""
        first = hide.clone()
        first[:, 1:] &= ~hide[:, :-1]
        ids = torch.tensor(self.sentinels, device=text.device)
        mixed = torch.where(first, ids[(first.cumsum(1) - 1).clamp(0, len(ids) - 1)], text)
        kept = first | ~hide
        rows, ends = mixed[kept].view(len(text), -1), torch.full_like(text[:, :1], self.end)
        return torch.cat([rows, ends], 1), torch.cat([weight[kept].view(len(text), -1), weight[:, -1:]], 1)


def sentinels(codec: Codec) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1>, ... as far as a codec has them."""
    special: dict[str, int] = codec.special if isinstance(codec, Fast) else {}
    names = itertools.takewhile(special.__contains__, (f"<extra_id_{n}>" for n in itertools.count()))
    return [special[name] for name in names]


def counts(length: int, density: float = 0.15, span: float = 3.0) -> tuple[int, int]:
    """How many tokens of a text of `length` are noise, and in how many spans."""
    noise = min(max(round(length * density), 1), length - 1)
    return noise, min(max(round(noise / span), 1), length - noise)


def lengths(text: int, density: float = 0.15, span: float = 3.0) -> tuple[int, int]:
    """Tokens of source and target that a text gives: what is kept or hidden, a sentinel a span, the end token."""
    noise, spans = counts(text, density, span)
    return text - noise + spans + 1, noise + spans + 1


def text_length(source: int, density: float = 0.15, span: float = 3.0) -> int:
    """The longest text that gives at most `source` tokens of source: 568 for 512. RequestError when none does."""
    if source < 3:
        raise RequestError(f"a source of {source} tokens holds no text, sentinel and end; 3 are needed")
    text = 2
    while lengths(text + 1, density, span)[0] <= source:
        text += 1
    return text


def noise_mask(rows: int, length: int, density: float = 0.15, span: float = 3.0) -> Bool[Tensor, "B L"]:
    """Which tokens are noise: `counts(length)` in every row, the first token never, the last always."""
    if length < 2:
        raise RequestError(f"a text of {length} tokens cannot be corrupted; raise train.context")
    noise, spans = counts(length, density, span)
    sizes = torch.stack([partition(rows, length - noise, spans), partition(rows, noise, spans)], -1).flatten(1)
    starts = sizes.cumsum(1)[:, :-1]                           # where each piece but the first begins
    marks = torch.zeros(rows, length, dtype=torch.long).scatter_(1, starts, 1)
    return marks.cumsum(1) % 2 == 1


def partition(rows: int, total: int, parts: int) -> Int[Tensor, "B P"]:
    """`total` cut into `parts` positive integers, every way equally likely: distinct places to cut at, sorted."""
    cuts = torch.rand(rows, total - 1).argsort(1)[:, :parts - 1].sort(1).values + 1
    edges = torch.cat([torch.zeros(rows, 1, dtype=torch.long), cuts, torch.full((rows, 1), total)], 1)
    return edges.diff(dim=1)
