"""A model as an agent's policy: messages and schemas rendered by its chat template, its calls written by a grammar.

    policy = Caller(model.module, model.codec, model.template)
    trace = loop.run(policy, [calculator()], [{"role": "user", "content": "What is 34 * 27?"}])

A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as `codecs.chat.CHATML` writes it and Qwen and
Hermes do. The grammar lets a message be calls that satisfy their tool's schema, or a text that does not begin like one,
and closes a call before its room ends: none is malformed. A message that was cut short says `cut`, and `loop` lets none
of its calls act. What a model merely quotes inside a text is no call.
"""
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from meristem.codecs.base import Codec
from meristem.codecs.chat import Chat
from meristem.core.errors import RequestError
from meristem.generate.agents.loop import Message
from meristem.generate.agents.schema import Json
from meristem.generate.sampling import Sampling
from meristem.generate.text import complete

OPEN, CLOSE = "<tool_call>", "</tool_call>"
CALL = re.compile(f"{OPEN}(.*?)(?:{CLOSE}|$)", re.DOTALL)
SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}     # as a template writes JSON


@dataclass(frozen=True)
class Caller:
    """A model with its chat template. `must`: each message is a call; `constrained` off: nothing steers it; `shown`
    off: the template is not given the schemas, for a model that was tuned to a few tools and knows them."""

    module: nn.Module
    codec: Codec
    chat: Chat | None
    sampling: Sampling = Sampling(length=128)                  # noqa: RUF009, it is frozen
    constrained: bool = True
    must: bool = False
    shown: bool = True

    def __post_init__(self) -> None:
        if self.chat is None:
            raise RequestError("an agent needs a model with a chat template; tune one: meristem adapt MODEL sft")

    def __call__(self, messages: Sequence[Message], tools: Sequence[Json]) -> Message:
        """The model's next message; RequestError for a conversation beyond its context."""
        assert self.chat is not None
        ids, _ = self.chat.encode([_rendered(m) for m in messages], tools=tools if self.shown else (),
                                  generation_prompt=True)
        lark = calls(tools, self.must) if tools and self.constrained else None
        sampling = replace(self.sampling, lark=lark, whole=lark is not None)
        made = complete(self.module, self.codec, [ids], sampling, also=self.chat.ends)[0]
        return {**read(made.text), **({"cut": True} if made.reason == "length" else {})}


def calls(tools: Sequence[Json], must: bool = False) -> str:
    """The grammar of a message that may call these tools, in Lark's form."""
    lines = [f"start: call+{'' if must else ' | text'}", "text: /[^<](.|\\n)*/",
             f'call: "{OPEN}" ({" | ".join(f"tool_{n}" for n in range(len(tools)))}) "{CLOSE}"']
    for n, tool in enumerate(tools):
        inner = tool["function"]
        schema = {"x-guidance": SPACED, "type": "object", "required": ["name", "arguments"],
                  "additionalProperties": False,
                  "properties": {"name": {"const": inner["name"]}, "arguments": _inner(inner["parameters"])}}
        lines.append(f"tool_{n}: %json {json.dumps({**schema, **_definitions(inner['parameters'])})}")
    return "\n".join(lines)


def read(text: str) -> dict[str, Any]:
    """A model's text as a message. It is calls where it begins with one; what is no JSON keeps its text: malformed."""
    if not text.lstrip().startswith(OPEN):
        return {"role": "assistant", "content": text}
    found = []
    for raw in CALL.findall(text):
        try:
            tree = json.loads(raw)
            name, arguments = str(tree["name"]), tree["arguments"]
        except (ValueError, KeyError, TypeError, RecursionError):
            name, arguments = "", raw
        found.append({"function": {"name": name, "arguments": arguments}})
    return {"role": "assistant", "content": None, "tool_calls": found}


def _rendered(message: Message) -> dict[str, Any]:
    """A message as templates read it: of a call its name and arguments only."""
    kept = {key: value for key, value in message.items() if key in ("role", "content", "name")}
    made = [{"function": {"name": c["function"]["name"], "arguments": c["function"]["arguments"]}}
            for c in message.get("tool_calls") or []]
    return {**kept, **({"tool_calls": made} if made else {})}


def _inner(schema: Json) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("$defs", "definitions", "$schema", "$id")}


def _definitions(schema: Json) -> dict[str, Any]:
    """`$ref` counts from the root, which is now the call."""
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}
