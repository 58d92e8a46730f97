"""Masked language modelling: 15 % of the tokens are hidden, and the model says what they were.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805 section 3.1 and appendix A.1: of the chosen tokens 80 % become
[MASK], 10 % a random token, 10 % stay. `static` = n draws one of n maskings that a row always has (BERT prepared ten);
0 draws a new one each time (RoBERTa, Liu et al. 2019, https://arxiv.org/abs/1907.11692 section 4.1). `whole_word` hides
all pieces of a word or none (google-research/bert, 2019). The loss is taken at the chosen places only, and only there
is the vocabulary asked: `places` picks the features before the head, which saves 85 % of its work.

    meristem pretrain roberta data.corpus=CORPUS objective.whole_word=true
"""
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.codecs.base import Codec, Fast
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.objectives.base import Objective

STREAM = 0x1_0000_0001                  # between the keys of streams: static copies lie side by side
MASKED, RANDOM = 0.8, 0.9               # below the first: [MASK]; below the second: a random token; else as it was
FIRST, SECOND, STEP = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15, -0x61C8864680B583EB     # SplitMix64's, as int64


class Masked(Objective):
    """Summed -log p(hidden token) over the chosen places; facts: `accuracy`. A run gives its `codec`."""

    heads: tuple[str, ...] = ("lm", "pretraining")

    def __init__(self, model: nn.Module, codec: Codec, rate: float = 0.15, static: int = 0, whole_word: bool = False):
        super().__init__(model)
        if not 0 < rate < 1 or static < 0:
            raise RequestError(f"objective.rate={rate} must lie between 0 and 1, static={static} be 0 or more")
        if "mask" not in codec.marks:
            raise RequestError(f"the {codec.name} codec has no mask token; set data.codec.name=wordpiece "
                               "(or unigram with data.codec.encoder=true)")
        if (head := vars(model.config).get("head")) not in self.heads:
            raise RequestError(f"a model with head {head!r} cannot be trained so; set model.head={self.heads[0]}")
        if whole_word and not isinstance(codec, Fast):
            raise RequestError(f"the {codec.name} codec has no words of several tokens; unset objective.whole_word")
        special = torch.zeros(codec.vocab, dtype=torch.bool)
        more = codec.special.values() if isinstance(codec, Fast) else ()
        special[sorted({*codec.marks.values(), *more})] = True
        self.rate, self.static, self.mask = rate, static, codec.marks["mask"]
        words = whole_word and isinstance(codec, Fast)
        starts = torch.from_numpy(codec.starts()) if words else torch.ones_like(special)
        # not buffers: batches are prepared on the CPU
        self.special, self.starts, self.ordinary = special, starts, (~special).nonzero()[:, 0]

    def prepare(self, batch: Batch) -> Batch:
        """tokens [B, T+1] corrupted; places [B, K] where, hidden [B, K] what stood there, weight [B, K] 0 if unused.

        K = rate * T rounded, the same for every batch of a run; a row with less text uses fewer of its places.
        """
        tokens, device = batch["tokens"][:, :-1], batch["tokens"].device
        rows, length = tokens.shape
        text = (batch["weight"] > 0) & ~self.special[tokens]
        keys = torch.randint(1 << 62, (rows,), device=device)
        if self.static:
            keys = fingerprint(tokens) + keys % self.static
        places, used = choose(text, self.starts[tokens], uniform(keys, length, 0), self.rate)
        hidden = tokens.gather(1, places)
        what = uniform(keys, length, 1).gather(1, places)
        other = self.ordinary[(uniform(keys, length, 2).gather(1, places) * len(self.ordinary)).long()]
        new = torch.where(what < MASKED, self.mask, torch.where(what < RANDOM, other, hidden))
        corrupted = tokens.scatter(1, places, torch.where(used, new, hidden))
        return {**batch, "tokens": torch.cat([corrupted, batch["tokens"][:, -1:]], 1), "places": places,
                "hidden": hidden, "weight": used.float()}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """tokens [B, T], and what the batch says of segments, types and places."""
        given: Batch = {key: batch[key] for key in ("segments", "types", "places") if key in batch}
        return {"tokens": batch["tokens"][:, :-1], **given}

    def score(self, output: Float[Tensor, "B K V"], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits at the places -> (summed loss, sum of right first guesses)."""
        nll = F.cross_entropy(output.float().flatten(0, 1), batch["hidden"].flatten(), reduction="none")
        right = (output.argmax(-1) == batch["hidden"]).float()
        return (nll.view_as(right) * batch["weight"]).sum(), {"accuracy": (right * batch["weight"]).sum()}


def choose(text: Bool[Tensor, "B T"], starts: Bool[Tensor, "B T"], draw: Float64[Tensor, "B T"],
           rate: float) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Places to hide, and which of them count: `rate` of each row's text, rounded, at least one.

    Words (a token that `starts` one and those after it) are taken in the order of their draws; the last one, if it
    does not fit, is left.
    """
    before = F.pad(text, (1, 0))[:, :-1]
    begins = starts | ~text | ~before
    word = begins.long().cumsum(1) - 1
    first = torch.full_like(draw, 2.0).scatter_reduce(1, word, draw.masked_fill(~begins, 2.0), "amin")
    order = torch.where(text, first.gather(1, word), 2.0).sort(stable=True, dim=1).indices
    count = (text.sum(1, keepdim=True) * rate).round().clamp(min=1).minimum(text.sum(1, keepdim=True)).long()
    most = max(1, round(text.shape[1] * rate))
    places, ranked = order[:, :most], word.gather(1, order)
    last = ranked.gather(1, (count - 1).clamp(min=0))
    torn = ranked.gather(1, count.clamp(max=text.shape[1] - 1)) == last
    used = torch.arange(most, device=text.device) < count
    return places, used & ~(torn & (count < text.shape[1]) & (ranked[:, :most] == last))


def uniform(keys: Int[Tensor, "B"], length: int, stream: int) -> Float64[Tensor, "B T"]:
    """Numbers in [0, 1) that are a function of (key, place, stream): SplitMix64 (Steele, Lea, Flood 2014) of each."""
    place = torch.arange(1, length + 1, device=keys.device)
    mixed = _mix(_mix(keys + stream * STREAM)[:, None] + place * STEP)
    return ((mixed >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def fingerprint(tokens: Int[Tensor, "B T"]) -> Int[Tensor, "B"]:
    """A number a row that depends on every token and its place."""
    place = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return _mix(_mix(tokens) + place * STEP).sum(1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * FIRST             # int64 products wrap; shifts made logical by the masks
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * SECOND
    return x ^ ((x >> 31) & ((1 << 33) - 1))
