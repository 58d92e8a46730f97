"""Output under a schema or a regular expression: everything parses and matches, whatever the seed."""
import builtins
import json
import re

import numpy as np
import pytest
import torch

from meristem.codecs import bpe, char, chat
from meristem.core.errors import RequestError
from meristem.generate.constrain import grammar
from meristem.generate.sampling import Sampling
from meristem.generate.text import complete
from tests.generate.small import model

pytest.importorskip("llguidance")

CODEC = bpe.fit(['{"name": "ab", "n": 12, "tags": ["x"]} def add(a, b): naïve 𝄞' * 9], 320)
SCHEMA = {"type": "object", "additionalProperties": False, "required": ["name", "n", "tags", "ok"], "properties": {
    "name": {"type": "string", "maxLength": 6}, "n": {"type": "integer", "minimum": -5, "maximum": 99},
    "tags": {"type": "array", "items": {"enum": ["x", "yy", "z"]}, "minItems": 1, "maxItems": 3},
    "ok": {"type": "boolean"}}}
PATTERN = r"[A-Z][a-z]{2,5}-[0-9]{1,3}(é|𝄞)?"


def module(vocab: int = CODEC.vocab):
    return model(vocab=vocab, context=160)


def rows(count: int) -> list[np.ndarray]:
    return [CODEC.encode("def add"[: 1 + i % 7]) for i in range(count)]


@pytest.mark.parametrize("how", [{"temperature": 1.0}, {"temperature": 1.5, "min_p": 0.001}, {}, {"beams": 3},
                                 {"ahead": 3}, {"ahead": 3, "temperature": 1.0}], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_output_is_of_the_schema(how: dict, seed: int) -> None:
    made = complete(module(), CODEC, rows(6), Sampling(length=120, schema=SCHEMA, seed=seed, **how))
    for one in made:
        value = json.loads(one.text)
        assert one.reason == "stop" and set(value) == {"name", "n", "tags", "ok"}
        assert len(value["name"]) <= 6 and -5 <= value["n"] <= 99 and isinstance(value["ok"], bool)
        assert 1 <= len(value["tags"]) <= 3 and set(value["tags"]) <= {"x", "yy", "z"}
    if how.get("temperature"):
        assert len({one.text for one in made}) == 6


@pytest.mark.parametrize("how", [{"temperature": 1.0}, {"beams": 2}, {"ahead": 2, "temperature": 1.0}], ids=str)
def test_every_output_matches_the_expression(how: dict) -> None:
    for seed in range(4):
        for one in complete(module(), CODEC, rows(4), Sampling(length=60, regex=PATTERN, seed=seed, **how)):
            assert re.fullmatch(PATTERN, one.text) and one.reason == "stop", one.text


def test_a_larger_embedding_and_characters_are_steered_as_well() -> None:
    wide = complete(module(CODEC.vocab + 45), CODEC, rows(4), Sampling(length=60, regex=PATTERN, temperature=1.0))
    assert all(re.fullmatch(PATTERN, one.text) for one in wide)
    letters = char.fit(["abc 123-é"])
    made = complete(module(letters.vocab), letters, [letters.encode("abc")] * 5,
                    Sampling(length=30, regex="[ab]{3,6}é-1", temperature=1.0))
    assert all(re.fullmatch("[ab]{3,6}é-1", one.text) for one in made) and len({one.text for one in made}) > 1


def test_logprobs_stay_the_models_own_and_a_short_length_is_said() -> None:
    how = Sampling(length=4, schema=SCHEMA, temperature=1.0)
    one = complete(module(), CODEC, rows(1), how)[0]
    assert one.reason == "length" and one.text.startswith('{"')
    with torch.no_grad():
        ids = torch.tensor([[*rows(1)[0].tolist(), *one.tokens]])
        logp = module()(ids)[0, len(rows(1)[0]) - 1:-1].log_softmax(-1)
    np.testing.assert_allclose(one.logprobs, logp.gather(1, torch.tensor(one.tokens)[:, None])[:, 0], atol=1e-5)


FREE = {"type": "object", "additionalProperties": False, "required": ["a", "b", "n"], "properties": {
    "a": {"type": "string"}, "b": {"type": "array", "items": {"type": "string"}}, "n": {"type": "number"}}}


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0}, {"ahead": 2}], ids=str)
def test_a_form_without_bounds_is_closed_before_its_room_ends(how: dict) -> None:
    reasons = set()
    for length in (24, 45):                                    # {"a":"","b":[],"n":0} has 21 characters
        for one in complete(module(), CODEC, rows(3), Sampling(length=length, schema=FREE, whole=True, **how)):
            value = json.loads(one.text)
            assert isinstance(value["a"], str) and isinstance(value["n"], int | float) and len(one.tokens) <= length
            reasons.add(one.reason)
    assert "length" in reasons, "what was cut short says so"
    cut = complete(module(), CODEC, rows(3), Sampling(length=24, schema=FREE, **how))
    assert {one.reason for one in cut} == {"length"} and not any(one.text.endswith("}") for one in cut)
    [none] = complete(module(), CODEC, rows(1), Sampling(length=9, schema=FREE, whole=True, **how))
    assert none.reason == "length", "no form is so short"
    with pytest.raises(RequestError, match="whole and beams"):
        Sampling(beams=2, whole=True)


def test_what_ends_a_turn_may_stand_where_the_text_is_whole() -> None:
    codec = bpe.fit(["ab"], 259, chat.CHATML_TOKENS)
    rules = grammar(Sampling(regex="ab+"), codec, codec.vocab, also=[2])
    assert rules is not None
    for letter, whole in (("a", False), ("b", True), ("b", True)):
        rules.push(int(codec.encode(letter)[0]))
        after = rules.apply(torch.zeros(codec.vocab))
        assert [bool(after[token] == 0) for token in (codec.end, 1, 2)] == [whole, False, whole]


@pytest.mark.parametrize(("how", "line"), [
    (Sampling(regex="[ab"), "the regular expression cannot be used: .*unclosed character class"),
    (Sampling(schema={"type": "objekt"}), "the schema cannot be used: .*objekt"),
    (Sampling(schema={"$ref": "http://example.org/x"}), "the schema cannot be used"),
])
def test_a_bad_grammar_is_one_line(how: Sampling, line: str) -> None:
    with pytest.raises(RequestError, match=line) as caught:
        grammar(how, CODEC, CODEC.vocab)
    assert "\n" not in str(caught.value)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name == "llguidance":
            raise ImportError(name)
        return real(name, *rest, **more)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(RequestError, match=r"needs the package llguidance: pip install 'meristem\[serve\]'"):
        grammar(Sampling(regex="a"), CODEC, CODEC.vocab)
    assert grammar(Sampling(), CODEC, CODEC.vocab) is None
