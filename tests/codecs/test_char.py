"""One id a character: lossless on its alphabet, loud outside it, the same ids as `transformers`."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem import codecs
from meristem.codecs import base, char
from meristem.core.errors import RequestError

ALPHABET = "\n\r\t !,.:<>?|dehilno\xa0é界\U0001f600"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    from transformers import PreTrainedTokenizerFast
    folder = tmp_path_factory.mktemp("codec")
    char.fit([ALPHABET]).save(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_lossless_for_every_text_over_its_alphabet(text):
    codec = char.fit([text])
    ids = codec.encode(text)
    assert ids.dtype == np.int32 and codec.end not in ids and len(ids) == len(text)
    assert codec.decode(ids) == text and codec.vocab == len(set(text)) + 1


@settings(deadline=None)
@given(st.lists(st.sampled_from([*ALPHABET, "<|end|>"])).map("".join))
def test_transformers_gives_the_same_ids(theirs, text):
    ids = char.fit([ALPHABET]).encode(text).tolist()
    assert theirs(text)["input_ids"] == ids and theirs.decode(ids) == text


def test_saving_and_loading_changes_nothing(tmp_path):
    codec = char.fit([ALPHABET])
    codec.save(tmp_path)
    again = codecs.load(tmp_path)
    assert isinstance(again, char.Char) and again.hash == codec.hash
    assert np.array_equal(again.encode(ALPHABET), codec.encode(ALPHABET))


def test_ids_are_in_the_order_of_characters_and_the_end_is_silent():
    codec = char.fit(["cab", "b"])
    assert codec.encode("abc").tolist() == [1, 2, 3]
    assert codec.decode([0, 1, 0, 2, 0]) == "ab" and codec.decode([]) == "" and len(codec.encode("")) == 0


def test_a_character_outside_the_alphabet_is_an_error_that_names_it():
    for text in ("ax", "a\U0001f600", "a\0"):
        with pytest.raises(RequestError, match="not among the 3"):
            char.fit(["abc"]).encode(text)


def test_bad_requests(tmp_path):
    with pytest.raises(RequestError, match="no text"):
        char.fit([])
    with pytest.raises(RequestError, match="at least 4"):
        char.fit(["abc"], vocab=3)
    (tmp_path / base.TOKENIZER).write_text('{"model": {"type": "WordLevel", "vocab": {"cat": 0}}}')
    with pytest.raises(RequestError, match="not a vocabulary of single characters"):
        codecs.load(tmp_path)
