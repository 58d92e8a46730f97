"""Unigram: lossless on bytes, the most likely cut, transformers' ids, one vocabulary in every process."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meristem import codecs
from meristem.codecs import base, unigram
from meristem.core.errors import RequestError
from meristem.corpus import find

SOURCES = sorted((find.standard_library()[0] / "asyncio").glob("*.py"))


@pytest.fixture(scope="module")
def codec() -> unigram.Unigram:
    return unigram.fit((p.read_text() for p in SOURCES), 800, encoder=True)


@pytest.fixture(scope="module")
def theirs(codec, tmp_path_factory):
    from transformers import PreTrainedTokenizerFast
    folder = tmp_path_factory.mktemp("codec")
    codec.save(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@settings(deadline=None, max_examples=200)
@example("<mask><|end|></s>")
@example("\u2581 a\n\n  b\t\r\n \x00")
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_encoding_is_lossless_and_agrees_with_transformers(codec, theirs, text):
    ids = codec.encode(text)
    assert codec.decode(ids) == text and not set(codec.marks.values()) & set(ids.tolist())
    assert ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"]
    base.gives_back(codec, [text])


def test_the_cut_is_the_most_likely_one(codec):
    scores = dict(json.loads(codec._json)["model"]["vocab"])
    word = "returning"

    def best(rest: str) -> float:
        return max((scores[rest[:n]] + best(rest[n:]) for n in range(1, len(rest) + 1) if rest[:n] in scores),
                   default=0.0 if not rest else -1e9)
    got = sum(scores[codec.tokenizer.id_to_token(int(i))] for i in codec.encode(word))
    assert got == pytest.approx(best(word)) and len(codec.encode(word)) < len(word)


def test_saving_and_loading_changes_nothing(codec, tmp_path):
    assert codec.marks == {"end": 0, "cls": 1, "pad": 2, "sep": 3, "mask": 4} and codec.vocab == 800
    codec.save(tmp_path)
    again = codecs.load(tmp_path)
    assert isinstance(again, unigram.Unigram)
    assert (again.hash, again.marks, again.vocab) == (codec.hash, codec.marks, codec.vocab)
    assert np.array_equal(again.encode("x <|end|> y"), codec.encode("x <|end|> y"))


def test_fitting_is_deterministic_across_processes_and_orders(codec):
    code = ("import sys; from pathlib import Path; from meristem.codecs import unigram;"
            "print(unigram.fit((Path(p).read_text() for p in sys.argv[1:]), 800, encoder=True).hash)")
    run = subprocess.run([sys.executable, "-c", code, *map(str, reversed(SOURCES))], capture_output=True, text=True,
                         check=True, cwd=Path(base.__file__).parents[2])
    assert run.stdout.strip() == codec.hash


def test_a_published_kind_is_read(tmp_path):
    """T5's layout: spaces as U+2581, pieces without bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    other = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), ("a", -3.0),
                                      ("\u2581a", -2.5), ("b", -3.0)], unk_id=2))
    other.pre_tokenizer, other.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    other.save(str(tmp_path / base.TOKENIZER))
    (tmp_path / base.CONFIG).write_text('{"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}')
    codec = codecs.load(tmp_path)
    assert codec.end == 1 and codec.encode("ab a").tolist() == [5, 6, 5]
    with pytest.raises(RequestError, match="does not give back"):
        base.gives_back(codec, ["ab c"])


def test_bad_requests():
    with pytest.raises(RequestError, match="at least 261"):
        unigram.fit(["text"], 260, encoder=True)
    with pytest.raises(RequestError, match="no text"):
        unigram.fit([""], 300)
