"""Policies judged in a loop and beside demonstrations: known policies get known scores, a tiny run goes through."""
from pathlib import Path

import numpy as np
import pytest

from meristem.codecs.action import Bins
from meristem.corpus.store import Corpus
from meristem.data import gridworld
from meristem.data.worlds import WORLD
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.evals.tasks.closed_loop import TASK
from meristem.generate.acting import Actor
from meristem.recipes import resolve
from meristem.train.run import pretrain

EDITS = {"train.steps": 2, "train.batch": 4, "train.warmup": 1, "train.dtype": "float32", "train.context": 40,
         "model.language": {"name": "llama", "fields": {"dim": 32, "layers": 1, "heads": 2}},
         "model.vision": {"name": "clip", "fields": {"image": 16, "patch": 8,
                                                     "vision": {"dim": 32, "layers": 1, "heads": 2}}}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    small = {"documents": 20, "size": 3, "things": 2}
    return gridworld.make(tmp_path_factory.mktemp("grid") / "corpus", small)


@pytest.fixture(scope="module")
def policy(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(resolve("rt2", {**EDITS, "data.corpus": str(corpus.folder)})[0],
                    tmp_path_factory.mktemp("rt2") / "run")


def test_known_policies_get_known_scores(corpus: Corpus) -> None:
    items = TASK.items(corpus, None, 30, 0)
    numbers = {TASK.episode("test", n).frame().tobytes(): n for n in range(30)}

    def knows(told: list[str], frames: list[np.ndarray]) -> list[np.ndarray]:
        """Jumps to the goal by its number in the list, if it is told anything: not from what it sees."""
        made = []
        for text, frame in zip(told, frames, strict=True):
            number = numbers.get(frame.tobytes())
            world = TASK.episode("test", number) if number is not None and text != "go" else None
            made.append(world.expert() if world else np.array([0, 0, 1.0]))
        return made
    values = TASK._outcome(items, knows).values
    assert sum(values["closed_loop_untold"]) == sum(values["closed_loop_seen"]) == 0
    near = [max(abs(a - b) for a, b in zip(w.at, w.target, strict=True)) <= 1
            for w in (TASK.episode("test", n) for n in range(30))]
    assert values["closed_loop"] == [float(one) for one in near], "it walks one step and stops"
    random = TASK.baselines(corpus, items, None, 0)["closed_loop"].outcome.values["closed_loop"]
    assert np.mean(random) < 0.4


def test_a_policy_writes_numbers_only_and_is_judged(policy: Path, corpus: Corpus) -> None:
    subject = Subject.open(policy)
    actor = Actor(subject.module, subject.codec, 3)
    frame = np.zeros((3, 16, 16), dtype=np.uint8)
    (action,) = actor(["go to the red circle"], [frame])
    assert action.shape == (3,) and (Bins.of(subject.codec).ids(action) >= 2).all() and (np.abs(action) < 1).all()
    world = corpus.folder.with_name("corpus.rows") / WORLD
    scores = evaluate(subject, corpus, [f"closed_loop={world}", "action_error"], limit=2)
    assert [s.name for s in scores] == ["closed_loop", "closed_loop_seen", "closed_loop_untold", "action_error",
                                        "action_error_elsewhere", "action_bins"]
    error = scores[3]
    assert 0 <= error.value <= 2 and error.baseline and error.interval.low <= error.value <= error.interval.high
