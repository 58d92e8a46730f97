"""Byte-level BPE: lossless, deterministic, the same ids as `transformers`, and deaf to special tokens in user text."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meristem import codecs
from meristem.codecs import base, bpe
from meristem.core.errors import RequestError
from meristem.corpus import find

SOURCES = sorted((find.standard_library()[0] / "asyncio").glob("*.py"))
PARTS = [" ", "\n", "\r", "\t", "\f", "\x0b", "\x1c", "ab", "_", "A1", "23", "((", ".", '"', "é", "\u3000", "界",
         "<|end|>"]
any_text = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(st.sampled_from(PARTS)).map("".join)


@pytest.fixture(scope="module")
def codec() -> bpe.Bpe:
    return bpe.fit((p.read_text() for p in SOURCES), 1000)


@pytest.fixture(scope="module")
def theirs(codec, tmp_path_factory):
    from transformers import PreTrainedTokenizerFast
    folder = tmp_path_factory.mktemp("codec")
    codec.save(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@settings(deadline=None, max_examples=300)
@example("<|end|>")
@example("    a\n\n\n    b  \n\tc \r\n 12 x=1")
@given(any_text)
def test_encoding_is_lossless_and_agrees_with_the_library_and_with_transformers(codec, theirs, text):
    ids = codec.encode(text)
    assert ids.dtype == np.int32 and codec.end not in ids
    assert codec.decode(ids) == text
    assert ids.tolist() == codec.tokenizer.encode(text, add_special_tokens=False).ids
    assert ids.tolist() == theirs(text)["input_ids"]
    assert theirs.decode(ids.tolist()) == text


def test_batches_of_ascii_and_other_texts_keep_their_order(codec):
    texts = ["plain", "naïve", "", "x = 1\n", "界", "plain"]
    assert [codec.decode(ids) for ids in codec.encode_batch(texts)] == texts
    assert codec.encode_batch([]) == []


def test_the_table_of_pieces_may_be_cleared_at_any_time(codec, monkeypatch):
    texts = [p.read_text() for p in SOURCES[:4]]
    before = codec.encode_batch(texts)
    monkeypatch.setattr(bpe, "MOST_PIECES", 10)
    assert all(np.array_equal(a, codec.encode_batch([t])[0]) for a, t in zip(before, texts, strict=True))


def test_the_end_token_is_id_0_and_decodes_to_nothing(codec, theirs):
    assert codec.end == 0 and codec.vocab == 1000 and len(theirs) == 1000
    assert theirs.eos_token_id == 0
    assert codec.decode([0, *codec.encode("a"), 0]) == "a"


def test_pieces_are_what_code_needs(codec):
    source = "def f(self, value_1=234):\n        return self._loop\n"
    tokens = [codec.decode([i]) for i in codec.encode(source)]
    assert "".join(tokens) == source
    assert "\n        " in tokens and " return" not in tokens and "return" in tokens
    assert [t for t in tokens if any(c.isdigit() for c in t)] == ["1", "2", "3", "4"]


def test_it_compresses_code(codec):
    text = "".join(p.read_text() for p in SOURCES)
    assert len(text.encode()) / len(codec.encode(text)) > 3.0


def test_saving_and_loading_changes_nothing(codec, tmp_path):
    codec.save(tmp_path)
    again = codecs.load(tmp_path)
    assert isinstance(again, bpe.Bpe) and (again.hash, again.end, again.vocab) == (codec.hash, codec.end, codec.vocab)
    assert np.array_equal(again.encode("x <|end|> y"), codec.encode("x <|end|> y"))


def test_fitting_is_deterministic_across_processes_and_orders(codec):
    code = ("import sys; from pathlib import Path; from meristem.codecs import bpe;"
            "print(bpe.fit((Path(p).read_text() for p in sys.argv[1:]), 1000).hash)")
    run = subprocess.run([sys.executable, "-c", code, *map(str, reversed(SOURCES))], capture_output=True, text=True,
                         check=True, cwd=Path(base.__file__).parents[2])
    assert run.stdout.strip() == codec.hash


def test_only_a_sample_of_a_large_text_is_learned_from(monkeypatch):
    monkeypatch.setattr(bpe, "SAMPLE", 50_000)
    texts = [p.read_text() for p in SOURCES]
    chosen = bpe.sample(texts)
    assert 0 < sum(len(t.encode()) for t in chosen) <= 50_000
    assert chosen == bpe.sample(reversed(texts)) and set(chosen) < set(texts)
    assert len(bpe.sample(["a" * 60_000])) == 1


def test_bad_requests(tmp_path):
    with pytest.raises(RequestError, match="at least 257"):
        bpe.fit(["text"], 256)
    with pytest.raises(RequestError, match="no text"):
        bpe.fit(["", ""], 300)
    with pytest.raises(RequestError, match="tokenizer.json does not exist"):
        codecs.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(RequestError, match="is not a tokenizer"):
        codecs.load(tmp_path)


def test_half_a_surrogate_pair_is_an_error_in_one_line(codec):
    with pytest.raises(RequestError, match="surrogate"):
        codec.encode("a\udcff")


def test_an_end_token_that_does_not_exist_is_named(codec, tmp_path):
    codec.save(tmp_path)
    config = tmp_path / base.CONFIG
    config.write_text(config.read_text().replace(base.END, "</s>"))
    with pytest.raises(RequestError, match="</s>"):
        codecs.load(tmp_path)


def test_tokenizers_of_other_makers_load_too(tmp_path):
    """A GPT-2 style file without our split: the table of pieces must stay out of it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    other = Tokenizer(models.BPE())
    other.pre_tokenizer, other.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    other.train_from_iterator([p.read_text() for p in SOURCES[:5]], trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    other.save(str(tmp_path / base.TOKENIZER))
    (tmp_path / base.CONFIG).write_text('{"eos_token": {"content": "<|endoftext|>"}}')
    codec = codecs.load(tmp_path)
    text = "for x in range(10):\n    pass"
    assert codec.end == 0 and codec.decode(codec.encode(text)) == text
    assert codec.encode(text).tolist() == other.encode(text).ids
