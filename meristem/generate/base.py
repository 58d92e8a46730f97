"""What every way of decoding shares: its result, checks of a request, reading the prompts, what steers a row.

The loop meets a family by five things only: `module.caches(batch, length)`, a list of entries with `keep(rows)`, which
selects and may repeat rows; `module.features(tokens, positions=, cache=)`; `module.head(features)`;
`module(tokens, positions=, cache=)`, the head of the features; and `module.config` with `context` and `vocab`. An
encoder-decoder has `module.encode(source, segments)`, too, and takes its output in place of the batch (`Source`).
"""
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meristem.core.errors import MachineError, RequestError
from meristem.generate.sampling import BANNED, Penalties, Sampling
from meristem.generate.watermark import Marking
from meristem.nn import kernel

PASS_TOKENS = 16_384                    # tokens of prompts read in one pass, padding included
NEAR = 0.75                             # rows of at least this share of a pass's longest row join it
SLACK = 32                              # and those that are shorter by at most so many tokens: a pass reads the weights


@dataclass
class Generation:
    """What was added to one prompt; `logprobs` are natural, under the model itself (temperature 1, no truncation)."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False                   # a stop token or `on_token` ended it; a stop token is not in `tokens`
    top: list[list[tuple[int, float]]] = field(default_factory=list)   # the likeliest tokens of each place, with logp
    score: float = 0.0                      # of a beam: its log-probability, stop token included, over its length


@runtime_checkable
class Control(Protocol):
    """Steers one row by what it has written: penalties (`sampling.Penalties`), a grammar (`constrain.Grammar`)."""

    def apply(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """Logits of the next token, changed; -inf where it must not stand."""
        ...

    def push(self, token: int) -> None:
        """This token was written (never called for the stop token that ends a row)."""
        ...

    def copy(self) -> "Control":
        """The same state, going its own way from here (beams fork)."""
        ...


@runtime_checkable
class Joinable(Protocol):
    """A cache entry whose rows can be filled apart; without it, all prompts are read in one padded pass."""

    def join(self, others: Sequence[Any]) -> None:
        """Append the rows of other entries of the same length."""
        ...


def check(module: nn.Module, prompts: Sequence[np.ndarray], sampling: Sampling) -> None:
    """RequestError for an empty prompt, one that leaves no room in the context, or ids outside the vocabulary."""
    config: Any = module.config
    if not prompts or any(len(p) == 0 for p in prompts):
        raise RequestError("there is nothing to go on from: each prompt needs at least one token")
    if (longest := max(len(p) for p in prompts)) + sampling.length > config.context:
        raise RequestError(f"a prompt of {longest} tokens and {sampling.length} new ones exceed the model's context of "
                           f"{config.context}; shorten the prompt or ask for fewer tokens")
    if min(int(np.min(p)) for p in prompts) < 0 or max(int(np.max(p)) for p in prompts) >= config.vocab:
        raise RequestError(f"a prompt holds an id outside the model's vocabulary of {config.vocab} tokens; "
                           "encode it with the model's own tokenizer")


def controls_of(module: nn.Module, prompts: Sequence[np.ndarray], sampling: Sampling,
                grammars: Sequence[Control] = ()) -> list[list[Control]]:
    """For each row what steers it: its penalties where the settings have any, and its grammar where one is given."""
    config: Any = module.config
    rows: list[list[Control]] = [[] for _ in prompts]
    for i, row in enumerate(rows):
        if sampling.penalised:
            row.append(Penalties(sampling, np.asarray(prompts[i]).tolist(), config.vocab))
        if sampling.watermark:
            row.append(Marking(sampling.watermark, np.asarray(prompts[i]).tolist(), config.vocab))
        row.extend(grammars[i:i + 1])
    return rows


def steered(logits: Float[Tensor, "B V"],
            controls: Sequence[Sequence[Control]]) -> tuple[Float[Tensor, "B V"], list[bool]]:
    """Each row's logits after its controls, and whether nothing at all may follow (its logits are then unchanged)."""
    dead = [False] * len(controls)
    if not any(controls):
        return logits, dead
    out = logits.clone()
    for i, row in enumerate(controls):
        for control in row:
            out[i] = control.apply(out[i])
        dead[i] = bool(out[i].max() == BANNED)
        if dead[i]:
            out[i] = logits[i]
    return out, dead


def normaliser(logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """log of the sum of exp(logits); MachineError when damaged weights made numbers that are not finite."""
    return judged(logits.reshape(-1, logits.shape[-1]))[0].view(logits.shape[:-1])


def judged(logits: Float[Tensor, "B V"]) -> tuple[Float[Tensor, "B"], Int[Tensor, "B"]]:
    """`normaliser` and the likeliest token of each row."""
    total, best = kernel.judge(logits)
    if not all(map(math.isfinite, total.tolist())):
        raise MachineError("the model's logits are not finite numbers; its weights are damaged or it diverged in "
                           "training: use an older checkpoint")
    return total, best


def likeliest(logits: Float[Tensor, "B V"], total: Float[Tensor, "B"], count: int) -> list[list[tuple[int, float]]]:
    """The `count` likeliest tokens of each row with their natural log-probabilities."""
    values, ids = (logits - total[:, None]).topk(min(count, logits.shape[-1]))
    return [list(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]


def groups(lengths: Sequence[int]) -> list[list[int]]:
    """Rows to read together, so that a short prompt pays little padding for a long one: the longest rows first."""
    out: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[out[-1][0]] if out else 0
        near = lengths[row] >= min(NEAR * longest, longest - SLACK)
        if out and near and (len(out[-1]) + 1) * longest <= PASS_TOKENS:
            out[-1].append(row)
        else:
            out.append([row])
    return [sorted(rows) for rows in out]


class Source:
    """The texts that an encoder-decoder reads, [B, S] padded on the right (segment 1), encoded once."""

    def __init__(self, module: nn.Module, rows: Sequence[np.ndarray]):
        self.module = module
        tokens, real = padded(rows)
        self.segments = (~real).long()
        self.memory = module.encode(tokens, self.segments)     # type: ignore[operator]

    def caches(self, rows: Sequence[int], length: int) -> list[Any]:
        """The cache of a decoder that generates for these rows."""
        which = torch.tensor(rows)
        return self.module.caches(self.memory[which], length, self.segments[which])            # type: ignore[operator]


@runtime_checkable
class Read(Protocol):
    """What a model was given beside its prompts, in their order: `generate(source=...)` asks it for its caches."""

    def caches(self, rows: Sequence[int], length: int) -> list[Any]:
        """The cache of a decoder that generates for these rows."""
        ...


class Shown:
    """Pictures beside the prompts, [B, P, C, H, W] between -1 and 1: `module.caches` sees them once."""

    def __init__(self, module: nn.Module, images: Float[Tensor, "B *P C H W"]):
        self.module, self.images = module, images

    def caches(self, rows: Sequence[int], length: int) -> list[Any]:
        """The cache of a decoder that generates for these rows."""
        return self.module.caches(len(rows), length, self.images[torch.tensor(rows)])          # type: ignore[operator]


def padded(rows: Sequence[np.ndarray]) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Ids padded on the right by 0, and which of them are real."""
    lengths = torch.tensor([len(row) for row in rows])
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.zeros(real.shape, dtype=torch.long)
    tokens[real] = torch.from_numpy(np.concatenate([np.asarray(row) for row in rows])).long()
    return tokens, real


def prefill(module: nn.Module, prompts: Sequence[np.ndarray], room: int,
            source: Read | None = None) -> tuple[list[Any], Float[Tensor, "B V"]]:
    """The cache with all prompts in it and `room` more places a row, and the fp32 logits of each row's next token.

    The head computes one place a row. Prompts of very different length are read in separate passes.
    """
    size = max(len(p) for p in prompts) + room
    together = groups([len(p) for p in prompts])
    if len(together) > 1 and not all(isinstance(entry, Joinable) for entry in _caches(module, [0], 1, source)):
        together = [list(range(len(prompts)))]
    parts, logits = [], []
    for rows in together:
        tokens, real = padded([prompts[row] for row in rows])
        cache = _caches(module, rows, size, source)
        places = torch.arange(tokens.shape[1]).expand(len(rows), -1)
        features = module.features(tokens, positions=places, cache=cache)      # type: ignore[operator]
        logits.append(module.head(features[torch.arange(len(rows)), real.sum(1) - 1]).float())     # type: ignore[operator]
        parts.append(cache)
    if len(parts) == 1:
        return parts[0], logits[0]
    back = torch.tensor([row for rows in together for row in rows]).argsort()
    for layer in range(len(parts[0])):
        parts[0][layer].join([part[layer] for part in parts[1:]])
        parts[0][layer].keep(back)
        for part in parts[1:]:
            part[layer] = None                                 # its memory goes before the next layer's is asked for
    return parts[0], torch.cat(logits)[back]


def _caches(module: nn.Module, rows: Sequence[int], length: int, source: Read | None) -> list[Any]:
    return source.caches(rows, length) if source else module.caches(len(rows), length)         # type: ignore[operator]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Without gradients and dropout; the mode is put back."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)
