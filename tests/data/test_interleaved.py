"""Pictures among words: what a row becomes, which of it is trained on, which picture stands where."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meristem.codecs import action, bpe
from meristem.codecs.chat import CHATML_TOKENS, IMAGE, usual
from meristem.core.errors import RequestError
from meristem.corpus.labelled import labelled
from meristem.data.conversations import Reader
from meristem.data.interleaved import Interleaved, Writer
from meristem.data.looks import Looks, make
from meristem.data.scenes import COLOURS

TEXTS = ["what colour is the circle?\nred", "is the square left of it?\nyes"] * 4
CODEC = bpe.fit(TEXTS, 300, (IMAGE, *CHATML_TOKENS))
EACH = 4
WRITER = Writer(Reader(CODEC, usual(CODEC)), 1, EACH)
QUESTION = {"input": "what colour?", "target": "red"}


def texts(ids: np.ndarray) -> str:
    """Ids as text, a picture's places as one #."""
    return "".join("#" if some == 1 else "|" if some == 0 else CODEC.decode([some]) for some in ids).replace("#" * 4,
                                                                                                             "#")


def test_a_question_follows_its_pictures_and_its_answer_is_trained_on() -> None:
    made = WRITER.whole(QUESTION, 2)
    assert texts(made.tokens) == "|##what colour?\nred|"
    assert texts(made.tokens[made.own]) == "red|"
    assert np.array_equal(WRITER.prompt(QUESTION, 2), made.tokens[:-2 if len(CODEC.encode("red")) == 1 else -4])


def test_each_worked_example_has_its_picture_before_it() -> None:
    row = {"shots": [["", " dax"], ["", " wug"]], "input": "", "target": " dax"}
    made = WRITER.whole(row, 3)
    assert texts(made.tokens) == "|# dax\n# wug\n# dax|" and texts(made.tokens[made.own]) == " dax\n wug\n dax|"
    assert texts(WRITER.whole({**row, "input": "?"}, 1).tokens) == "|# dax\n wug\n? dax|", "one picture for all"
    assert texts(WRITER.whole({"text": "a cat"}, 1).tokens) == "|#a cat|"


def test_a_conversation_says_where_its_pictures_stand() -> None:
    said = [{"type": "text", "text": "is "}, {"type": "image"}, {"type": "text", "text": f"{IMAGE} the square?"}]
    row = {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": "yes"}]}
    made = WRITER.whole(row, 1)
    assert (made.tokens == 1).sum() == EACH, "spelled out in a message it is text"
    assert CODEC.decode(made.tokens[made.own]) == "yes" and f"{IMAGE} the square?" in CODEC.decode(made.tokens)
    assert np.array_equal(WRITER.prompt({"messages": row["messages"][:1]}, 1), made.tokens[:np.argmax(made.own)])
    with pytest.raises(RequestError, match="names 1 pictures and has 2"):
        WRITER.whole(row, 2)


def test_numbers_are_words_of_the_vocabulary() -> None:
    codec = action.fit(TEXTS, 600)
    bins, rng = action.Bins.of(codec), np.random.default_rng(0)
    values = rng.uniform(-1, 1, (50, 7))
    assert np.abs(bins.values(bins.ids(values)) - values).max() <= 1 / 256 + 1e-12, "half a bin"
    assert bins.ids(np.array([-1.0, 1.0, 7.0])).tolist() == [2, 257, 257]
    row = {"input": "push", "return": 1.0, "state": [0.0], "action": [-1.0, 0.25]}
    made = Writer(Reader(codec), 1, EACH).whole(row, 0)
    assert bins.values(made.tokens[-5:-1]).round(2).tolist() == [1.0, 0.0, -1.0, 0.25]
    assert made.own.sum() == 3 and not set(range(1, 258)) & set(codec.encode("<|0|> <|image|>").tolist())
    raw = rng.normal(size=(500, 3)) * [1, 10, 100]
    ranges = action.Ranges.of(raw)
    inside = (np.array(ranges.low) <= raw) & (raw <= np.array(ranges.high))
    np.testing.assert_allclose(ranges.widen(ranges.shrink(raw))[inside], raw[inside])
    with pytest.raises(RequestError, match="no words for numbers"):
        action.Bins.of(CODEC)
    with pytest.raises(RequestError, match="set model.image_token=1"):
        Writer(Reader(CODEC), 5, EACH)


def test_rows_of_several_pictures_keep_them(tmp_path: Path) -> None:
    lines = []
    for number in range(12):
        for which, grey in enumerate((number, 100 + number)):
            Image.new("RGB", (8, 8), (grey,) * 3).save(tmp_path / f"{number}-{which}.png")
        names = [f"{number}-0.png", f"{number}-1.png"]
        rows = ({"images": names, **QUESTION, "input": f"which {number}?"}, {"image": names[1], "text": "a cat"},
                {"images": names[:1], "messages": [{"role": "user", "content": [{"type": "image"}]},
                                                   {"role": "assistant", "content": f"{number}"}]},
                {"input": f"word {number}", "action": [0.5, -0.5]})
        lines.append(json.dumps(rows[number % 4]))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    corpus = labelled(tmp_path / "rows.jsonl")
    codec = action.fit(TEXTS, 700, CHATML_TOKENS)
    writer = Writer(Reader(codec, usual(codec)), 1, EACH)
    made = Interleaved.of(corpus, writer, "train", (8, 3), 64, (4, 0, 0))
    assert len(made.tokens) == len(list(corpus.documents("train"))) and made.skipped == 0
    batch = made.batch(np.arange(len(made.tokens)))
    assert batch["images"].shape[1:] == (2, 3, 8, 8) and batch["weight"].shape == (len(made.tokens), 64)
    for document, images in zip(corpus.documents("train"), batch["images"][:, :, 0, 0, 0].tolist(), strict=True):
        which = document.fields.get("input", "")
        if which.startswith("which"):
            number = int(which.removeprefix("which ").removesuffix("?"))
            assert images == [number, 100 + number]
        elif which.startswith("word"):
            assert images == [0, 0]
    for wrong in ({"images": [], "text": "a"}, {"image": "0-0.png", "input": 3}, {"action": [2.0]}):
        (tmp_path / "bad.jsonl").write_text(json.dumps(wrong))
        with pytest.raises(RequestError):
            labelled(tmp_path / "bad.jsonl")


def test_questions_are_answered_by_their_pictures(tmp_path: Path) -> None:
    kind = Looks(documents=30, side=16, held_out=0.17)
    rows = [kind.row("train", n) for n in range(300)] + [kind.row("test", n) for n in range(100)]
    for (scene,), row in rows:
        words = row["input"].removesuffix("?").split()
        if row["label"] == "colour":
            assert [o.colour for o in scene if o.shape == words[-1]] == [row["target"]]
        elif row["label"] == "count":
            assert row["target"] == ("one", "two", "three")[len(scene) - 1]
        elif row["label"] == "relate":
            a, b = (next(o for o in scene if o.shape == w) for w in (words[2], words[-1]))
            assert (a.x < b.x) == (row["target"] == "yes")
    yes = [row["target"] == "yes" for _, row in rows if row["target"] in ("yes", "no")]
    assert 0.4 < np.mean(yes) < 0.6
    unseen = kind.unseen()
    assert all(((s.colour, s.shape) in unseen) == (n >= 300 and o == 0) or n >= 300 and o
               for n, (scenes, _) in enumerate(rows) for o, s in enumerate(scenes[0]))
    corpus = make(tmp_path / "names", {"kind": "names", "documents": 20, "side": 16, "shots": 3})
    document = next(corpus.documents("train"))
    assert len(document.fields["images"]) == 4 and set(COLOURS) >= set(kind.pairs()[0])
