"""Word n-gram hashes against a reading of the definition in plain Python."""
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.corpus import ngrams

WORD = re.compile(rb"[a-z0-9_\x80-\xff]+")
texts = (st.text(st.sampled_from("abAB12_ .,\n\té界\U0001f600"), max_size=60)
         | st.text(st.characters(exclude_categories=["Cs"])))


def words(text: str) -> list[bytes]:
    ascii_lower = bytes(b + 32 if 65 <= b <= 90 else b for b in text.encode())
    return WORD.findall(ascii_lower)


@settings(deadline=None)
@given(texts, st.integers(1, 4))
def test_two_hashes_are_equal_exactly_when_their_words_are(text, n):
    expected = [tuple(words(text)[i: i + n]) for i in range(len(words(text)) - n + 1)]
    found = ngrams.hashes(text, n)
    assert found.dtype == np.uint64 and len(found) == len(expected)
    assert len(set(found.tolist())) == len(set(expected))
    assert len(set(zip(found.tolist(), expected, strict=True))) == len(set(expected))


def test_a_hash_does_not_depend_on_what_stands_around_the_words():
    assert ngrams.hashes("The cat SAT.", 3)[0] == ngrams.hashes("(we saw: the  cat\nsat down)", 3)[2]


def test_order_of_words_counts():
    assert ngrams.hashes("a b", 2)[0] != ngrams.hashes("b a", 2)[0]


def test_the_hashes_are_the_same_on_every_machine():
    assert ngrams.hashes("the quick brown fox jumps", 5).tolist() == [PINNED]


PINNED = 17191132690415761981
