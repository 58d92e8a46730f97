"""ESM's vocabulary: its ids, both files, and chains that come back."""
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meristem import codecs
from meristem.codecs import protein
from meristem.core.files import committed

CHAIN = "MKTAYIAKQRQISFVKSHFSRQX"


@given(st.text(protein.RESIDUES + "XBUZO", max_size=40))
def test_a_chain_comes_back(text: str) -> None:
    codec = protein.fit()
    ids = codec.encode(text)
    assert codec.decode(ids) == text and len(ids) == len(text)


def test_files_and_ids_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, EsmTokenizer
    codec = protein.fit()
    with committed(tmp_path / "codec") as folder:
        codec.save(folder)
    for tokenizer in (AutoTokenizer.from_pretrained(tmp_path / "codec"), EsmTokenizer(tmp_path / "codec/vocab.txt")):
        assert tokenizer(CHAIN)["input_ids"] == [0, *codec.encode(CHAIN).tolist(), 2]
        assert tokenizer("M J")["input_ids"] == [0, *codec.encode("M J").tolist(), 2]
    assert codec.encode("MJk").tolist() == [20, 3, 3] and codec.encode("M K\nT").tolist() == [20, 15, 11]
    for missing in ("vocab.txt", ""):
        assert codecs.is_here(tmp_path / "codec")
        again = codecs.load(tmp_path / "codec")
        assert (again.marks, again.vocab) == (codec.marks, 33) and np.array_equal(again.encode(CHAIN),
                                                                                codec.encode(CHAIN))
        (tmp_path / "codec" / missing).unlink() if missing else None


def test_a_mark_that_is_spelled_out_is_no_mark() -> None:
    assert 32 not in protein.fit().encode("<mask>")
