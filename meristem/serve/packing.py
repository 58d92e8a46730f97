"""Tokens of many texts side by side, for one pass without padding: prompts and last tokens alike; or a row a text.

    pack = packed([(ids, start, pages), ...])                  # ids stand at places start, start + 1, ... of their text
    features = module.features(pack.tokens, positions=pack.places, cache=store.view(pack.table))[:, 0]
    features[pack.last]                                        # of the last token of each text

Each token is a row of its own with the pages of its text. A layer writes all keys before any query looks, and a query
sees the places up to its own, so the tokens of one prompt see each other as they should. It needs the native kernel
(`Paged` answers single queries with it): torch would gather the keys anew for every token.
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.nn.decode import compute_type
from meristem.nn.kernel import KINDS, library
from meristem.nn.linear import Linear
from meristem.nn.position import Scaling
from meristem.serve.jobs import Row


class Found(NamedTuple):
    """Logits [N, V] of some rows, `counts` places of each, one row's after another's."""

    rows: Sequence[Row]
    logits: Tensor
    counts: Sequence[int]


class Pack(NamedTuple):
    """What `module.features` reads, whose text each token is of, and where each text's last token stands."""

    tokens: Int[Tensor, "N 1"]
    places: Int[Tensor, "N 1"]
    table: Int[Tensor, "N W"]
    whose: Int[np.ndarray, "N"]
    last: Int[np.ndarray, "S"]


def packable(module: nn.Module) -> bool:
    """Whether the native kernel answers for this module, and its angles depend on a token's own place alone."""
    scaling = vars(module.config).get("scaling")
    return not (isinstance(scaling, Scaling) and scaling.kind == "dynamic") and \
        compute_type(module) in KINDS and library() is not None


def packed(spans: Sequence[tuple[Sequence[int], int, Sequence[int]]]) -> Pack:
    """Spans of texts (at least one token each), with where they begin and the pages of their text."""
    counts = [len(ids) for ids, _, _ in spans]
    whose = np.repeat(np.arange(len(spans)), counts)
    tokens = np.concatenate([np.asarray(ids, dtype=np.int64) for ids, _, _ in spans])
    places = np.concatenate([np.arange(start, start + len(ids)) for ids, start, _ in spans])
    table = np.zeros((len(spans), max(len(pages) for _, _, pages in spans)), dtype=np.int64)
    for i, (_, _, pages) in enumerate(spans):
        table[i, :len(pages)] = pages
    return Pack(torch.from_numpy(tokens)[:, None], torch.from_numpy(places)[:, None], torch.from_numpy(table[whose]),
                whose, np.cumsum(counts) - 1)


def padded(spans: Sequence[tuple[Row, int, int]], guesses: Sequence[Sequence[int]],
           least: int) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"], Int[Tensor, "B W"]]:
    """Tokens, places and pages of texts from start to stop, with what is guessed to follow; a row is a text.

    What is short repeats its last place. For the trainer's bits rows are repeated, too, until `least` places are
    computed together (`nn.paged`).
    """
    longest = max(stop - start for _, start, stop in spans)
    count = max(len(spans), -(-least // longest))
    places = np.empty((count, longest), dtype=np.int64)
    tokens, table = np.empty_like(places), np.zeros((count, max(len(row.pages) for row, _, _ in spans)), dtype=np.int64)
    for i in range(count):
        which = min(i, len(spans) - 1)
        row, start, stop = spans[which]
        ids = [*row.tokens[start:stop], *(guesses[which] if guesses else ())]
        places[i] = np.minimum(np.arange(start, start + longest), stop - 1)
        tokens[i] = np.asarray(ids)[places[i] - start]
        table[i, :len(row.pages)] = row.pages
    return torch.from_numpy(tokens), torch.from_numpy(places), torch.from_numpy(table)


def logits_of(module: nn.Module, features: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
    """fp32 logits: the module's own head, which in bf16 rounds them to it."""
    head = vars(module)["_modules"].get("head")
    if isinstance(head, Linear) and head.native is not None and head.native.fits(features):
        return head.native.wide(features)
    return module.head(features).float()                       # type: ignore[operator]
