"""Rows of dialogues: every form becomes one, and what is wrong with a row is said in a line."""
import json
from pathlib import Path

import pytest

from meristem.core.errors import RequestError
from meristem.corpus.dialogues import is_dialogue, normal
from meristem.corpus.labelled import labelled

ASK = {"role": "user", "content": "2 + 2?"}
SAY = {"role": "assistant", "content": "4"}


def test_every_form_becomes_one() -> None:
    hh = {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: no"}
    assert normal(hh) == {"messages": [{"role": "user", "content": "hi"}], "chosen": "hello", "rejected": "no",
                          "text": "hi\nhello\nno"}
    assert normal({"prompt": [ASK], "chosen": [SAY], "rejected": "5"})["chosen"] == "4"
    assert normal({"prompt": "2 + 2?", "completion": "4"}) == {"prompt": "2 + 2?", "completion": "4",
                                                               "text": "2 + 2?\n4"}
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2}}}]}
    whole = [ASK, called, {"role": "tool", "content": "4"}, SAY]
    assert normal({"messages": whole, "tools": [{"name": "add"}]})["messages"] == whole
    assert is_dialogue({"promt": "a", "chosen": "b"}) and not is_dialogue({"text": "a", "label": "b"})
    assert is_dialogue({"mesages": []})


@pytest.mark.parametrize(("row", "said"), [
    ({"prompt": "a", "choosen": "b", "rejected": "c"}, "no column 'choosen'; did you mean chosen"),
    ({"prompt": "a", "chosen": "b"}, "rejected"),
    ({"prompt": "a", "completion": " "}, "completion is empty"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "the same answer"),
    ({"prompt": "a", "completion": "b", "label": "good"}, "true or false"),
    ({"prompt": "a"}, "needs completion"),
    ({"prompt": " ", "answer": "4"}, "prompt is empty"),
    ({"completion": "b"}, "no column 'prompt'"),
    ({"messages": [ASK, ASK, SAY]}, "both the user's: roles alternate"),
    ({"messages": [ASK, SAY, SAY]}, "both the assistant's: roles alternate"),
    ({"messages": [SAY]}, "before any of the user's"),
    ({"messages": [ASK]}, "must be the assistant's"),
    ({"messages": [ASK, {"role": "asistant", "content": "4"}]}, "did you mean assistant"),
    ({"messages": [ASK, {"role": "assistant", "content": ""}]}, "message 1 (assistant) is empty"),
    ({"messages": [ASK, {"role": "tool", "content": "4"}, SAY]}, "nobody called"),
    ({"messages": "hi"}, "a list of"),
    ({"chosen": "a", "rejected": "b"}, "add the column 'prompt'"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}, "differ before"),
])
def test_what_is_wrong_is_said(row: dict, said: str) -> None:
    found = normal(row)
    assert isinstance(found, str) and said in found


def test_a_file_of_them_is_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n} + 1?", "chosen": str(n + 1), "rejected": str(n)} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = labelled(path)
    found = [d.fields for split in ("train", "validation", "test") for d in corpus.documents(split)]
    assert len(found) == 60 and {"prompt", "chosen", "rejected", "text"} == set(found[0])
    path.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejectd": "c"}) + "\n")
    with pytest.raises(RequestError, match=r"pairs.jsonl:1: no column 'rejectd'; did you mean rejected\?"):
        labelled(path)
