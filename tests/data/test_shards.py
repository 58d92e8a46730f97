"""Shards hold every document, know where each begins and which it is, and are made once."""
import resource
import shutil

import numpy as np
import pytest

from meristem import codecs
from meristem.codecs import char
from meristem.core.errors import MachineError, RequestError
from meristem.core.progress import Progress
from meristem.corpus.store import SPLITS, Corpus
from meristem.data import shards


class Heard(Progress):
    def __init__(self):
        self.lines = []

    def warn(self, text):
        self.lines.append(text)


def test_every_document_decodes_to_its_text_and_ends_with_the_end_token(corpus, codec, made):
    for name in SPLITS:
        split, documents = made.split(name), list(corpus.documents(name))
        assert split.ids == [d.id for d in documents] and len(split.starts) == len(documents)
        assert split.bytes == sum(len(d.text.encode()) for d in documents) == corpus.summary["splits"][name]["bytes"]
        for n, document in enumerate(documents):
            tokens = split.document(n)
            assert tokens[-1] == codec.end and codec.end not in tokens[:-1]
            assert codec.decode(tokens) == document.text
        assert sum(len(split.document(n)) for n in range(len(documents))) == len(split.tokens)


def test_tokens_stay_on_disk_in_two_bytes_each(made):
    tokens = made.split("train").tokens
    assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16 and not tokens.flags.writeable


def test_a_large_vocabulary_takes_four_bytes(corpus, codec, monkeypatch):
    monkeypatch.setattr(codec, "vocab", 70_000)
    monkeypatch.setattr(codec, "hash", "large")
    made = shards.tokenise(corpus, codec)
    assert made.split("test").tokens.dtype == np.uint32
    assert made.split("test").tokens[:50].tolist() == shards.Shards.open(made.folder).split("test").tokens[:50].tolist()


def test_the_second_call_reads_what_the_first_wrote(corpus, codec, made):
    before = (made.folder / "train.tokens").stat().st_ino
    again = shards.tokenise(corpus, codec)
    assert again.hash == made.hash and (again.folder / "train.tokens").stat().st_ino == before


def test_the_codec_lies_beside_its_tokens(codec, made):
    assert codecs.load(made.folder).hash == codec.hash


def test_another_codec_makes_other_shards(corpus, made):
    codec = char.fit(d.text for name in SPLITS for d in corpus.documents(name))
    other = shards.tokenise(corpus, codec)
    assert other.hash != made.hash and other.folder != made.folder
    assert codec.decode(other.split("test").document(0)) == next(iter(corpus.documents("test"))).text


def test_damage_is_named_and_mended(corpus, codec, made, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus.folder, copy)
    folder = copy / "tokens" / codec.hash
    with open(folder / "train.tokens", "r+b") as f:
        f.truncate(100)
    with pytest.raises(MachineError, match="train.tokens has 100 bytes"):
        shards.Shards.open(folder)
    heard = Heard()
    again = shards.tokenise(Corpus.open(copy), codec, heard)
    assert again.hash == made.hash and np.array_equal(again.split("train").tokens, made.split("train").tokens)
    assert "making them again" in heard.lines[0]


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(corpus):
    codec = char.fit([*(d.text for name in SPLITS for d in corpus.documents(name)), "\N{SNOWMAN}"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a larger file fails to be written, as on a full disk
    try:
        with pytest.raises(MachineError, match="free some space"):
            shards.tokenise(corpus, codec)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [p for p in (corpus.folder / "tokens").iterdir() if codec.hash in p.name]


def test_an_unknown_split_is_an_error(made):
    with pytest.raises(RequestError, match="did you mean train"):
        made.split("trian")
