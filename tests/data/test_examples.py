"""Function bodies are real functions cut after the docstring; completions train on answers only."""
import ast

import numpy as np
import pytest

from meristem.core.errors import RequestError
from meristem.core.types import Document
from meristem.corpus import toy
from meristem.data import examples
from meristem.data.examples import Completions, Example, answers, function_bodies

SOURCE = '''
import os

def plain(a,
          b=1,
):
    """Add."""
    # said before
    return a + b


class C:
    @property
    def method(self):
        """Two
        lines."""
        if self.x:

            return 1
        return "\\d"
    # after

    async def wait(self):
        r'one'; pass
    async def better(self): # note
        'Single quotes.'
        await self
# far left

def no_doc(a):
    return a
def only_doc():
    """Nothing else."""
def left():
    """Has a string that cannot be moved."""
    return \'\'\'
left\'\'\'
def plain(a,
          b=1,
):
    """Add."""
    return "the same prompt again"
def long_answer():
    """Too long."""
    return %s
def broken():
    """Python 2."""
    print "hello"
x = """
def quoted():
    'In a string.'
    return 0
"""
''' % ("x" * 500)


class One:
    """A corpus of one document."""

    def documents(self, split):
        return iter([Document("id", "a.py", "MIT", {"text": SOURCE}, {"path": "a.py", "kind": "code"}),
                     Document("no", "a.txt", "MIT", {"text": SOURCE}, {"path": "a.txt", "kind": "prose"})])


def test_what_is_taken_and_what_is_not():
    found = function_bodies(One(), "train")
    assert [(e.prompt, e.answer) for e in found] == [
        ('def plain(a,\n          b=1,\n):\n    """Add."""', "\n    # said before\n    return a + b"),
        ('def method(self):\n    """Two\n    lines."""', '\n    if self.x:\n\n        return 1\n    return "\\d"'),
        ("async def better(self): # note\n    'Single quotes.'", "\n    await self"),
        ("def quoted():\n    'In a string.'", "\n    return 0"),
    ]
    assert {e.document for e in found} == {"id"}


@pytest.mark.parametrize("tail", ["", "\n", "\n\n    # the end\n\n", "\n# far left"])
def test_a_function_that_ends_its_file_is_taken(tail):
    source = 'class C:\n    def last(self):\n        "Doc."\n        return 1' + tail
    assert list(examples._functions(source)) == [('def last(self):\n    "Doc."', "\n    return 1")]
    cut = 'def long():\n    "Doc."\n' + "    x = 1\n" * 900         # its end is not looked for that far
    assert list(examples._functions(cut)) == []


def test_on_real_sources_each_is_valid_python_that_stands_in_its_document(corpus):
    found = function_bodies(corpus, "train")
    texts = {d.id: d.text for d in corpus.documents("train")}
    assert len(found) > 100 and len({e.prompt for e in found}) == len(found)
    assert found == function_bodies(corpus, "train")
    for e in found:
        f = ast.parse(e.prompt + e.answer).body[0]
        assert ast.get_docstring(f) == ast.get_docstring(ast.parse(e.prompt).body[0]) and len(f.body) > 1
        assert len(e.prompt) <= examples.LONGEST_PROMPT and len(e.answer) <= examples.LONGEST_ANSWER
        lines = [line.strip() for line in texts[e.document].split("\n")]
        assert all(line.strip() in lines for line in (e.prompt + e.answer).split("\n"))


def test_an_unknown_entry_is_named_with_the_nearest():
    assert examples.find("function_bodies") is function_bodies
    with pytest.raises(RequestError, match="did you mean function_bodies"):
        examples.find("function_body")


def test_only_answers_and_their_end_are_trained_on(corpus, codec):
    found = function_bodies(corpus, "train")
    source = Completions(found, codec, 256, 4, 0)
    answers = {e.answer for e in found}
    rebuilt = []
    for row, weight in zip(source.tokens, source.weight, strict=True):
        trained = np.split(row[1:], np.flatnonzero(np.diff(weight)) + 1)
        for piece in trained[0 if weight[0] else 1:: 2]:
            assert piece[-1] == codec.end and codec.decode(piece) in answers
            rebuilt.append(codec.decode(piece))
    assert len(rebuilt) == len(found) - source.skipped > 100


def test_batches_are_a_function_of_seed_and_step_and_show_each_row_once_an_epoch(corpus, codec):
    found = function_bodies(corpus, "train")
    one, two = (Completions(found, codec, 128, 4, 7, micro=2) for _ in range(2))
    assert [b["tokens"].tolist() for b in one(11)] == [b["tokens"].tolist() for b in two(11)]
    assert [tuple(b["weight"].shape) for b in one(0)] == [(2, 128)] * 2
    rows = [r for step in range(len(one.tokens)) for r in np.concatenate(one.order(step)).tolist()][: len(one.tokens)]
    assert sorted(rows) == list(range(len(one.tokens)))
    assert Completions(found, codec, 128, 4, 8)(0)[0]["tokens"].tolist() != one(0)[0]["tokens"].tolist()


def test_too_long_for_a_row_is_counted_and_nothing_left_is_an_error(codec):
    short, long = Example("def f():", "\n    pass", "a"), Example("x = 1\n" * 50, "y", "b")
    source = Completions([short, long], codec, 32, 1, 0)
    assert source.skipped == 1 and source.tokens.shape == (1, 33)
    with pytest.raises(RequestError, match="raise train.context"):
        Completions([long], codec, 32, 1, 0)
    with pytest.raises(RequestError, match="Python functions with docstrings"):
        Completions([], codec, 32, 1, 0)


def test_answers_of_a_document_are_all_trained_on(tmp_path, codec):
    """Every answer and its line end have weight, no question has, and the document is whole."""
    corpus = toy.make("arithmetic", tmp_path / "a", {"documents": 30, "shots": 5})
    found = answers(corpus, "train")
    assert len(found) == 30 and {len(e.before) for e in found} == {4}
    source = Completions(found, codec, 100, 4, 0)
    texts = {d.text for d in corpus.documents("train")}
    [batch] = source(0)
    for tokens, weight in zip(batch["tokens"].numpy(), batch["weight"].numpy(), strict=True):
        rows = np.split(tokens, np.flatnonzero(tokens == codec.end) + 1)
        assert codec.decode(rows[0]) in texts
        kept = codec.decode(np.where(weight > 0, tokens[1:], codec.end))
        wanted = "".join(line.partition("=")[2] + "\n" for row in rows for line in codec.decode(row).splitlines())
        assert kept == wanted
        assert weight[np.flatnonzero(tokens[1:] == codec.end)[0]] == 1
