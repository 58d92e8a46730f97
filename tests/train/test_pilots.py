"""Tiny runs are trained once, kept as lines, and read again."""
from dataclasses import replace
from pathlib import Path

import pytest

from meristem.core.config import Part
from meristem.corpus.curate import curate
from meristem.corpus.store import Corpus
from meristem.data.shards import tokenise
from meristem.plan.plan import TEMPLATE, Shape, Text, recipe
from meristem.train import pilots
from meristem.train.run import codec_of


@pytest.fixture(scope="module")
def asked(real_files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Text, Corpus]:
    corpus = curate([real_files], tmp_path_factory.mktemp("pilots") / "corpus")
    part = Part("bpe", {"vocab": 300})
    codec = codec_of(part, corpus)
    return Text.of(corpus, tokenise(corpus, codec), codec, part), corpus


def test_a_pilot_is_trained_once_and_read_afterwards(asked, tmp_path, monkeypatch) -> None:
    text, corpus = asked
    template = replace(TEMPLATE, train=replace(TEMPLATE.train, compile=False, dtype="float32"))
    run = recipe(Shape(32, 1, 32), 3 * 2048, text, template)
    rows = tmp_path / "rows.jsonl"
    row, = pilots.pilots([run], text, corpus, tmp_path / "work", rows)
    assert row["tokens"] == 3 * 2048 and row["parameters"] > 300 * 32 and 2 < row["bits_per_byte"] < 8
    assert row["bits_per_byte"] * text.held_out * 0.6931 == pytest.approx(row["loss_nats"], rel=1e-3)
    assert not list((tmp_path / "work").iterdir())
    with rows.open("a") as f:
        f.write('{"dim": 32, "torn')
    monkeypatch.setattr(pilots, "pretrain", lambda *a, **k: pytest.fail("trained again"))
    assert pilots.pilots([run], text, corpus, tmp_path / "work", rows) == [row]
    point, = pilots.points_of([row])
    assert point.tolist() == [row["parameters"], pytest.approx(row["bytes"]), row["bits_per_byte"]]
