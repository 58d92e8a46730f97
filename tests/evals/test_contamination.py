"""Planted test items are found, all of them and no others."""
import random

import numpy as np
import pytest

from meristem.corpus.ngrams import hashes
from meristem.evals.contamination import FOLDER, Index

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "rk", "st", "mo")]


def text(seed: int, words: int = 120) -> str:
    """Unique prose: 240 words drawn at random make a shared run of 13 a chance of 1e-30."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


@pytest.mark.parametrize("planted", [0, 1, 10])
@pytest.mark.parametrize("inside", [False, True], ids=["as a document", "inside a document"])
def test_reports_exactly_what_was_planted(make_corpus, planted, inside):
    items = [text(1000 + i, 40) for i in range(30)]
    train = [text(i) for i in range(50)]
    for i in range(planted):
        train.append(f"{text(500 + i)}\n\n  {items[i]}\n{text(600 + i)}" if inside else items[i].replace(" ", "\n  "))
    overlaps = Index.build(make_corpus(train=train)).check(items)
    assert [o.exact for o in overlaps] == [True] * planted + [False] * (30 - planted)
    assert [o.clean for o in overlaps] == [False] * planted + [True] * (30 - planted)


def test_part_of_an_item_is_overlap_but_not_exact(make_corpus):
    shared = text(1, 20)
    index = Index.build(make_corpus(train=[f"{text(2)} {shared} {text(3)}"]))
    [overlap] = index.check([f"{text(4)} {shared.upper()}, {text(5)}"])
    assert overlap.seen == 8 and not overlap.exact and not overlap.clean


def test_short_items_are_found_as_whole_documents_only(make_corpus):
    index = Index.build(make_corpus(train=["def one():\n    return 1\n", text(1)]))
    found = index.check(["def one():  return 1", "def two(): return 2"])
    assert [(o.exact, o.runs) for o in found] == [(True, 0), (False, 0)]


def test_the_index_is_kept_and_rebuilt_when_damaged(make_corpus):
    corpus = make_corpus(train=[text(i) for i in range(5)])
    first = Index.build(corpus)
    kept = corpus.folder / FOLDER / "runs.npy"
    stamp = kept.stat().st_mtime_ns
    assert Index.build(corpus).hash == first.hash and kept.stat().st_mtime_ns == stamp
    raw = bytearray(kept.read_bytes())
    raw[-1] ^= 1
    kept.write_bytes(raw)
    again = Index.build(corpus)
    assert again.hash == first.hash and np.isin(hashes(text(0), 13), again.runs).all()
