"""A small corpus of real sources, its codec and its shards, made once."""
import pytest

from meristem.codecs import bpe
from meristem.corpus import find
from meristem.corpus.curate import curate
from meristem.data import shards


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    folders = [find.standard_library()[0] / name for name in ("asyncio", "email", "importlib", "json")]
    return curate(folders, tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="session")
def codec(corpus):
    return bpe.fit((d.text for d in corpus.documents("train")), 600)


@pytest.fixture(scope="session")
def made(corpus, codec):
    return shards.tokenise(corpus, codec)
