"""A run assembled from its recipe: which batches its data settings give."""
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from meristem.core.config import Part
from meristem.core.run import Data, Run, Train
from meristem.corpus.curate import curate
from meristem.train.run import Parts, assemble, trainer_of

SMALL = {"dim": 32, "layers": 1, "heads": 2}
TRAIN = Train(steps=4, batch=4, micro=2, context=128, warmup=1, dtype="float32", compile=False)


@pytest.fixture(scope="module")
def run(real_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    corpus = curate([real_files], tmp_path_factory.mktemp("run") / "corpus")
    return Run("small", model=Part("llama", SMALL), data=Data(str(corpus.folder), Part("char")), train=TRAIN)


def batches(parts: Parts) -> list[dict[str, torch.Tensor]]:
    """Two epochs of training batches or so, and the held-out ones."""
    return [batch for step in range(200) for batch in parts.source(step)] + parts.held_out


def test_separate_packing_marks_every_batch_and_changes_no_token(run: Run) -> None:
    joined = assemble(run)
    separate = assemble(replace(run, data=replace(run.data, packing="separate")))
    end, crossed = joined.codec.end, 0
    for plain, marked in zip(batches(joined), batches(separate), strict=True):
        assert set(plain) == {"tokens", "weight"} and set(marked) == {*plain, "segments", "positions"}
        assert torch.equal(plain["tokens"], marked["tokens"]) and torch.equal(plain["weight"], marked["weight"])
        ends = marked["tokens"][:, :-1] == end
        assert torch.equal(marked["segments"], ends.cumsum(1)) and not marked["positions"][ends].any()
        crossed += int(ends.sum())
    assert crossed > 10


def test_a_separately_packed_run_trains(run: Run) -> None:
    parts = assemble(replace(run, data=replace(run.data, packing="separate"), train=replace(TRAIN, lr=1e-2)))
    losses = [trainer.update(parts.source(0))["loss"] for trainer in [trainer_of(parts)] for _ in range(4)]
    assert losses[-1] < losses[0] - 0.1
