"""What an encoder says of a text: a vector, or the probability of each class.

    embed(module, codec, ["a text"], Pooling.read(folder))         # [N, D]
    classify(module, codec, ["a text"])                            # [N, L], a head of classes

A text is read as [CLS] text [SEP] where the codec has these marks, else after the end token, as decoders were trained.
`Pooling` is how token vectors become one; a folder of sentence-transformers says it in modules.json and 1_Pooling
(Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084 section 3), any other folder means the mean.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.nn.attention import two_way

TOGETHER = 16_384                       # tokens a forward pass, padding included
MODES: dict[str, Literal["mean", "cls", "max"]] = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}


@dataclass(frozen=True)
class Pooling:
    """How the vectors of a text's tokens become one; `longest` is the most tokens a text may have, marks included."""

    mode: Literal["mean", "cls", "max"] = "mean"
    unit: bool = False                  # scaled to length 1
    longest: int = 0                    # 0: the model's context

    @classmethod
    def read(cls, folder: Path) -> "Pooling":
        """What a folder of sentence-transformers says; RequestError for steps that we do not compute."""
        if not (folder / "modules.json").is_file():
            return cls()
        steps = [(str(step.get("type", "")).rpartition(".")[2], step) for step in read_json(folder / "modules.json")]
        if odd := [kind for kind, _ in steps if kind not in ("Transformer", "Pooling", "Normalize")]:
            raise RequestError(f"{folder / 'modules.json'}: a step {odd[0]} is not computed; known: Transformer, "
                               "Pooling, Normalize. Pass the pooling yourself: embed(text, Pooling(...))")
        mode: Literal["mean", "cls", "max"] = "mean"
        for kind, step in steps:
            if kind == "Pooling":
                path = folder / Path(step["path"]).name / "config.json"
                tree = read_json(path)
                set_ = [key for key, value in tree.items() if key.startswith("pooling_mode") and value is True]
                named = [tree["pooling_mode"]] if isinstance(tree.get("pooling_mode"), str) else [
                    MODES.get(key, key) for key in set_]
                if len(named) != 1 or named[0] not in MODES.values():
                    raise RequestError(f"{path}: pooling {' and '.join(named) or 'of no kind'} is not computed; one of "
                                       f"{', '.join(MODES.values())} is")
                mode = named[0]
        limits = folder / "sentence_bert_config.json"
        longest = (read_json(limits).get("max_seq_length") or 0) if limits.is_file() else 0
        return cls(mode, any(kind == "Normalize" for kind, _ in steps), longest)


@torch.no_grad()
def embed(module: nn.Module, codec: Codec, texts: Sequence[str], pooling: Pooling | None = None,
          cut: bool = False) -> Float[Tensor, "N D"]:
    """One fp32 vector a text. RequestError for a text beyond the model's context or `pooling.longest`, unless `cut`."""
    pooling = pooling or Pooling()

    def vectors(tokens: Tensor, real: Bool[Tensor, "B T"]) -> Tensor:
        x = module.features(*_inputs(module, tokens, real)).float()              # type: ignore[operator]
        if pooling.mode == "cls":
            x = x[:, 0]
        elif pooling.mode == "max":
            x = x.masked_fill(~real[..., None], -torch.inf).amax(1)
        else:
            x = (x * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return F.normalize(x, dim=-1) if pooling.unit else x
    return _each(module, codec, texts, pooling.longest, vectors, cut)


@torch.no_grad()
def classify(module: nn.Module, codec: Codec, texts: Sequence[str], cut: bool = False) -> Float[Tensor, "N L"]:
    """The probability of each class of `module.config.labels`; `cut` cuts long texts at their end, as training does.

    RequestError for a model without such a head, and for a text beyond the context.
    """
    if vars(module.config).get("head") != "sequence":
        raise RequestError("this model has no classes of texts; fine-tune one with model.head=sequence")
    return _each(module, codec, texts, 0,
                 lambda tokens, real: module(*_inputs(module, tokens, real)).float().softmax(-1), cut)


def one_way(module: nn.Module) -> None:
    """RequestError for an encoder: it sees both sides of a token, so it can neither write nor score a text."""
    if two_way(module):
        raise RequestError(f"a model with head {vars(module.config)['head']!r} reads whole texts: it can embed or "
                           "classify them, and neither write nor score them")


def _inputs(module: nn.Module, tokens: Tensor, real: Tensor) -> tuple[Tensor, ...]:
    """What the network is called with: one that looks both ways must be told what is padding."""
    return (tokens, 1 - real.long()) if two_way(module) else (tokens,)


def _each(module: nn.Module, codec: Codec, texts: Sequence[str], longest: int,
          call: Callable[[Tensor, Tensor], Tensor], cut: bool = False) -> Tensor:
    """`call(tokens, real)` on rows of like length together; the results in the order of the texts."""
    context: int = module.config.context                       # type: ignore[union-attr, assignment]
    longest = min(longest or context, context)
    marks, rows = codec.marks, []
    for text, ids in zip(texts, codec.encode_batch(list(texts)), strict=True):
        row = [marks["cls"], *ids, marks["sep"]] if "cls" in marks and "sep" in marks else [codec.end, *ids]
        if len(row) > longest and cut:
            row = [*row[:longest - 1], row[-1]]
        if len(row) > longest:
            raise RequestError(f"the text that begins {text[:30]!r} has {len(row)} tokens, marks included; the model "
                               f"takes {longest}: shorten it, or take it in pieces")
        rows.append(np.array(row, dtype=np.int64))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out: dict[int, Tensor] = {}
    training = module.training
    module.eval()
    try:
        while order:
            count = 1
            while count < len(order) and (count + 1) * len(rows[order[count]]) <= TOGETHER:
                count += 1
            some, order = order[:count], order[count:]
            tokens = torch.full((count, len(rows[some[-1]])), marks.get("pad", codec.end))
            for n, i in enumerate(some):
                tokens[n, :len(rows[i])] = torch.from_numpy(rows[i])
            lengths = torch.tensor([len(rows[i]) for i in some])
            out |= dict(zip(some, call(tokens, torch.arange(tokens.shape[1]) < lengths[:, None]), strict=True))
    finally:
        module.train(training)
    if not out:
        raise RequestError("there is no text")
    return torch.stack([out[i] for i in range(len(rows))])
