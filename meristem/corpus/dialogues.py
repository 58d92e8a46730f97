"""Conversations and judgements as rows: what people ask, what an assistant answers, and which answer people prefer.

    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "tools": [...]}
    {"prompt": "2 + 2?", "completion": "4"}                                     # plain text, no chat template
    {"prompt": P, "chosen": "4", "rejected": "5"}                               # a preference: which answer is better
    {"prompt": P, "completion": "5", "label": false}                            # a judgement: good (true) or bad
    {"prompt": P, "answer": "4"}                                                # a question whose answer can be checked
    {"chosen": "\\n\\nHuman: hi\\n\\nAssistant: hello", "rejected": "\\n\\nHuman: hi\\n\\nAssistant: no"}

P is a text, or a list of messages that ends with the user's; completion, chosen and rejected are texts, or lists of one
message of the assistant. Chosen and rejected without a prompt are whole conversations (messages, or the text of
Anthropic's hh-rlhf) that differ in their last answer only. `normal` brings every form to `messages` or `prompt` with
`completion`, `chosen`, `rejected` or `answer`, all of them texts; `corpus.labelled` reads such files.
"""
import re
from typing import Any

from meristem.core.errors import nearest

Row = dict[str, Any]
COLUMNS = ("messages", "images", "tools", "prompt", "completion", "chosen", "rejected", "label", "answer")
OWN = ("messages", "prompt", "completion", "chosen", "rejected")       # a row with one of these is a dialogue
ROLES = ("system", "developer", "user", "assistant", "tool")
TURN = re.compile(r"\n\n(Human|Assistant):")


def is_dialogue(row: Row) -> bool:
    """Whether a row means to be one of the forms above, a misspelled column or two included."""
    return any(key in row for key in OWN) or (
        not any(key in row for key in ("text", "input", "target", "words", "image", "images", "action"))
        and any(nearest(str(key), OWN).startswith("did you mean") for key in row))


def normal(row: Row) -> Row | str:
    """The row in its one form, or what is wrong with it."""
    if unknown := [key for key in row if key not in COLUMNS and nearest(str(key), COLUMNS).startswith("did you mean")]:
        return f"no column {unknown[0]!r}; {nearest(str(unknown[0]), COLUMNS)}"
    judged = [key for key in ("chosen", "rejected") if key in row]
    if len(judged) == 1:
        return f"{judged[0]} stands alone: a preference has chosen and rejected"
    if judged and "prompt" not in row and "messages" not in row:
        found = _apart(row["chosen"], row["rejected"])
        if isinstance(found, str):
            return found
        row = {**row, **found}
    given = row.get("prompt", row.get("messages"))
    if given is None:
        return f"no column 'prompt' or 'messages' beside {', '.join(map(repr, row))}"
    last = [key for key in ("completion", "chosen", "rejected", "answer") if key in row]
    texts: Row = {key: _text(row[key]) for key in last}
    if empty := [key for key, text in texts.items() if not text.strip()]:
        return f"{empty[0]} is empty, or no text and no message of the assistant"
    if "chosen" in texts and texts["chosen"] == texts["rejected"]:
        return "chosen and rejected are the same answer"
    if "label" in row and not isinstance(row["label"], bool):
        return f"label of a judged answer is true or false, not {row['label']!r}"
    if isinstance(given, str) and "messages" not in row:
        if not given.strip():
            return "prompt is empty"
        if not last:
            return "a prompt needs completion, chosen and rejected, or answer"
        kept: Row = {"prompt": given}
    else:
        if problem := _messages(given, whole=not last):
            return problem
        kept = {"messages": given, **({"tools": row["tools"]} if row.get("tools") else {})}
        if not isinstance(row.get("tools") or [], list):
            return "tools is a list of function schemas"
    return {**kept, **texts, **({"label": row["label"]} if "label" in row else {}), "text": _whole(kept, texts)}


def parse(text: str) -> list[Row]:
    """The turns of hh-rlhf's text as messages; [] when it is none of these."""
    parts = TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [] if parts[0].strip() else [{"role": roles[who], "content": said.strip()}
                                        for who, said in zip(parts[1::2], parts[2::2], strict=True)]


def _apart(chosen: Any, rejected: Any) -> Row | str:
    """Two whole conversations as what they share and the two last answers."""
    both = [parse(c) if isinstance(c, str) else c for c in (chosen, rejected)]
    if not all(isinstance(c, list) and c and all(isinstance(m, dict) for m in c) for c in both):
        return "chosen and rejected without a prompt are whole conversations; add the column 'prompt'"
    if both[0][:-1] != both[1][:-1]:
        return "chosen and rejected differ before their last answers"
    return {"messages": both[0][:-1], "chosen": both[0][-1:], "rejected": both[1][-1:]}


def _text(value: Any) -> str:
    """A text, or the words of the one assistant's message in a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content") if value[0].get("role") == "assistant" else ""
    return value if isinstance(value, str) else ""


def _messages(messages: Any, whole: bool) -> str:
    """What is wrong with a conversation, which ends with the assistant where it is `whole`, or ""."""
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        return 'messages are a list of {"role": ..., "content": ...}, at least one'
    before = ""
    for number, message in enumerate(messages):
        role, said = message.get("role"), message.get("content")
        if role not in ROLES:
            return f"message {number} has the role {role!r}; {nearest(str(role), ROLES)}"
        calls = role == "assistant" and message.get("tool_calls")
        if role == "user" and isinstance(said, list):
            if not said or not all(map(is_part, said)):
                return (f'message {number} is a list of {{"type": "text", "text": ...}} and {{"type": "image"}}, '
                        "at least one")
        elif not calls and not (isinstance(said, str) and said.strip()):
            return f"message {number} ({role}) is empty"
        if role in ("system", "developer") and number:
            return f"message {number} is the {role}'s, which only comes first"
        if role == before and role in ("user", "assistant"):
            return f"messages {number - 1} and {number} are both the {role}'s: roles alternate"
        if role == "assistant" and before in ("", "system", "developer"):
            return f"message {number} is the assistant's, before any of the user's"
        if role == "tool" and before not in ("assistant", "tool"):
            return f"message {number} is a tool's that nobody called"
        before = role
    ends = ("assistant",) if whole else ("user", "tool")
    return "" if before in ends else f"the last message is the {before}'s, and must be the {' or '.join(ends)}'s"


def is_part(part: Any) -> bool:
    """Whether a part of what a user says is a text, or says that a picture stands there."""
    return isinstance(part, dict) and (part.get("type") == "image" or part.get("type") == "text"
                                       and isinstance(part.get("text"), str))


def words(content: str | list[Row]) -> str:
    """The words of a message, whose content is a text or a list of texts and pictures."""
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


def _whole(kept: Row, texts: Row) -> str:
    """What a row says, as one text: for vocabularies and look-ups."""
    said = [kept["prompt"]] if "prompt" in kept else [words(m["content"]) for m in kept["messages"] if m.get("content")]
    return "\n".join([*said, *texts.values()])
