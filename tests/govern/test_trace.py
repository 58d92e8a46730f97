"""From a text to the documents and steps of a real run; the steps against the batches themselves."""
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from meristem.core.errors import RequestError
from meristem.corpus.curate import curate
from meristem.govern.trace import Tracer, trace
from meristem.recipes import resolve
from meristem.train.run import pretrain

SMALL = {"model.dim": 32, "model.layers": 1, "model.heads": 2, "model.groups": 1, "model.hidden": 64,
         "train.context": 32, "train.batch": 4, "train.compile": False, "train.dtype": "float32",
         "train.validate_every": 0, "train.sample_every": 0, "data.codec.vocab": 400}


@pytest.fixture(scope="module")
def run(real_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    corpus = curate([real_files], folder / "corpus")
    made, _ = resolve("llama", {**SMALL, "data.corpus": str(corpus.folder), "train.steps": 80})
    return pretrain(made, folder / "run")


def test_a_planted_span_is_found_with_its_document_and_the_rest_is_not(run):
    tracer = Tracer(run)
    row = tracer.index.row(7)
    piece = row["text"][40:160]
    found = tracer(f"zq {piece} qz")
    assert piece in found.spans[0].text and len(found.spans[0].text) < 126
    place = next(p for p in found.spans[0].places if p.document == row["id"])
    assert (place.path, place.licence) == (row["path"], row["licence"])
    assert row["text"][place.character:].startswith(found.spans[0].text)
    assert 0.9 < found.covered < 1
    assert not tracer("zq" * 40).spans and tracer("zq" * 40).covered == 0


def test_the_steps_are_those_whose_batches_held_the_tokens(run):
    """Every step is drawn again: a span is in a batch when all its tokens stand in its rows."""
    from meristem.data.loader import Packed
    tracer = Tracer(run)
    seen = tracer.seen
    source = Packed(seen.split, seen.context, seen.batch, seen.seed)
    drawn = [set(source.order(step)[0].tolist()) for step in range(seen.done)]
    rows = {row["id"]: row for row in map(tracer.index.row, range(len(tracer.index.starts)))}
    rng, checked = np.random.default_rng(0), 0
    for _ in range(60):
        number = int(rng.integers(len(seen.split.starts)))
        row = rows[seen.split.ids[number]]
        places = seen.codec.places(row["text"])
        if len(places) < 12:
            continue
        first = int(rng.integers(len(places) - 8))
        start, stop = places[first][0], places[first + 5][1]
        at = int(seen.split.starts[number]) + first
        of = {max(0, token - 1) // seen.context for token in range(at, at + 6)}    # the windows whose targets they are
        held = [step + 1 for step, windows in enumerate(drawn) if windows & of]
        assert seen.steps(row["id"], row["text"], start, stop) == held
        assert dataclasses.replace(seen, sizes=None).steps(row["id"], row["text"], start, stop) == held
        checked += bool(held)
    assert checked > 2, "none of the spans was ever shown"


def test_what_a_later_epoch_shows_again_is_told_twice(run):
    tracer = Tracer(run)
    row = tracer.index.row(3)
    count = len(tracer.seen.steps(row["id"], row["text"], 0, 5))
    tracer.seen.done = 3 * (len(tracer.seen.split.tokens) // (32 * 4) + 1)
    assert len(tracer.seen.steps(row["id"], row["text"], 0, 5)) in (3, 4) and count <= 1


def test_a_run_without_its_corpus_is_refused_in_one_line(run, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("recipe.json", "manifest.json"):
        (moved / name).write_text((run / name).read_text().replace("/corpus", "/gone"))
    with pytest.raises(RequestError, match="bring it back, or put it beside"):
        trace("def", moved)
