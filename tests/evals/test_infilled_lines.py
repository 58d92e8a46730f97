"""One line from a file with what stands around it: which lines are asked for, and how each kind of model is asked."""
from dataclasses import dataclass, field

import numpy as np
import pytest

from meristem.codecs import bpe
from meristem.codecs.base import Codec
from meristem.core.progress import SILENT
from meristem.evals.base import Item, prompt_hash
from meristem.evals.tasks.infilled_lines import EACH, TASK, askable, asker, lines_of
from meristem.generate.infill import STARCODER, Sentinels

SOURCE = '"""Module {0}."""\nimport os\n\n\ndef area_{0}(width, height):\n    size = width * height\n' \
         '    if size > {0}:\n        return size + width\n    return size\n\n\nprint(area_{0}(2, {0}))\n\n\n'


@dataclass
class Scribe:
    """A subject that writes the same text after any prompt, and remembers what it was asked."""

    codec: Codec
    text: str
    space: int = 1000
    asked: list[np.ndarray] = field(default_factory=list)

    def complete(self, prompts: list[np.ndarray], length: int, temperature: float, seed: int) -> list[np.ndarray]:
        self.asked += prompts
        return [np.append(self.codec.encode(self.text), self.codec.end) for _ in prompts]

    def room(self, length: int) -> int:
        return self.space


@pytest.fixture
def corpus(make_corpus):
    return make_corpus(train=[SOURCE.format(i) for i in range(20)], test=[SOURCE.format(i) for i in range(100, 130)])


def test_items_stand_in_their_files(corpus) -> None:
    texts = {d.id: d.text for d in corpus.documents("test")}
    items = TASK.items(corpus, bpe.fit(texts.values(), 300), 200, 0)
    assert len(items) == 30 * EACH == len({(i.group, i.prompt) for i in items}) and len({i.answer for i in items}) > 4
    assert len({item.group for item in items[:30]}) == 30      # every file in turn
    for item in items:
        text = texts[item.group]
        assert text.find(item.prompt + item.answer + item.suffix) == (0 if item.begins else text.find(item.prompt))
        assert askable(item.answer) and item.suffix.startswith("\n") and item.prompt[-1] in "\n "
    assert items != TASK.items(corpus, bpe.fit(texts.values(), 300), 200, 1)


def test_context_is_whole_lines_of_bounded_length() -> None:
    text = "\n".join(f"value_{i} = {i} * width" for i in range(200))
    item = lines_of("x", text, 0)[0]
    assert text.index(item.prompt + item.answer + item.suffix) > 0 and not item.begins
    assert 350 < len(item.prompt) <= 401 and 150 < len(item.suffix) <= 201
    assert item.prompt.startswith("value_") and not lines_of("x", "a = 1\n" * 3, 0)


@pytest.mark.parametrize("special", [(), STARCODER])
def test_lines_are_compared_and_models_asked_as_they_can_be(corpus, special: tuple[str, ...]) -> None:
    codec = bpe.fit([SOURCE], 300, special=special)
    items = TASK.items(corpus, codec, 200, 0)
    scribe = Scribe(codec, "size = width * height  \nand so on")
    outcome = TASK.run(scribe, items, 0, SILENT)
    assert outcome.values["line_exact"] == [float(item.answer == "size = width * height") for item in items]
    assert 0 < sum(outcome.values["line_exact"]) < len(items) and outcome.cut == 0
    for item, ids in zip(items, scribe.asked, strict=True):
        assert codec.decode(ids) == (item.suffix + item.prompt if special else item.prompt)
        assert (ids[0] == codec.end) == item.begins            # only where a document begins
        assert not special or Sentinels.of(codec).middle in ids


def test_a_small_context_keeps_the_sentinels(corpus) -> None:
    codec = bpe.fit([SOURCE], 300, special=STARCODER)
    item, s = TASK.items(corpus, codec, 1, 0)[0], Sentinels.of(codec)
    ids, cut = asker(Scribe(codec, "", space=20))(item)
    assert cut and len(ids) == 20 and [i for i in ids if i in (s.prefix, s.suffix, s.middle)] == [1, 3, 2]       # SPM


def test_the_baseline_is_the_most_common_line(corpus) -> None:
    items = TASK.items(corpus, bpe.fit([SOURCE], 300), 200, 0)
    baseline = TASK.baselines(corpus, items, lambda: pytest.fail("not needed"), 0)["line_exact"]
    assert "'size = width * height'" in baseline.what or "'return size" in baseline.what
    assert 0 < sum(baseline.outcome.values["line_exact"]) < len(items)


def test_the_suffix_is_part_of_what_was_asked() -> None:
    a, b = Item("g", "p", "a"), Item("g", "p", "a", suffix="s")
    assert prompt_hash(TASK, [a]) != prompt_hash(TASK, [b])
