"""Text as it appears: whole characters, stop texts across tokens, never half of one."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from meristem.codecs import bpe
from meristem.core.errors import RequestError
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling
from meristem.generate.text import Stream, complete, whole
from tests.generate.small import model

CODEC = bpe.fit(["abcab bca \n\naa cab" * 9, "naive 𝄞 é"], 300)
LETTERS = st.text(alphabet="abc \né𝄞", max_size=40)


def pieces(tokens: list[int], stop: tuple[str, ...], prompt: list[int] | None = None) -> tuple[list[str], Stream]:
    """What is shown token by token, ending as generation would."""
    stream, out = Stream(CODEC, prompt or [], stop), []
    for token in tokens:
        out.append(stream.push(token))
        if stream.stopped:
            break
    return [*out, stream.end()], stream


@limits(max_examples=300, deadline=None)
@given(LETTERS, st.lists(st.text(alphabet="abc \né", min_size=1, max_size=5), max_size=3), st.booleans(), LETTERS)
def test_the_text_ends_before_the_first_stop_and_none_is_shown(text: str, stop: list[str], split: bool,
                                                               before: str) -> None:
    """`split` takes every byte as a token of its own, so that stops and characters cross many borders."""
    plain = bpe.fit(["plain"], 257)
    tokens = [t for c in text for t in plain.encode(c).tolist()] if split else CODEC.encode(text).tolist()
    codec = plain if split else CODEC
    stream, shown = Stream(codec, codec.encode(before).tolist(), stop), ""
    for token in tokens:
        shown += stream.push(token)
        assert not any(s in shown for s in stop)
        if stream.stopped:
            break
    shown += stream.end()
    ends = [text.find(s) + len(s) for s in stop if s in text]          # the stop that is complete first ends the text
    assert stream.stopped == bool(ends)
    if not ends:
        assert shown == stream.text == text and stream.kept == len(tokens)
    else:
        assert shown == stream.text and text.startswith(shown) and not any(s in shown for s in stop)
        assert any(text.startswith(s, len(shown)) for s in stop)
        assert codec.decode(tokens[:stream.kept]).startswith(shown)
        assert stream.kept == 0 or len(codec.decode(tokens[:stream.kept - 1])) < len(shown) or "\ufffd" in codec.decode(
            tokens[:stream.kept - 1])


def test_a_possible_stop_is_held_back_until_it_is_clear() -> None:
    plain = bpe.fit(["plain"], 257)
    stream = Stream(plain, [], ("END", "\n\n"))
    assert [stream.push(t) for t in plain.encode("aENb\nc\n").tolist()] == ["a", "", "", "ENb", "", "\nc", ""]
    assert stream.end() == "\n" and not stream.stopped
    stream = Stream(plain, [], ("END",))
    assert [stream.push(t) for t in plain.encode("xEEND").tolist()] == ["x", "", "E", "", ""]
    assert stream.stopped and stream.text == "xE" and stream.kept == 2


def test_a_long_text_is_not_decoded_again_at_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    decode = bpe.Bpe.decode
    monkeypatch.setattr(bpe.Bpe, "decode", lambda self, ids: seen.append(len(ids)) or decode(self, ids))
    pieces(CODEC.encode("abcab" * 400).tolist(), ())
    assert max(seen) <= 4


WHOLE = {t: float("-inf") for t in range(1, CODEC.vocab) if not CODEC.decode([t]).isalnum()}      # bans half characters


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """What the small model writes greedily after four prompts."""
    return [c.text for c in complete(module(), CODEC, asked(), Sampling(length=40, temperature=1.0))]


def module():
    """A model of this codec's vocabulary."""
    return model(vocab=CODEC.vocab)


def asked() -> list[np.ndarray]:
    return [CODEC.encode(t) for t in ("abc", "a", "cab bca abc", "b")]


@pytest.mark.parametrize("how", [{}, {"ahead": 3}], ids=["plain", "ahead"])
def test_completions_end_at_a_stop_text(how: dict) -> None:
    settings = Sampling(length=40, temperature=1.0, logit_bias=WHOLE, **how)
    free = complete(module(), CODEC, asked(), settings)
    stop = free[0].text[5:8]
    heard = [""] * 4

    def hear(row: int, piece: str) -> None:
        heard[row] += piece

    made = complete(module(), CODEC, asked(), replace(settings, stop=(stop,)), on_text=hear)
    for one, before, shown in zip(made, free, heard, strict=True):
        assert one.text == before.text.split(stop)[0] == shown
        assert one.reason == ("stop" if stop in before.text else before.reason)
        assert one.tokens == before.tokens[:len(one.tokens)] and len(one.tokens) == len(one.logprobs)
    assert made[0].reason == "stop" and made[0].text == free[0].text[:5]


def test_beams_end_at_a_stop_text() -> None:
    how = Sampling(length=20, beams=3, length_penalty=0.0, logit_bias=WHOLE, top_logprobs=2)      # short is good
    free = complete(module(), CODEC, asked(), how)
    stop = free[0].text[4:6]
    made = complete(module(), CODEC, asked(), replace(how, stop=(stop,)))
    assert not any(stop in c.text for c in made) and any(c.reason == "stop" for c in made)
    assert all(len(c.top) == len(c.tokens) for c in made) and all(c.score < 0 for c in made)


def test_text_is_that_of_the_tokens(texts: list[str]) -> None:
    made = generate(module(), asked(), length=40, temperature=1.0, stop={CODEC.end})
    assert texts == [CODEC.decode(g.tokens) for g in made]
    assert [c.reason for c in complete(module(), CODEC, asked(), Sampling(length=40, temperature=1.0))] == [
        "stop" if g.stopped else "length" for g in made]


def test_a_cut_off_text_is_only_an_error_when_it_had_to_satisfy_something() -> None:
    cut = complete(module(), CODEC, asked()[:1], Sampling(length=3))[0]
    assert whole(cut, Sampling()) is cut and cut.reason == "length"
    for how in (Sampling(regex="a"), Sampling(schema={})):
        with pytest.raises(RequestError, match="after 3 tokens the text did not yet satisfy"):
            whole(cut, how)
