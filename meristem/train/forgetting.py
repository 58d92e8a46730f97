"""What a model forgets while it is adapted: the base's own loss before and after, printed and kept by every such run.

    forgetting = of(run, loaded, codec, progress)     # before anything is added; None where nothing can be measured
    forgetting.told(module)                           # {"before": 2.31, "after": 2.38, "on": "..."}, once it is adapted

A base that lies in its run folder is judged by what that run minimised on what it held out, if its corpus is still
there. Any other decoder is judged on texts that the base writes itself at temperature 1: there the rise of the loss is
an estimate of KL(base || adapted) a token, which is never below zero but by chance. Both are measured in fp32.
"""
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from meristem.adapt import files
from meristem.codecs.base import Codec
from meristem.core import registry
from meristem.core.config import from_dict
from meristem.core.errors import MeristemError
from meristem.core.files import read_json
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.core.run import Run
from meristem.core.types import Batch
from meristem.data.shards import tokenise
from meristem.generate.autoregressive import generate
from meristem.hub import hf
from meristem.nn.attention import two_way
from meristem.objectives.base import Objective, make
from meristem.objectives.next_token import NextToken
from meristem.train import hooks
from meristem.train.run import RECIPE, corpus_of
from meristem.train.sources import apart, held_out_of

TOKENS, PICTURES = 1 << 14, 256         # how much is looked at, at most
TEXTS, LENGTH = 64, 64                  # of the base's own


@dataclass(frozen=True)
class Forgetting:
    """What the base is judged by, and its loss before it was adapted."""

    on: str
    before: float
    loss: Callable[[nn.Module], float]
    loaded: hf.Loaded
    head: dict[str, torch.Tensor]       # the base's own, where the run gives it another

    def told(self, module: nn.Module) -> dict[str, Any] | None:
        """The loss of the adapted module, in nats a term; None where its head is another and its weights not plain."""
        if self.head and files.method_of(module):
            return None
        after = self.loss(self.headed(module))
        return {"before": self.before, "after": after, "rise": after - self.before, "on": self.on}

    def headed(self, module: nn.Module) -> nn.Module:
        """The module under the base's head."""
        if not self.head:
            return module
        made: nn.Module = registry.load("models", self.loaded.family).Model(self.loaded.config)
        made.load_state_dict({**{n: t for n, t in module.state_dict().items() if n in made.state_dict()}, **self.head},
                             strict=False)
        return made


def of(run: Run, loaded: hf.Loaded, codec: Codec, progress: Progress) -> Forgetting | None:
    """The base's loss before it is adapted; None, and a line that says why, where it cannot be measured."""
    try:
        on, loss = _own_run(loaded, codec)
    except (MeristemError, OSError, ValueError, KeyError, AttributeError) as error:
        takes = inspect.signature(loaded.module.forward).parameters
        if "positions" not in takes or "source" in takes or two_way(loaded.module):
            progress.say(f"forgetting is not measured: {error}")
            return None
        on, loss = _own_texts(loaded, codec)
    other = "head" in run.model.fields
    head = {n: t.clone() for n, t in loaded.module.state_dict().items() if n.startswith("head.")} if other else {}
    return Forgetting(on, loss(loaded.module), loss, loaded, head)


def _own_run(loaded: hf.Loaded, codec: Codec) -> tuple[str, Callable[[nn.Module], float]]:
    """What the run that made the base minimised, on its held-out data; an error where it cannot be asked."""
    run = from_dict(Run, read_json(loaded.folder.parent / RECIPE))
    corpus = corpus_of(run)
    shards = tokenise(corpus, codec)

    def objective(module: nn.Module) -> Objective:
        return make(run.objective.name, module, run.objective.fields, codec, loaded.chat)

    asked = objective(loaded.module)
    batches = _some(apart(run, held_out_of(run, corpus, codec, shards, asked, loaded.chat), codec.end))
    return (f"held-out data of {Path(run.data.corpus).name}, by {run.objective.name}",
            lambda module: _validated(objective(module), batches))


def _own_texts(loaded: hf.Loaded, codec: Codec) -> tuple[str, Callable[[nn.Module], float]]:
    length = min(LENGTH, loaded.config.context - 1)
    made = generate(loaded.module, [np.array([codec.end])] * TEXTS, length=length, temperature=1.0,
                    seed=seed_of(0, "forgetting"))
    tokens = torch.tensor([[codec.end, *g.tokens] for g in made])
    batch = {"tokens": tokens, "weight": torch.ones(TEXTS, length)}
    return f"{TEXTS} texts that it wrote itself", lambda module: _validated(NextToken(module), [batch])


def _validated(objective: Objective, batches: list[Batch]) -> float:
    training = objective.model.training
    try:
        return hooks.validate(objective, batches)
    finally:
        objective.model.train(training)


def _some(batches: list[Batch]) -> list[Batch]:
    """The first batches, up to so many tokens or pictures."""
    kept, left = list[Batch](), 1.0
    for batch in batches:
        if left <= 0:
            break
        kept.append(batch)
        left -= batch["tokens"].numel() / TOKENS if "tokens" in batch else len(next(iter(batch.values()))) / PICTURES
    return kept
