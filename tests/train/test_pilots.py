"""Tiny runs are trained once, kept as lines, and read again."""
import json
from dataclasses import replace
from pathlib import Path

import pytest

from meristem.core.config import Part
from meristem.core.errors import RequestError
from meristem.corpus.curate import curate
from meristem.corpus.store import Corpus
from meristem.data.shards import tokenise
from meristem.plan import forecast, scaling
from meristem.plan.plan import TEMPLATE, Shape, Text, recipe
from meristem.plan.scaling import Law
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


def test_a_law_rests_on_earlier_runs_where_there_are_some(asked, monkeypatch) -> None:
    """Rows of a planted law stand in the corpus folder; nothing is trained."""
    text, corpus = asked
    true = Law(1.0, 20.0, 0.35, 150.0, 0.34, unit="bits/byte")
    runs = [recipe(Shape(dim, layers), tokens, text, TEMPLATE) for dim, layers, tokens in pilots.SET[:4]]
    rows = corpus.folder / pilots.FOLDER / "rows.jsonl"
    rows.parent.mkdir()
    for run in runs:
        key = pilots.key_of(run, text, corpus)
        size, data = key["dim"] ** 2 * 40, round(key["tokens"] * text.bytes_per_token)
        row = {**key, "parameters": size, "bytes": data, "unique_bytes": 10 * data,
               "bits_per_byte": true.loss(size, data)}
        with rows.open("a") as f:
            f.write(json.dumps(row) + "\n")
    monkeypatch.setattr(pilots, "pretrain", lambda *a, **k: pytest.fail("trained"))
    monkeypatch.setattr(forecast, "DRAWS", 3)
    monkeypatch.setattr(scaling, "STARTS", 3)
    assert pilots.there(corpus, text.vocab) == 4 and pilots.there(corpus, 9) == 0
    found = pilots.law_of(text, corpus, TEMPLATE, 4)
    near = (128**2 * 40, 1e6 * text.bytes_per_token)
    assert found.law.loss(*near) == pytest.approx(true.loss(*near), rel=0.02) and "4 tiny runs" in found.law.source
    assert abs(found.law.E - true.E) < 0.2 and scaling.own().E < 0.5, "the runs moved the law of the package"
    with pytest.raises(RequestError, match="needs 4 to 8"):
        pilots.law_of(text, corpus, TEMPLATE, 3)
