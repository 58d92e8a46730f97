"""Questions with one right answer, after worked examples: what is asked, what counts, what certificates say of it."""
import dataclasses
import re

import numpy as np
import pytest

from meristem.codecs import char
from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.corpus import toy
from meristem.corpus.labelled import labelled
from meristem.evals import run
from meristem.evals.base import FewShot
from meristem.evals.tasks import bits_per_byte
from meristem.evals.tasks.exact_answer import TASK, looked_up


@dataclasses.dataclass
class Copier:
    """Answers with the answer of the same question above, or with 0: a perfect in-context learner of mappings."""

    codec: char.Char
    folder: object
    name: str = "copier"
    model_hash: str = "copier"
    context: int = 1000

    def complete(self, prompts, length, temperature, seed):
        assert temperature == 0
        texts = [self.codec.decode(p) for p in prompts]
        return [self.codec.encode(f"{looked_up(t) or 0}\nand on"[:length]).astype(np.int64) for t in texts]

    def room(self, length):
        return self.context - length


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy.make("mapping", tmp_path_factory.mktemp("toy") / "corpus", {"documents": 1000, "shots": 24})


@pytest.fixture
def copier(corpus, tmp_path):
    return Copier(char.fit(["and on", *(d.text for d in corpus.documents("train"))]), tmp_path / "run")


def test_the_score_of_one_who_copies_rises_as_the_ground_truth_says(corpus, copier):
    """p(key among k shots) = 1 - (7/8)^k; the rest is a guess among 10 labels."""
    for shots in (0, 4, 23):
        [score] = run.evaluate(copier, corpus, ["exact_answer"], shots=shots)
        seen = 1 - (7 / 8) ** shots
        expected = seen + (1 - seen) / 10
        assert score.n == 100 and score.value == pytest.approx(expected, abs=0.15)
        assert score.baseline.value == pytest.approx(score.value, abs=0.15) and score.cut == 0
        assert score.shots == [f"#{n}" for n in range(shots)]
        assert score.name == (f"exact_answer_{shots}_shot" if shots else "exact_answer")
        file = copier.folder / "evals" / f"exact_answer{f'-{shots}-shot' if shots else ''}.json"
        assert read_json(file)["scores"][0]["shots"] == score.shots
    assert len({s.prompt_hash for s in run.read(copier.folder)}) == 3
    assert [s.name for s in run.read(copier.folder)] == [f"exact_answer_{n}_shot" for n in (23, 4)] + ["exact_answer"]


def test_shots_are_the_first_lines_of_the_same_document(corpus, copier):
    items = TASK.items(corpus, copier.codec, 5, 0)
    documents = {d.id: d for d in corpus.documents("test")}
    asked, ids = TASK.with_shots(corpus, items, 4, 0)
    for item, before in zip(asked, items, strict=True):
        assert item.prompt == "".join(documents[item.group].text.splitlines(keepends=True)[:4]) + before.prompt
    assert ids == ["#0", "#1", "#2", "#3"]
    with pytest.raises(RequestError, match="24 worked examples were asked for and the documents have 23"):
        TASK.with_shots(corpus, items, 24, 0)


def test_pairs_get_training_documents_as_shots(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"input": "say {n}", "target": "{n}"}}\n' for n in range(100)))
    corpus = labelled(rows)
    codec = char.fit(d.text for split in char.SPLITS for d in corpus.documents(split))
    items = TASK.items(corpus, codec, 3, 0)
    asked, ids = TASK.with_shots(corpus, items, 2, 0)
    training = {d.id: d.text for d in corpus.documents("train")}
    shown = "".join(training[i] + "\n" for i in ids)
    assert len(set(ids)) == 2 and [i.prompt for i in asked] == [shown + i.prompt for i in items]
    assert re.fullmatch(r"say (\d+)\n\1\nsay (\d+)\n\2\nsay \d+\n", asked[0].prompt)
    assert TASK.with_shots(corpus, items, 2, 0) == (asked, ids) != TASK.with_shots(corpus, items, 2, 1)
    with pytest.raises(RequestError, match="there are"):
        TASK.with_shots(corpus, items, 1000, 0)


def test_only_tasks_that_take_shots_are_asked_with_them(corpus, copier):
    assert isinstance(TASK, FewShot) and not isinstance(bits_per_byte.TASK, FewShot)
    assert {s.task for s in run.evaluate(copier, corpus, shots=4, limit=5)} == {"exact_answer"}
    with pytest.raises(RequestError, match="bits_per_byte: asked without worked examples only"):
        run.evaluate(copier, corpus, ["exact_answer", "bits_per_byte"], shots=4)
    with pytest.raises(RequestError, match="-1 worked examples"):
        run.evaluate(copier, corpus, ["exact_answer"], shots=-1)


@pytest.mark.parametrize(("prompt", "found"), [
    ("a1\nb2\na", "1"), ("a1\na2\na", "2"), ("b2\na", ""), ("a", ""), ("", ""), ("\n", ""), ("x 1+1=2\n1+1=", "")])
def test_looking_up(prompt, found):
    assert looked_up(prompt) == found
