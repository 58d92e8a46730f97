"""What each task asks and how it judges an answer; the tasks under the 5-gram on a small real corpus."""
import ast
import math
import string

import numpy as np
import pytest

from meristem.codecs import char
from meristem.core.progress import SILENT
from meristem.core.registry import load
from meristem.corpus import toy
from meristem.corpus.kneser_ney import KneserNey
from meristem.evals.base import Item, measure
from meristem.evals.run import usual
from meristem.evals.subject import NGram
from meristem.evals.tasks import bits_per_byte, function_bodies, parses_as_python

SOURCE = '''"""Module {0}."""
import os


def area_{0}(width, height):
    """The product of width and height, number {0}."""
    size = width * height
    return size + {0}


class Thing{0}:
    """A thing."""

    def name(self):
        """Its name."""
        return self._name  # the private one


def main_{0}():
    print(area_{0}(2, {0}))
'''


@pytest.fixture
def corpus(make_corpus):
    return make_corpus(train=[SOURCE.format(i) for i in range(40)], test=[SOURCE.format(i) for i in range(100, 108)])


@pytest.fixture
def ngram(corpus):
    texts = [d.text for d in corpus.documents("train")]
    codec = char.fit([*texts, string.printable])
    tokens = np.concatenate([np.append(codec.encode(t), codec.end) for t in texts])
    return NGram(KneserNey.fit(tokens, codec.vocab, codec.end), codec)


def test_every_task_is_whole(corpus, ngram, tmp_path):
    source = corpus
    for name in usual():
        task = load("evals.tasks", name).TASK
        corpus = toy.make("mapping", tmp_path / "toy", {"documents": 80}) if name == "exact_answer" else source
        items = task.items(corpus, ngram.codec, task.count, 0)
        assert task.name == name and items == task.items(corpus, ngram.codec, task.count, 0)
        assert len(task.items(corpus, ngram.codec, 3, 0)) == 3
        outcome = task.run(ngram, items, 0, SILENT)
        baselines = task.baselines(corpus, items, lambda: ngram, 0)
        for metric in task.metrics:
            assert len(outcome.values[metric.name]) == len(outcome.weights[metric.name]) == len(items)
            value, interval = measure(metric, outcome, [i.group for i in items], 0)
            assert interval.low <= value <= interval.high
            assert metric.name in baselines


def test_segments_rebuild_the_document():
    text = "".join(f"line {i} of a long document\n" for i in range(2000)) + "no newline at the end"
    items = bits_per_byte.segments("d", text)
    assert "".join(i.answer for i in items) == text and len(items) > 5
    assert items[0].begins and not items[0].prompt and items[-1].ends and not any(i.ends for i in items[:-1])
    assert all(text[: text.index(i.answer)].endswith(i.prompt) for i in items)


def test_bits_per_byte_is_the_sum_over_all_tokens(corpus, ngram):
    """All segments of whole documents: the same number as one pass over the split's token stream."""
    items = bits_per_byte.TASK.items(corpus, ngram.codec, 10**6, 0)
    outcome = bits_per_byte.TASK.run(ngram, items, 0, SILENT)
    value, _ = measure(bits_per_byte.METRIC, outcome, [i.group for i in items], 0)
    texts = [d.text for d in corpus.documents("test")]
    stream = np.concatenate([np.append(ngram.codec.encode(t), ngram.codec.end) for t in texts])
    expected = -ngram.model.logprobs(stream).sum() / math.log(2) / sum(len(t.encode()) for t in texts)
    assert value == pytest.approx(expected, rel=1e-9)


def test_prompts_parse_by_themselves_and_follow_each_other(corpus):
    text = next(corpus.documents("test")).text + "\fEND = 1\n" * 30
    items = parses_as_python.prompts("d", text)
    assert items and items[0].begins and text.startswith(items[0].prompt)
    for item in items:
        ast.parse(item.prompt)
        assert item.prompt + item.answer[:50] in text
    assert parses_as_python.prompts("d", "def broken(:\n") == []


@pytest.mark.parametrize(("completion", "passed"), [
    ("x = 1\n", True), ("    return 2\n", True), ("# only a comment\n\n", False), ("", False), ("x = (\n", False),
    ("def g():\n", False), ("'\\d'\n", True), ("x\0\n", False), ("(" * 5000 + "\n", False)])
def test_what_passes_as_python(completion, passed):
    assert parses_as_python.passes("def f():\n    return 1\n", completion) is passed


@pytest.mark.parametrize(("completion", "valid"), [
    ("x = 1\n", True), ("x = (1,\n", True), ("def g():\n", True), ('x = """open\nmore\n', True),
    ("try:\n    x\n", True),
    ("x = (1\ny = 2\n", False), ("x = (1]\n", False), ("x = 'open\n", False), ("  x = 1\n", False),
    ("x = = 1\n", False), ("", False), ("# a comment\n", False), ("x = (\0\n", False)])
def test_what_is_valid_so_far(completion, valid):
    assert parses_as_python.passes("def f():\n    return 1\n\n\n", completion, unfinished=True) is valid


def test_the_last_line_is_dropped_unless_the_document_ended(ngram):
    ids = ngram.codec.encode("x = 1\nwid")
    assert parses_as_python.finished(ngram.codec, ids) == "x = 1\n"
    assert parses_as_python.finished(ngram.codec, np.append(ids, ngram.codec.end)) == "x = 1\nwid"


def test_the_human_continuation_is_the_ceiling(ngram):
    whole = Item("d", "import os\n", "x = 1\n", ends=True)
    cut = Item("d", "import os\n", "def area(width):\n" + "    # " + "a" * 300, ends=False)
    ceiling = parses_as_python.TASK.ceiling([whole, cut], ngram.codec)
    assert ceiling["parses_as_python"].value == 0.5 and ceiling["valid_so_far"].value == 1.0


@pytest.mark.parametrize(("output", "exact", "first"), [
    ("\n    size = width * height\n    return size", 1, 1),
    ("\n    size = width*height   # the area\n\n    return size\n\ndef other():\n    pass", 1, 0),
    ("\n    size = width * height\n    return area", 0, 1), ("\n    return (", 0, 0), ("", 0, 0)])
def test_bodies_are_compared_as_programs(output, exact, first):
    item = Item("d", "def f(width, height):", "\n    size = width * height\n    return size", ends=False)
    text = function_bodies.body(item.prompt, output)
    outcome = function_bodies.TASK._outcome([item], [text], [1.0])
    assert (outcome.values["body_exact"], outcome.values["body_first_line"]) == ([exact], [first])


def test_a_body_ends_where_the_indent_does():
    assert function_bodies.body("def f():\n    ", "return 1\nx = 2") == "    return 1"
    block = "    if x:\n        y()\n\n    z()"
    assert function_bodies.body("def f():", f"\n{block}\nclass A:") == block
