"""Tasks about pictures: neighbours and probes find what is there; models that read no text are asked too."""
from pathlib import Path

import numpy as np
import pytest
import torch

from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.data import cues, scenes, strokes
from meristem.data.views import turned
from meristem.evals import classic, run
from meristem.evals.base import Item
from meristem.evals.pictures import Seen, vectors
from meristem.evals.subject import NoText, Subject
from meristem.evals.tasks import cue_conflict, knn, linear_probe
from meristem.models import gpt2, vit


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    fields = {"documents": 160, "side": 16, "held_out": 0.0, "objects": 1}
    return scenes.make(tmp_path_factory.mktemp("scenes") / "corpus", fields)


@pytest.fixture(autouse=True)
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classic, "TREES", 3)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    torch.manual_seed(0)
    module = vit.Model(vit.Config(image=16, patch=4, dim=32, layers=1, heads=2)).eval()
    return Subject(module, NoText(), "a ViT", 0, "vit", tmp_path / "run")


def test_the_vote_is_that_of_the_nearest() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 1.4, 1.5, 1.6])
    train = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([5.0, 1, 1, 1, 1, 9])[:, None]
    test = torch.tensor([[3.0, 0.4], [0.1, 2.0]])
    assert knn.vote(train, torch.tensor([0, 0, 0, 1, 1, 1]), test, 3).tolist() == [0, 1]
    # the nearest outweighs two that lie a radian away
    assert knn.vote(train[[0, 3, 4]], torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.2]]), 3).tolist() == [0]


def test_logistic_regression_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 6)).astype(np.float32)
    classes = (x @ rng.normal(size=(6, 3)) + rng.normal(size=(150, 3))).argmax(1)
    z = (x - x.mean(0)) / x.std(0)
    theirs = linear_model.LogisticRegression(C=1 / (0.01 * len(x)), tol=1e-8, max_iter=2000).fit(z, classes)
    ours = classic.Logistic.fit(torch.from_numpy(x), torch.from_numpy(classes), 3, decay=0.01)
    np.testing.assert_allclose(ours.weight.T.numpy(), theirs.coef_, atol=2e-3)
    assert (ours.classes(torch.from_numpy(x)).numpy() == theirs.predict(z)).all()


def test_a_constant_feature_counts_for_nothing() -> None:
    x = torch.cat([torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), torch.full((60, 1), 0.3)], 1)
    classes = (x[:, 0] > 0).long()
    fitted = classic.Logistic.tuned(x, classes, 2)
    assert float((fitted.classes(x) == classes).float().mean()) > 0.95
    assert torch.equal(fitted.classes(x + torch.tensor([0, 0, 1e-6])), fitted.classes(x))


def test_certificates_of_pictures_stand_beside_baselines(corpus: Corpus, subject: Subject,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classic, "ROUNDS", 3)                  # 48 classes of 2,352 numbers, fitted fifty times
    monkeypatch.setattr(linear_probe, "DRAWS", 1)
    [score] = run.evaluate(subject, corpus, ["knn"])
    assert score.n == 16 and score.baseline is not None and "pixels" in score.baseline.what
    assert [one.what.partition(" on")[0] for one in score.beside][0] == "logistic regression"
    assert score.contamination is not None and score.contamination.exact == 0
    assert run.read(subject.folder) == [score]
    asked = {s.task for s in run.evaluate(subject, corpus, limit=8)}
    assert asked >= {"knn", "linear_probe"} and "classes" not in asked, "a model that sees is asked what it can be"


def test_neighbours_of_the_labels_themselves_are_right(corpus: Corpus, subject: Subject,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that tell the classes apart give the known score; equal ones give that of the most common class."""
    every = {name: i for i, name in enumerate(corpus.summary["labels"])}
    known = {d.id: every[d.fields["label"]] for split in ("train", "test") for d in corpus.documents(split)}
    rows = {Seen.of(corpus, s, 16).pixels.tobytes(): Seen.of(corpus, s, 16) for s in ("train", "test")}

    def told(module, pixels):
        seen = next((one for one in rows.values() if len(one.pixels) == len(pixels)), None)
        return torch.eye(len(every))[[known[i] for i in seen.ids]]
    monkeypatch.setattr(knn, "vectors", told)
    [score] = run.evaluate(subject, corpus, ["knn"])
    there = {d.fields["label"] for d in corpus.documents("train")}
    assert score.value == np.mean([d.fields["label"] in there for d in corpus.documents("test")])


def test_what_sees_nothing_is_refused(corpus: Corpus, subject: Subject) -> None:
    words = gpt2.Model(gpt2.Config(vocab=50, context=8, dim=16, layers=1, heads=1))
    with pytest.raises(RequestError, match="knn: this model sees no pictures"):
        run.evaluate(Subject(words, NoText(), "x", 8), corpus, ["knn"])
    with pytest.raises(RequestError, match="reads no text"):
        run.evaluate(subject, corpus, ["bits_per_byte"])


def test_vectors_come_in_the_order_of_the_pictures(corpus: Corpus, subject: Subject) -> None:
    pixels = Seen.of(corpus, "train", 16).pixels
    whole = vectors(subject.module, pixels)
    some = vectors(subject.module, pixels[7:9])
    assert whole.shape == (len(pixels), 32) and torch.allclose(whole[7:9], some, atol=1e-5)


def test_a_probe_learns_from_the_labels_that_it_is_given(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = np.array([0] * 30 + [1] * 5 + [2] * 10)
    rows = linear_probe.chosen(classes, 18, 3)
    assert len(set(rows)) == 18 and sorted(np.bincount(classes[rows])) == [5, 6, 7]
    assert sorted(linear_probe.chosen(classes, 0, 3)) == list(range(45))
    assert not np.array_equal(rows, linear_probe.chosen(classes, 18, 4))
    x = torch.eye(3)[torch.from_numpy(classes)] + 0.1 * torch.randn(45, 3, generator=torch.Generator().manual_seed(0))
    items = [Item("", "", str(c)) for c in (0, 1, 2, 2, 9)]
    said = linear_probe.curve(x, [str(c) for c in classes], torch.eye(3)[[0, 1, 2, 0, 1]], items, 10, 0)
    assert said == [1, 1, 1, 0, 0]


def test_a_head_of_classes_is_asked_for_its_classes(corpus: Corpus, tmp_path: Path) -> None:
    labels = tuple(corpus.summary["labels"])
    module = vit.Model(vit.Config(image=16, patch=4, dim=32, layers=1, heads=2, head="image", labels=labels)).eval()
    with torch.no_grad():
        module.head.bias[5] = 1.0
    [score] = run.evaluate(Subject(module, NoText(), "x", 0, folder=tmp_path / "run"), corpus, ["classes"])
    assert score.value == np.mean([d.fields["label"] == labels[5] for d in corpus.documents("test")])
    assert score.baseline is not None and "logistic" in score.baseline.what


def test_a_model_that_goes_by_shape_is_seen_to(tmp_path: Path) -> None:
    corpus = cues.make(tmp_path / "cues", {"documents": 120, "side": 16})
    task = cue_conflict.TASK.on(corpus)
    items = task.items(corpus, NoText(), 99, 0)
    pairs = [item.answer.split("/") for item in items]
    assert len(items) == 12 and all(a != b for a, b in pairs)
    other = [next(s for s in scenes.SHAPES if s not in pair) for pair in pairs]
    for answers, share, decided in (([a for a, _ in pairs], 1, 12), ([b for _, b in pairs], 0, 12),
                                    ([a for a, _ in pairs[:3]] + [b for _, b in pairs[3:6]] + other[6:], 0.5, 6)):
        found = cue_conflict._outcome(answers, items)
        values, weights = found.values["shape_decisions"], found.weights["shape_decisions"]
        assert sum(values) / sum(weights) == share and sum(weights) == sum(found.values["decided"]) == decided
    assert not cue_conflict.TASK.items(scenes.make(tmp_path / "scenes", {"documents": 20, "side": 16}), NoText(), 9, 0)


def test_turned_pictures_are_asked_at_every_angle(corpus: Corpus, subject: Subject) -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    torch.testing.assert_close(turned(images, 90), images.rot90(-1, (2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned(images, 180), images.flip(2, 3), atol=1e-4, rtol=0)
    scores = run.evaluate(subject, corpus, ["rotation", "knn"])
    by_name = {s.name: s.value for s in scores}
    assert by_name["turned_0"] == by_name["knn"] and len(scores) == 7
    assert all(s.baseline is not None for s in scores)


@pytest.mark.parametrize("grey", [True, False])
def test_corrupted_pictures_have_a_baseline_with_and_without_colour(tmp_path: Path, corpus: Corpus, subject: Subject,
                                                                    grey: bool) -> None:
    made = strokes.make(tmp_path / "strokes", {"documents": 60}) if grey else corpus
    scores = {s.name: s for s in run.evaluate(subject, made, ["corruptions"], limit=8)}
    assert len(scores) == 17 and all(s.baseline is not None for s in scores.values())
    fifteen = [s.value for name, s in scores.items() if name not in ("corrupted_clean", "corrupted_mean")]
    assert scores["corrupted_mean"].value == pytest.approx(sum(fifteen) / 15)
