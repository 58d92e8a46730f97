"""Gaps, next sentences and written prose: who knows the text is right, who knows nothing guesses, copies are found."""
import numpy as np
import pytest

from meristem.codecs import char
from meristem.core.progress import SILENT
from meristem.evals.tasks import cloze, next_sentence, prose

NAMES = ["river", "garden", "window", "letter", "captain", "stone", "harbour", "winter", "market", "candle"]


def text(n: int) -> str:
    a, b, c = (NAMES[(n * k + k) % len(NAMES)] for k in (1, 3, 7))
    return " ".join(f"The {a} number {n} stood near the {b} and nobody saw the {c} {NAMES[i]} of {n} plus {i}."
                    for i in range(8))


@pytest.fixture
def corpus(make_corpus):
    return make_corpus(suffix=".txt", train=[text(n) for n in range(12)], test=[text(n) for n in range(12, 24)])


class Knows:
    """Finds likely what stands in the texts, and the likelier the longer it stands there."""

    def __init__(self, codec, texts=()):
        self.codec, self.texts = codec, texts

    def score(self, pairs):
        rows = [(self.codec.decode(p)[-20:], self.codec.decode(a)) for p, a in pairs]
        return [np.full(len(a), -0.1 if any((before + a).strip() in t for t in self.texts) else -1.0)
                for before, a in rows]

    def room(self, length):
        return 4000 - length


def test_the_right_word_and_sentence_are_known(corpus):
    texts = [d.text for d in corpus.documents("test")]
    codec = char.fit([*texts, *(d.text for d in corpus.documents("train"))])
    for task in (cloze.TASK, next_sentence.TASK):
        items = task.items(corpus, codec, 40, 0)
        assert items == task.items(corpus, codec, 40, 0) and len(items) == 40
        assert all(len(set(i.choices)) == 4 and any(f"{i.prompt} {i.choices[i.right]}" in t for t in texts)
                   for i in items)
        places = [sum(i.right == k for i in items) for k in range(4)]
        assert min(places) > 2, "the right one stands anywhere"
        known = task.run(Knows(codec, texts), items, 0, SILENT).values[task.name]
        blind = task.run(Knows(codec), items, 0, SILENT).values[task.name]
        assert sum(known) == 40 and sum(blind) < 30            # the shortest where nothing is known
        base = task.baselines(corpus, items, lambda: Knows(codec), 0)
        assert len(base) == 2 and all(len(b.outcome.values[task.name]) == 40 for b in base.values())
        assert task.chance(items)[task.name].value == 0.25


def test_unigrams_choose_the_commonest_word(corpus):
    codec = char.fit([d.text for split in ("train", "test") for d in corpus.documents(split)])
    items = cloze.TASK.items(corpus, codec, 40, 0)
    rows = cloze.unigrams(corpus, items)
    count = cloze.counted(corpus)
    assert [max(row) for row in rows] == [max(count[c.split()[0]] for c in i.choices) for i in items]


def test_prose_is_measured_by_hand():
    assert prose.distinct(["a b a b", "a b c"]) == ([2.0, 1.0], [3.0, 2.0])
    assert prose.repeated(["a b c d a b c d", "a b c d e"]) == ([1.0, 0.0], [5.0, 2.0])
    human = [text(n)[:200] for n in range(30)]
    area = {name: np.mean(prose.told_apart(some, human, 0)[0]) for name, some in
            (("same", human), ("other", [t[::-1].upper() for t in human]))}
    assert area["same"] == 0.5 and area["other"] > 0.99


def test_the_humans_are_the_ceiling(corpus):
    codec = char.fit([d.text for split in ("train", "test") for d in corpus.documents(split)])
    items = prose.TASK.items(corpus, codec, 10, 0)
    found = prose.TASK.ceiling(items, codec)
    made = prose.judged([i.answer for i in items], [i.answer for i in items], 0)
    for metric in prose.METRICS:
        value = sum(made.values[metric.name]) / sum(made.weights[metric.name])
        assert found[metric.name].value == pytest.approx(value)
