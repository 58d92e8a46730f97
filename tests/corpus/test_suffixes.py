"""The suffix index against a search by hand: the longest match, all its places, and never across two documents."""
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core.errors import RequestError
from meristem.core.files import committed
from meristem.corpus.store import Corpus
from meristem.corpus.suffixes import Suffixes

TEXTS = ["the cat sat on the mat", "the cat ran", "", "caf\u00e9 \u732b the cat sat down", "aaaaaaaaaa", "\x00\x7f"]


def made(folder: Path, texts: list[str], name: str = "c") -> Corpus:
    rows = [{"id": f"{i:032x}", "path": f"f{i}", "kind": "text", "licence": "MIT", "text": text}
            for i, text in enumerate(texts)]
    with committed(folder) as tmp:
        for split in ("train", "validation", "test"):
            kept = rows if split == "train" else []
            (tmp / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        (tmp / "corpus.json").write_text(json.dumps({"hash": name}))
    return Corpus.open(folder)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return Suffixes.build(made(tmp_path_factory.mktemp("suffixes") / "c", TEXTS))


def by_hand(wanted: bytes) -> tuple[int, list[tuple[int, int]]]:
    raw = [t.encode() for t in TEXTS]
    size = max(n for n in range(len(wanted) + 1) if any(wanted[:n] in t for t in raw))
    found = [(d, i) for d, t in enumerate(raw) for i in range(len(t)) if size and t[i: i + size] == wanted[:size]]
    return size, sorted(found)


@given(st.one_of(st.text(alphabet="the catsonm\u00e9", max_size=30), st.text(max_size=12)))
@settings(max_examples=300, deadline=None)
def test_the_longest_beginning_and_all_its_places_are_found(index, text):
    size, low, high = index.longest(text.encode())
    want, places = by_hand(text.encode())
    assert size == want
    assert sorted(index.document(index.order[i]) for i in range(low, high)) == places


def test_no_match_crosses_two_documents(index):
    assert index.longest(b"matthe")[0] == index.longest(b"mat the")[0] == 3


def test_a_place_leads_to_its_document(index):
    _, low, high = index.longest("caf\u00e9".encode())
    number, byte = index.document(index.order[low])
    assert (high - low, number, byte, index.row(number)["path"]) == (1, 3, 0, "f3")


def test_it_is_made_once_and_again_for_another_corpus(tmp_path, monkeypatch):
    corpus = made(tmp_path / "c", TEXTS)
    first = Suffixes.build(corpus)
    monkeypatch.setattr("meristem.corpus.suffixes._write", lambda *a: pytest.fail("made twice"))
    assert bytes(Suffixes.build(corpus).text[:]) == bytes(first.text[:])
    monkeypatch.undo()
    other = Suffixes.build(Corpus(corpus.folder, {"hash": "another"}))
    assert other.longest(b"the cat")[0] == 7
    (tmp_path / "c/suffixes/train/text").write_bytes(b"damaged")
    assert Suffixes.build(Corpus(corpus.folder, {"hash": "another"})).longest(b"the cat")[0] == 7, "made anew"


def test_a_corpus_without_text_is_refused(tmp_path):
    with pytest.raises(RequestError, match="holds no text to look in"):
        Suffixes.build(made(tmp_path / "c", []))
