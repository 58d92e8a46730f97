"""Fill in the middle: the parts join to the document, rows keep their length, the loss is that of next token."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from meristem import codecs
from meristem.codecs import bpe, char
from meristem.core.errors import RequestError
from meristem.corpus import find
from meristem.data.loader import separate
from meristem.generate.infill import SPELLED, STARCODER, Sentinels, prompt
from meristem.models.starcoder2 import Config, Model
from meristem.objectives.fill_in_the_middle import FillInTheMiddle, cut_lines
from meristem.objectives.next_token import NextToken, log_probs

SOURCES = [p.read_text() for p in sorted((find.standard_library()[0] / "asyncio").glob("*.py"))][:8]
LEVELS = ("character", "token", "line")


@pytest.fixture(scope="module")
def codec() -> bpe.Bpe:
    return bpe.fit(SOURCES, 600, special=STARCODER)


def model(codec: bpe.Bpe, context: int = 64) -> Model:
    """A small one."""
    torch.manual_seed(0)
    return Model(Config(vocab=codec.vocab, context=context, dim=32, layers=1, heads=2))


def rows(codec: bpe.Bpe, texts: list[str], length: int, batch: int = 4) -> dict[str, torch.Tensor]:
    """`batch` windows of length + 1 tokens from texts with the end token after each."""
    ids = np.concatenate([np.append(codec.encode(text), codec.end) for text in texts]).astype(np.int64)
    tokens = torch.from_numpy(ids[: batch * length + 1]).unfold(0, length + 1, length)
    assert len(tokens) == batch
    return {"tokens": tokens.clone(), "weight": torch.ones(batch, length)}


def parts(ids: np.ndarray, s: Sentinels, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Prefix, middle, suffix of one rearranged document, and whether it stands in SPM order."""
    assert ids[0] == s.prefix and ids[-1] == end and np.isin(ids, [s.prefix, s.middle, s.suffix, end]).sum() == 4
    at_suffix, at_middle = np.flatnonzero(ids == s.suffix)[0], np.flatnonzero(ids == s.middle)[0]
    assert 0 < at_suffix < at_middle
    if at_suffix == 1:                                         # in SPM the prefix runs on into the middle
        return np.empty(0), ids[at_middle + 1: -1], ids[2: at_middle], True
    return ids[1: at_suffix], ids[at_middle + 1: -1], ids[at_suffix + 1: at_middle], False


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("spm", [0.0, 1.0])
def test_the_parts_join_to_the_document(codec: bpe.Bpe, level: str, spm: float) -> None:
    texts = ["def add(a, b):\n    return a + b\n", "naïve = '界'\n", "x", "print('hello', 12)\n" * 3]
    objective = FillInTheMiddle(model(codec), codec, rate=1.0, spm=spm, level=level)
    rng = np.random.default_rng(3)
    boundaries = set(np.cumsum([len(codec.decode([i])) for i in codec.encode(texts[0])]).tolist()) | {0}
    orders = []
    starts = set()                                             # where the suffix of the first text begins
    for text in texts * 40:
        ids = np.append(codec.encode(text), codec.end).astype(np.int64)
        prefix, middle, suffix, order = parts(objective.document(ids, 200, rng), objective.sentinels, codec.end)
        orders.append(order)
        assert codec.decode(np.concatenate([prefix, middle, suffix]).astype(np.int64)) == text
        if text == texts[0]:
            starts.add(len(text) - len(codec.decode(suffix)))
    assert all(orders) if spm else sum(orders) < (140 if level == "line" else 60)
    # with an empty prefix both are the same row
    if level == "line":
        assert starts == {len("def add(a, b):"), len(texts[0]) - 1}                # before a line end
    else:
        assert len(starts) > 8 and (starts <= boundaries) == (level == "token")


def test_a_gap_of_lines_is_what_an_editor_asks_for() -> None:
    """It begins after the indentation of a line and ends before a line end; half of the gaps are one line."""
    head = "class A:\n\n    x = 1\n    y = 2\n\n    def f(self):\n        return 1\n"
    text, rng = head + "z = 1\n" * 20 + "half a li", np.random.default_rng(0)
    gaps = [text[slice(*cut_lines(text, rng))] for _ in range(2000)]
    cuts = [cut_lines(text, rng) for _ in range(200)]
    assert all(not text[:a].rpartition("\n")[2].strip() and not text[a].isspace() and text[b] == "\n" for a, b in cuts)
    assert {"x = 1", "x = 1\n    y = 2", "return 1", "class A:"} <= set(gaps) and not any("half" in g for g in gaps)
    one = sum("\n" not in gap for gap in gaps)
    assert one == pytest.approx(1000 + 2000 / 25 / 2, abs=4 * 500**0.5)            # of 25 lines the last ends every gap
    assert cut_lines("\n \n", rng) == (0, 0) and cut_lines("  only", rng) == (2, 6)


def test_sentinels_in_the_text_stay_text(codec: bpe.Bpe) -> None:
    """A document that spells them out has no more special tokens than any other."""
    text = "a <fim_middle> b <fim_prefix> c <|end|> d"
    objective = FillInTheMiddle(model(codec), codec, rate=1.0, spm=0.0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = objective.document(np.append(codec.encode(text), codec.end), 300, rng)
        assert codec.decode(np.concatenate(parts(ids, objective.sentinels, codec.end)[:3])) == text


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("length", [8, 64, 256])
def test_rows_keep_their_length_and_every_middle_its_end(codec: bpe.Bpe, level: str, length: int) -> None:
    batch = rows(codec, [text[:n] for text, n in zip(SOURCES, (400, 90, 3, 40, 2000, 1, 3000, 3000), strict=True)],
                 length, batch=8 if length < 256 else 4)
    objective = FillInTheMiddle(model(codec), codec, rate=1.0, level=level)
    torch.manual_seed(5)
    made = objective.prepare(batch)
    s, end = objective.sentinels, codec.end
    assert made["tokens"].shape == batch["tokens"].shape and made["weight"].shape == batch["weight"].shape
    count = 0
    for before, after, weight in zip(batch["tokens"].numpy(), made["tokens"].numpy(), made["weight"].numpy(),
                                     strict=True):
        used = int(weight.sum()) + 1
        assert weight[: used - 1].all() and not weight[used - 1:].any()
        assert used >= len(before) - 12 and (after[used:] == end).all()            # encoding anew loses a few at most
        documents = np.split(after[:used], np.flatnonzero(after[:used] == end) + 1)
        originals = np.split(before, np.flatnonzero(before == end) + 1)
        for i, document in enumerate(d for d in documents if len(d)):
            text = codec.decode(originals[i])
            if document[0] != s.prefix:                        # no room was left, or nothing to cut
                assert text.startswith(codec.decode(document)) or "\ufffd" in text
                continue
            prefix, middle, suffix, _ = parts(document, s, end)
            joined = codec.decode(np.concatenate([prefix, middle, suffix]).astype(np.int64))
            assert text.startswith(joined) or "\ufffd" in text
            count += 1
    assert count >= len(batch["tokens"]) // 2


def test_it_is_a_pure_function_of_the_generator(codec: bpe.Bpe) -> None:
    batch = rows(codec, SOURCES, 64)
    objective = FillInTheMiddle(model(codec), codec)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(objective.prepare(batch)["tokens"])
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert not torch.equal(made[0], batch["tokens"])


def test_rates_are_kept(codec: bpe.Bpe) -> None:
    """Of 2,000 documents 30 % are rearranged, of these 80 % in SPM order, within four deviations."""
    ids = np.append(codec.encode("some words in a line\n"), codec.end).astype(np.int64)
    objective = FillInTheMiddle(model(codec), codec, rate=0.3, spm=0.8)
    rng = np.random.default_rng(0)
    made = [objective.document(ids, 100, rng) for _ in range(2000)]
    changed = [m for m in made if m[0] == objective.sentinels.prefix]
    assert all(np.array_equal(m, ids) for m in made if m[0] != objective.sentinels.prefix)
    assert len(changed) == pytest.approx(600, abs=4 * (2000 * 0.3 * 0.7) ** 0.5)
    spm = sum(m[1] == objective.sentinels.suffix for m in changed)
    assert spm == pytest.approx(0.8 * len(changed), abs=4 * (len(changed) * 0.16) ** 0.5)


def test_the_loss_is_counted_as_in_next_token(codec: bpe.Bpe) -> None:
    module = model(codec)
    objective, plain = FillInTheMiddle(module, codec, rate=1.0), NextToken(module)
    batch = rows(codec, SOURCES, 64)
    torch.manual_seed(0)
    made = objective.prepare(batch)
    assert float(objective.weight(made)) == float(made["weight"].sum()) > 4 * 50
    torch.testing.assert_close(objective(made)[0], plain(made)[0])
    by_hand = -log_probs(module(made["tokens"][:, :-1]), made["tokens"][:, 1:])
    torch.testing.assert_close(objective(made)[0], by_hand[made["weight"] > 0].sum())
    none = FillInTheMiddle(module, codec, rate=0.0)
    assert none.prepare(batch) is batch


def test_padding_of_a_split_stays_padding(codec: bpe.Bpe) -> None:
    batch = rows(codec, SOURCES, 64)
    batch["weight"][2, 20:], batch["tokens"][2, 21:] = 0.0, codec.end
    batch["weight"][3], batch["tokens"][3] = 0.0, codec.end
    made = FillInTheMiddle(model(codec), codec, rate=1.0).prepare(batch)
    assert 20 <= made["weight"][2].sum() <= 20 + 3 * 4 and made["weight"][3].sum() == 0     # sentinels move into it
    assert (made["tokens"][3] == codec.end).all()


def test_documents_kept_apart_stay_apart(codec: bpe.Bpe) -> None:
    """data.packing=separate: each rearranged document is a segment, and its loss is that of the document alone."""
    module = model(codec, 256)
    batch = separate(rows(codec, ["x = 1\n" * 3, "def f():\n    pass\n"] * 9, 64, batch=2), codec.end)
    objective = FillInTheMiddle(module, codec, rate=1.0)
    made = objective.prepare(batch)
    assert made["segments"].max() >= 2 and not torch.equal(made["segments"], batch["segments"])
    alone = torch.zeros(())
    for ids, weight in zip(made["tokens"], made["weight"], strict=True):
        edges = [0, *(torch.nonzero(ids[:-1] == codec.end)[:, 0]).tolist(), len(ids) - 1]
        for a, b in zip(edges, edges[1:], strict=False):
            one = {"tokens": ids[None, a: b + 1], "weight": weight[None, a: b]}
            alone = alone + (NextToken(module)(one)[0] if b > a else 0)
    torch.testing.assert_close(objective(made)[0], alone)


def test_what_cannot_be_rearranged_is_one_line(codec: bpe.Bpe) -> None:
    objective = FillInTheMiddle(model(codec), codec)
    prompts = rows(codec, SOURCES, 64)
    prompts["weight"][0, :10] = 0.0
    with pytest.raises(RequestError, match="unset data.examples"):
        objective.prepare(prompts)
    with pytest.raises(RequestError, match=r"no special tokens <fim_prefix>.*data.codec.special"):
        FillInTheMiddle(nn.Identity(), bpe.fit(SOURCES[:2], 300))
    with pytest.raises(RequestError, match="no special tokens"):
        FillInTheMiddle(nn.Identity(), char.fit(["a bcd"]))
    with pytest.raises(RequestError, match="objective.rate=1.5"):
        FillInTheMiddle(nn.Identity(), codec, rate=1.5)


@pytest.mark.parametrize("spm", [False, True])
def test_the_prompt_is_the_row_without_its_middle(codec: bpe.Bpe, spm: bool) -> None:
    before, gap, after = (codec.encode(text) for text in ("def f(x):\n    ", "return x", "\n\nf(1)\n"))
    sentinels = Sentinels.of(codec)
    row = sentinels.arrange(before, gap, after, spm)
    got = prompt(codec, "def f(x):\n    ", "\n\nf(1)\n", spm)
    assert got[0] == codec.end and got[1:].tolist() == row[: -len(gap)].tolist()


@pytest.mark.parametrize("names", SPELLED)
def test_sentinels_are_found_in_each_spelling_also_after_saving(names: tuple[str, str, str], tmp_path: Path) -> None:
    codec = bpe.fit(SOURCES[:2], 400, special=names)
    codec.save(tmp_path)
    assert Sentinels.of(codecs.load(tmp_path)) == Sentinels(1, 2, 3) == Sentinels.of(codec)
    assert codec.decode([5, 1, 2, 3]) == codec.decode([5])
    assert not set(codec.encode("".join(names)).tolist()) & {1, 2, 3}
