"""Instructions carried out in a simulator, step by step, by what the model sees: held-out things, and with no words.

    meristem evaluate runs/rt2 --corpus runs/grid --tasks closed_loop=runs/grid.rows/world.json

Items are episodes that no demonstration shows, whose instructions name what training never named so (in the gridworld:
pairs of colour and shape). Beside: seen pairs in new episodes, and the control, the same episodes with the instruction
removed: what is left needs no language. Baseline: actions drawn at random. Without a file the world is that of
`toy:gridworld` as it is.
"""
import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.data import gridworld
from meristem.data.worlds import Attempt, Kind, World, opened, together
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.subject import Subject
from meristem.generate.acting import Actor
from meristem.generate.seeing import sees

ON_REQUEST = True
METRICS = (
    Metric("closed_loop", "episodes whose unseen instruction was carried out", "share", "share", True),
    Metric("closed_loop_seen", "the same where the named pair is known from training", "share", "ratio", True),
    Metric("closed_loop_untold", "unseen pairs, with the instruction removed", "share", "ratio", False))


class ClosedLoop:
    """Items are episodes of the test split, by number."""

    name, version, count = "closed_loop", 1, 200
    metrics = METRICS

    def __init__(self, world: Kind | None = None, dims: int = gridworld.DIMS) -> None:
        self.world, self.dims = world or gridworld.Gridworld(), dims

    def reading(self, file: Path) -> "ClosedLoop":
        """In the world of a file that `toy:gridworld`, `toy:babyai` or `toy:arm` wrote."""
        return ClosedLoop(*opened(file))

    def fits(self, module: nn.Module) -> str:
        """A model that reads pictures among words is needed."""
        return "" if sees(module) else "this model reads no pictures among words"

    def on(self, corpus: Corpus) -> "ClosedLoop":
        """The same: the world is not the corpus's."""
        return copy.copy(self)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """The first `limit` episodes beyond those that are recorded."""
        return [Item(str(number), self.episode("test", number).instruction, "success") for number in range(limit)]

    def episode(self, split: str, number: int) -> World:
        """An episode that no recording has."""
        return self.world.episode(split, self.world.documents + number)

    def seen(self, items: Sequence[Item]) -> list[bool]:
        """None of them is recorded."""
        return [False] * len(items)

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Each episode three times: told, in a seen pair's place, and untold."""
        assert isinstance(subject, Subject)
        actor = Actor(subject.module, subject.codec, self.dims, 1.0 if self.world.returns else None)
        return self._outcome(items, actor)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Random actions; the last number of the gridworld's, a stop, is positive with one chance in `limit`."""
        rng = np.random.default_rng(seed_of(seed, self.name))

        def drawn(told: Sequence[str], frames: Sequence[np.ndarray]) -> list[np.ndarray]:
            actions = rng.uniform(-1, 1, (len(told), self.dims))
            if isinstance(self.world, gridworld.Gridworld):
                actions[:, -1] = np.where(rng.random(len(told)) < 1 / self.world.limit, 1.0, -1.0)
            return list(actions)
        made = self._outcome(items, drawn)
        return {metric.name: Baseline("random actions", made) for metric in METRICS}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The expert always succeeds."""
        return {}

    def _outcome(self, items: Sequence[Item],
                 policy: Callable[[Sequence[str], Sequence[np.ndarray]], list[np.ndarray]]) -> Outcome:
        numbers = [int(item.group) for item in items]
        runs = {METRICS[0].name: self._tried(policy, "test", numbers),
                METRICS[1].name: self._tried(policy, "validation", numbers),
                METRICS[2].name: self._tried(policy, "test", numbers, told=False)}
        said = [f"{run.steps} steps" for run in runs[METRICS[0].name]]
        return Outcome({name: [float(run.success) for run in some] for name, some in runs.items()},
                       {name: [1.0] * len(items) for name in runs}, said)

    def _tried(self, policy: Callable[..., list[np.ndarray]], split: str, numbers: Sequence[int],
               told: bool = True) -> list[Attempt]:
        worlds = [self.episode(split, number) for number in numbers]
        return together(worlds, policy, None if told else ["go"] * len(worlds))


TASK = ClosedLoop()
