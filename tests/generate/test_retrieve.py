"""Passages, stores, fused rankings, citations that hold, and a refusal when nothing is found."""
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.codecs import bpe
from meristem.core.errors import MachineError, RequestError
from meristem.core.types import Document
from meristem.generate.retrieve.answer import ASKED, REFUSAL, ask, cite, quoted, writer_of
from meristem.generate.retrieve.chunks import Chunk, cut
from meristem.generate.retrieve.store import DAMPING, Encoder, Hit, Store, words
from meristem.generate.sampling import Sampling
from tests.generate import small

pytest.importorskip("faiss")
pytest.importorskip("bm25s")
FACTS = {"rent.txt": "The rent of the mill is forty shillings a year. It is due on Lady Day.",
         "bees.txt": "Bees make honey from nectar. A hive holds one queen.",
         "code.txt": "def read_lines(path): returns every line of a file",
         "tide.txt": "The tide at Dover is highest two days after a new moon."}


def document(name: str, text: str) -> Document:
    return Document("0", name, "MIT", {"text": text}, {"path": f"notes/{name}"})


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    codec = bpe.fit([" ".join(FACTS.values())] * 3, 300)
    return Encoder.of(small.model(vocab=codec.vocab), codec)


@pytest.fixture(scope="module")
def store(encoder: Encoder) -> Store:
    return Store.of([document(*item) for item in FACTS.items()], encoder)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab. \n\u00e9\u4e2d", max_size=120), st.integers(1, 40), st.integers(0, 20))
def test_passages_are_the_document_and_say_where(text: str, size: int, overlap: int) -> None:
    if overlap > size // 2:
        with pytest.raises(RequestError, match="at most half"):
            list(cut(document("a", text), size, overlap))
        return
    made = list(cut(document("a", text), size, overlap))
    seen = np.zeros(len(text), dtype=int)
    for before, chunk in zip([None, *made], made, strict=False):
        assert chunk.of(text) and 0 < len(chunk.text) <= size
        assert before is None or before.start < chunk.start <= before.stop
        seen[chunk.start:chunk.stop] += 1
    assert all(seen[n] or character.isspace() for n, character in enumerate(text))
    assert not made or not made[0].of(text + " ")


def test_passages_end_where_sentences_do() -> None:
    text = "First thing here. Second thing there. Third thing."
    made = list(cut(document("a", text), 40, 10))
    assert [chunk.text for chunk in made] == ["First thing here. Second thing there. ", "there. Third thing."]
    assert made[1].name == "notes/a:31-50"


def test_words_and_meaning_and_both(store: Store) -> None:
    question = "How much rent is owed for the mill?"
    found = store.search(question, way="words")
    assert [hit.chunk.source for hit in found] == ["notes/rent.txt"] and 0.5 < found[0].covered < 1
    assert store.encoder and store.vectors is not None
    vector = store.encoder([question])[0]
    near = np.argsort(-(store.vectors @ vector), kind="stable")
    meant = store.search(question, way="meaning")
    assert [hit.chunk for hit in meant] == [store.chunks[n] for n in near]
    assert [hit.score for hit in meant] == pytest.approx((store.vectors @ vector)[near].tolist(), abs=1e-6)
    both = store.search(question)
    rank = {hit.chunk: n for n, hit in enumerate(meant, 1)}
    want = {hit.chunk: 1 / (DAMPING + rank[hit.chunk]) + (1 / (DAMPING + 1) if hit.chunk == found[0].chunk else 0)
            for hit in both}
    assert {hit.chunk: hit.score for hit in both} == pytest.approx(want)
    assert [hit.chunk for hit in both] == sorted(want, key=lambda c: -want[c])
    assert store.search("", way="words") == [] and len(store.search("zyxt", 2)) == 2
    assert store.search("readLines")[0].chunk.source == "notes/code.txt" and words("readLines_of") == ["read", "lines"]


def test_a_folder_keeps_a_store(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    store.save(tmp_path / "s")
    again = Store.load(tmp_path / "s", encoder)
    for question in ("rent of the mill", "queen bee"):
        assert again.search(question) == store.search(question)
    assert Store.load(tmp_path / "s").search("queen")[0].chunk.source == "notes/bees.txt"
    with pytest.raises(RequestError, match="has no encoder"):
        Store.load(tmp_path / "s").search("queen", way="meaning")
    with pytest.raises(RequestError, match="was made with the encoder"):
        Store.load(tmp_path / "s", Encoder.of(encoder.module, encoder.codec, weights="another"))
    with (tmp_path / "s" / "vectors.safetensors").open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"!")
    with pytest.raises(MachineError, match="cannot be trusted"):
        Store.load(tmp_path / "s", encoder)
    with pytest.raises(RequestError, match="no store"):
        Store.load(tmp_path)
    assert Store.of([document("stop", "the of and")]).search("the") == []
    with pytest.raises(RequestError, match="no text"):
        Store.of([document("empty", "  ")])


def test_nothing_found_is_a_refusal_and_the_model_is_not_asked(store: Store) -> None:
    def never(question: str, hits: object) -> str:
        raise AssertionError("asked")
    for question in ("Who won the battle of Zorblax?", "zzz", "the of and", "Which airport has the longest runway?"):
        made = ask(question, store, never)
        assert made.refused and made.text == REFUSAL and not made.cited
    assert ask("How much is the rent of the mill?", store, lambda q, h: REFUSAL + " Sorry.").refused
    with pytest.raises(RequestError, match="empty"):
        ask(" ", store, never)


def hit(text: str) -> Hit:
    return Hit(Chunk("h", "a", 0, len(text), text), 1.0, 1.0, 0.0)


def test_citations_hold_or_are_taken_out() -> None:
    hits = [hit("The rent is forty shillings."), hit("Bees make honey from nectar.")]
    made = cite("The rent is forty shillings. [2] Bees make honey. Cows fly over Dover [1]. See [9].", hits)
    assert made.text == "The rent is forty shillings. [1] Bees make honey. [2] Cows fly over Dover. See."
    assert list(made.cited) == [1, 2] and made.grounded == pytest.approx(2 / 4)
    assert cite("Forty shillings is the rent [1]", hits).text == "Forty shillings is the rent [1]"
    assert cite("1.5 of 2", hits).grounded == 0


def test_a_model_is_shown_passages_that_fit(store: Store, encoder: Encoder) -> None:
    hits = store.search("How much is the rent of the mill?", 4)
    three = f"{ASKED}\n\n{quoted(hits[:3])}\n\nQuestion: rent\nAnswer:"
    module = small.model(vocab=encoder.codec.vocab, context=1 + len(encoder.codec.encode(three)) + 8)
    write = writer_of(module, encoder.codec, sampling=Sampling(length=8))
    assert write("rent", hits) == write("rent", hits[:3]) != write("rent", hits[:1])
    assert "\n" not in write("rent", hits)
    with pytest.raises(RequestError, match="not one passage fits"):
        ask("rent of the mill", store, writer_of(small.model(vocab=encoder.codec.vocab), encoder.codec))
    assert REFUSAL in ASKED
