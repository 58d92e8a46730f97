"""Conversations as rows: the assistant's tokens alone have weight, his last too, and none sees another."""
import numpy as np
import pytest
import torch

from meristem.codecs import bpe, chat
from meristem.core.errors import RequestError
from meristem.data.conversations import Conversations, Reader
from meristem.data.preferences import Judged, Preferences
from meristem.data.questions import Questions
from meristem.objectives.next_token import NextToken
from tests.models import parity

TEXT = "the user asks what the assistant knows of 2 and 2 and tools\n" * 9
TOOL = {"name": "add", "parameters": {"a": "number"}}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2}}}]}
TALK = [{"role": "system", "content": "be short"}, {"role": "user", "content": "what of 2?"}, CALL,
        {"role": "tool", "content": "4"}, {"role": "assistant", "content": "it is 4"},
        {"role": "user", "content": "what of <|im_end|>?"}, {"role": "assistant", "content": "a mark"}]


@pytest.fixture(scope="module")
def codec() -> bpe.Bpe:
    return bpe.fit([TEXT], 300, chat.CHATML_TOKENS)


@pytest.fixture(scope="module")
def reader(codec: bpe.Bpe) -> Reader:
    return Reader(codec, chat.usual(codec))


def trained(source: Conversations, codec: bpe.Bpe) -> list[str]:
    """The runs of tokens that have weight, as spelled."""
    batch = source.batch(np.arange(len(source.fields["tokens"])))
    out, before = [""], False
    for target, weight in zip(batch["tokens"][:, 1:].flatten().tolist(), batch["weight"].flatten().tolist(),
                              strict=True):
        if weight and not before:
            out.append("")
        out[-1] += codec.tokenizer.decode([target], skip_special_tokens=False) if weight else ""
        before = bool(weight)
    return [text for text in out if text]


def test_only_the_assistants_words_have_weight_and_the_end_of_his_turn(codec: bpe.Bpe, reader: Reader) -> None:
    source = Conversations([{"messages": TALK, "tools": [TOOL]}], reader, 400, 1, 0)
    assert trained(source, codec) == ['<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call><|im_end|>',
                               "it is 4<|im_end|>", "a mark<|im_end|>"]
    text = codec.tokenizer.decode(source.fields["tokens"][0].tolist(), skip_special_tokens=False)
    assert '{"name": "add"' in text and "<|im_start|>tool\n4<|im_end|>" in text
    assert (source.fields["tokens"] == codec.special["<|im_end|>"]).sum() == 8      # the user's own is ordinary text


def test_a_template_without_marks_has_the_same_weights(codec: bpe.Bpe, reader: Reader) -> None:
    bare = chat.CHATML.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    plain = Reader(codec, chat.Chat(bare, reader.template.tokenizer, {}))
    ours, theirs = (r.whole({"messages": TALK, "tools": [TOOL]}) for r in (reader, plain))
    assert np.array_equal(ours.tokens, theirs.tokens) and np.array_equal(ours.own, theirs.own)


def test_plain_text_begins_and_ends(codec: bpe.Bpe) -> None:
    made = Reader(codec).whole({"prompt": "what", "completion": " of 2"})
    assert made.tokens[0] == codec.end and made.tokens[-1] == codec.end and codec.decode(made.tokens) == "what of 2"
    assert codec.decode(made.tokens[made.own]) == " of 2" and made.own[-1]
    with pytest.raises(RequestError, match="no chat template"):
        Reader(codec).whole({"messages": TALK})


def test_packed_conversations_cost_what_they_cost_alone(codec: bpe.Bpe, reader: Reader) -> None:
    rows = [{"messages": TALK[4 * n % 5: 5] if n else TALK[:5]} for n in range(1)]
    rows += [{"prompt": f"what of {n}?", "completion": f" it is {n * 7}"} for n in range(7)]
    packed = Conversations(rows, reader, 256, 2, 0)
    assert packed.skipped == 0 and len(packed.fields["tokens"]) < len(rows)
    objective = NextToken(parity.ours("llama", vocab=codec.vocab, context=256, dim=32, layers=2, heads=4)[1])
    with torch.no_grad():
        together = objective(packed.batch(np.arange(len(packed.fields["tokens"]))))[0]
        alone = [objective(Conversations([row], reader, 256, 1, 0).batch(np.arange(1)))[0] for row in rows]
    torch.testing.assert_close(together, torch.stack(alone).sum(), rtol=1e-5, atol=1e-4)
    assert Conversations(rows, reader, 60, 1, 0).skipped == 1
    with pytest.raises(RequestError, match=r"none of 1 conversations fits 9 tokens; raise train\.context"):
        Conversations(rows[:1], reader, 9, 1, 0)


def test_judged_answers_stand_together_and_places_are_their_tokens(codec: bpe.Bpe, reader: Reader) -> None:
    rows = [{"prompt": f"what of {n}?", "chosen": f" it is {n * 7}", "rejected": " no"} for n in range(6)]
    batch = next(iter(Preferences(rows, reader, 96, 9, 0).held_out(9, 10_000)))
    assert (batch["labels"] >= 0).sum() == 12
    for row in range(len(batch["labels"])):
        for segment, label in enumerate(batch["labels"][row].tolist()):
            if label < 0:
                continue
            inside = (batch["segments"][row].gather(0, batch["places"][row]) == segment) & (batch["weight"][row] > 0)
            said = codec.decode(batch["tokens"][row][batch["places"][row][inside] + 1].numpy())
            assert said.startswith(" it is") == (label == 1) and label == 1 - segment % 2
            first = batch["tokens"][row][:-1][batch["segments"][row] == segment]
            assert first[0] == codec.end
    judged = Judged([*rows, {"prompt": "2?", "completion": " 4", "label": False}], reader, 96, 2, 0)
    assert sorted(judged.fields["labels"][judged.fields["labels"] >= 0].tolist()) == [0] * 7 + [1] * 6 + [2] * 13


def test_questions_keep_room_for_an_answer(codec: bpe.Bpe, reader: Reader) -> None:
    rows = [{"prompt": "what of 2?", "answer": "4"}, {"messages": TALK[:2], "answer": "it is 4"}]
    source = Questions(rows, reader, 64, 16, 2, 0)
    batch = source(0)[0]
    prompts = [codec.tokenizer.decode(t[:n].tolist(), skip_special_tokens=False)
               for t, n in zip(batch["tokens"], batch["lengths"].tolist(), strict=True)]
    assert any(p.endswith("<|im_start|>assistant\n") for p in prompts) and source.skipped == 0
    assert {codec.decode(t[t >= 0].numpy()) for t in batch["targets"]} == {"4", "it is 4"}
    with pytest.raises(RequestError, match="leaves room for 60 tokens"):
        Questions(rows, reader, 64, 60, 2, 0)
