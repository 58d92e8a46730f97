"""Tasks of the ladders: surprise at answers, bits by source, loss by position, label efficiency of texts."""
import zipfile

import numpy as np
import pytest
import torch

from meristem.codecs import char
from meristem.core.progress import SILENT
from meristem.corpus import toy
from meristem.evals import run
from meristem.evals.subject import Subject
from meristem.evals.tasks import answer_nats, bits_by_source, loss_by_position, text_probe
from meristem.models import llama


class Sure:
    """Gives every token the same probability, by its place when `falling`."""

    def __init__(self, codec, falling=False):
        self.codec, self.falling = codec, falling

    def score(self, pairs):
        return [-1.0 / (1 + np.arange(len(a))) if self.falling else np.full(len(a), -0.5) for _, a in pairs]

    def room(self, length):
        return 1000 - length


def test_surprise_counts_the_answer_and_its_line_end(tmp_path):
    corpus = toy.make("mapping", tmp_path / "toy", {"documents": 80, "shots": 6})
    codec = char.fit(d.text for d in corpus.documents("train"))
    items = answer_nats.TASK.items(corpus, codec, 5, 0)
    made = answer_nats.TASK.run(Sure(codec), items, 0, SILENT)
    assert made.values["answer_nats"] == [1.0] * 5             # a digit and the line end


def test_bits_are_counted_by_source(make_corpus):
    text = "line of text\n" * 40
    corpus = make_corpus(suffix="/file.py", train=["x"], test=[f"{n}\n{text}" for n in range(12)])
    task = bits_by_source.TASK.on(corpus)
    codec = char.fit([text + "0123456789"])
    items = task.items(corpus, codec, 8, 0)
    made = task.run(Sure(codec), items, 0, SILENT)
    assert [m.name for m in task.metrics] == ["bits_of_others"]        # twelve folders of one document each
    value = sum(made.values["bits_of_others"]) / sum(made.weights["bits_of_others"])
    assert value == pytest.approx(0.5 / np.log(2), rel=0.02)
    sources = {bits_by_source.source_of(d) for d in corpus.documents("test")}
    assert len(sources) == 12


def test_loss_is_counted_by_place(make_corpus):
    corpus = make_corpus(train=["x"], test=["ab" * 100, "ba" * 30])
    task, codec = loss_by_position.TASK.on(corpus), char.fit(["ab"])
    items = task.items(corpus, codec, 9, 0)
    made = task.run(Sure(codec, falling=True), items, 0, SILENT)
    first, later = (sum(made.values[f"loss_at_{n}"]) / sum(made.weights[f"loss_at_{n}"]) for n in (0, 64))
    assert first == pytest.approx((1 / (1 + np.arange(16))).mean()) and later < 0.02
    assert [m.name for m in task.metrics] == ["loss_at_0", "loss_at_16", "loss_at_64"]


def test_labels_are_worth_what_the_vectors_hold(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "sentence_polarity.zip", "w") as archive:
        for side, word in (("neg", "bad"), ("pos", "good")):
            archive.writestr(f"rt-polarity.{side}", "".join(f"{word} {n} film\n" for n in range(150)))
    codec = char.fit(["".join(map(chr, range(32, 127))) + "\n"])
    module = llama.Model(llama.Config(vocab=codec.vocab, context=32, dim=16, layers=1, heads=2, groups=1, hidden=32))
    subject = Subject(module.eval(), codec, "h", 32, "x")
    task = run.task_of("text_probe", tmp_path)
    items = task.items(None, codec, 40, 0)
    assert not {i.group for i in items} & {i.group for i in task.pool(items, 0)}
    monkeypatch.setattr(text_probe, "LABELS", (50,))
    monkeypatch.setattr(text_probe, "METRICS", text_probe.METRICS[1:2])
    made = task.run(subject, items, 0, SILENT)
    counts = task.baselines(None, items, None, 0)["text_probe_50"].outcome
    assert np.mean(counts.values["text_probe_50"]) > 0.9 and len(made.values["text_probe_50"]) == 40
    other = text_probe.untrained(subject)
    assert other.model_hash != subject.model_hash and not torch.equal(other.module.embed.weight, module.embed.weight)
