"""Pairs: what a row holds, that all of it comes back, and a run from a file of lines to a model that answers."""
import json
from pathlib import Path

import numpy as np
import pytest

from meristem.codecs.char import Char
from meristem.core.errors import RequestError
from meristem.corpus.labelled import labelled
from meristem.data.pairs import Pairs, texts

CODEC = Char("abcdefghijklmnopqrstuvwxyz: ")


def words(count: int, seed: int = 0) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    made = ["".join(rng.choice(list("abcdefgh"), rng.integers(1, 9))) for _ in range(count)]
    return [(f"reverse: {w}", w[::-1]) for w in dict.fromkeys(made)]


def write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"input": a, "target": b}) + "\n" for a, b in pairs))
    return path


def unpacked(source: Pairs) -> list[tuple[str, str]]:
    """Every pair of every row, read back by its number."""
    found = []
    batch = {key: value.numpy() for key, value in source.batch(np.arange(len(source.rows["tokens"]))).items()}
    for r in range(len(batch["tokens"])):
        for number in range(batch["segments"][r].max() + 1):
            read = batch["source"][r][batch["source_segments"][r] == number]
            mine = (batch["segments"][r] == number) & (batch["weight"][r] > 0)
            written = batch["tokens"][r, 1:][mine]
            assert read[-1] == written[-1] == CODEC.end
            assert not batch["weight"][r][np.flatnonzero(mine)[-1] + 1:][:1].any(), "the next start is not predicted"
            found.append((CODEC.decode(read), CODEC.decode(written)))
    return found


def test_every_pair_is_in_one_row_whole() -> None:
    pairs = words(300)
    source = Pairs(pairs, CODEC, 64, 4, 0)
    assert sorted(unpacked(source)) == sorted(pairs) and source.skipped == 0
    assert source.rows["source"].shape[1] <= 64 and source.rows["tokens"].shape[1] <= 65
    assert len(source.rows["tokens"]) < len(pairs) / 3, "several share a row"


def test_batches_are_a_function_of_seed_and_step() -> None:
    pairs = words(100)
    one, two = (Pairs(pairs, CODEC, 40, 4, 7, micro=2) for _ in range(2))
    assert [b["tokens"].tolist() for b in one(5)] == [b["tokens"].tolist() for b in two(5)]
    assert [b["source"].shape[0] for b in one(0)] == [2, 2]
    rows = len(one.rows["tokens"])
    epoch = [r for step in range(rows) for r in np.concatenate(one.order(step)).tolist()][:rows]
    assert sorted(epoch) == list(range(rows))
    held = list(one.held_out(3, 10**6))
    assert sum(len(b["tokens"]) for b in held) == rows


def test_too_long_is_counted_and_nothing_left_is_an_error() -> None:
    pairs = [("a" * 30, "b"), ("a", "b" * 30), ("a", "b")]
    source = Pairs(pairs, CODEC, 16, 1, 0)
    assert source.skipped == 2 and unpacked(source) == [("a", "b")]
    with pytest.raises(RequestError, match="raise train.context"):
        Pairs(pairs[:2], CODEC, 16, 1, 0)


def test_a_file_of_lines_becomes_a_corpus(tmp_path: Path) -> None:
    pairs = words(200)
    corpus = labelled(write(tmp_path / "tasks.jsonl", pairs))
    splits = [texts(corpus, split) for split in ("train", "validation", "test")]
    assert sorted(sum(splits, [])) == sorted(pairs) and all(splits)
    assert next(iter(corpus.documents("train"))).text.count("\n") == 1
    for row, words_ in (({"input": "a"}, "input and target"), ({"input": "a", "target": " "}, "not empty")):
        (tmp_path / "bad.jsonl").write_text(json.dumps(row))
        with pytest.raises(RequestError, match=f"bad.jsonl:1: .*{words_}"):
            labelled(tmp_path / "bad.jsonl")


def test_other_rows_are_no_pairs(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"text {n}", "label": "x"}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    with pytest.raises(RequestError, match="has no pairs"):
        texts(labelled(tmp_path / "rows.jsonl"), "train")
