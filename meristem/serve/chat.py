"""POST /v1/chat/completions: answer a conversation, with tools, schemas and log-probabilities.

https://platform.openai.com/docs/api-reference/chat. The conversation is rendered by the model's own template in its
locked process (`codecs.chat`); a request can bring none. With tools, a message is calls that satisfy their schema or a
text (`generate.agents.policy.calls`), so an answer that begins like a call is one.
"""
import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from meristem.generate.agents.policy import CLOSE, OPEN, read
from meristem.serve.hear import events
from meristem.serve.jobs import Job, Piece, Token
from meristem.serve.schema import Chat
from meristem.serve.seeing import shown
from meristem.serve.server import Server
from meristem.serve.stream import LAST, data
from meristem.serve.texts import asked, chat_logprobs, now, rendered, room_of, rules_of, sampling_of
from meristem.serve.usage import Usage


class Said:
    """One choice: what was written so far, as text or as calls."""

    def __init__(self, tools: bool):
        self.tools, self.text, self.shown, self.calls = tools, "", 0, 0

    def push(self, piece: str, last: bool) -> dict[str, Any]:
        """What a stream says next: {"content": ...}, {"tool_calls": [...]} or {}."""
        self.text += piece
        if not self.tools:
            return {"content": piece} if piece else {}
        start = self.text.lstrip()
        if not start.startswith(OPEN):
            if OPEN.startswith(start) and not last:
                return {}                                      # may still become a call
            content, self.shown = self.text[self.shown:], len(self.text)
            return {"content": content} if content else {}
        whole = self.text.count(CLOSE) + (last and self.text.rstrip()[-len(CLOSE):] != CLOSE)
        made = tool_calls(self.text)[self.calls:whole]
        out = [{"index": self.calls + n, **one} for n, one in enumerate(made)]
        self.calls += len(made)
        return {"tool_calls": out} if out else {}

    def message(self) -> dict[str, Any]:
        """The whole message."""
        made = tool_calls(self.text) if self.tools else []
        if made:
            return {"role": "assistant", "content": None, "refusal": None, "tool_calls": made}
        return {"role": "assistant", "content": self.text, "refusal": None}

    def reason(self, reason: str) -> str:
        """Why it ended, as OpenAI says it."""
        called = self.tools and self.text.lstrip().startswith(OPEN)
        return "tool_calls" if called and reason == "stop" else reason


def tool_calls(text: str) -> list[dict[str, Any]]:
    """The calls of an answer, [] where it is a text."""
    found = read(text).get("tool_calls") or []
    return [{"id": f"call_{secrets.token_hex(8)}", "type": "function",
             "function": {"name": one["function"]["name"], "arguments": _spelled(one["function"]["arguments"])}}
            for one in found]


def _spelled(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


class Work:
    """One request."""

    def __init__(self, server: Server, request: Any, body: Chat):
        self.server, self.request, self.body = server, request, body
        self.model, self.adapter = server.text(request, body.model)
        self.name = request.state.facts["model"]
        self.id, self.created, self.copies = f"chatcmpl-{secrets.token_hex(12)}", now(), body.n or 1
        self.tools = bool(body.tools) and body.tool_choice != "none"
        self.usage = Usage(0)

    async def job(self) -> Job:
        """What the engine is asked."""
        body = self.body
        source = None
        if self.model.sees:
            ids, source = await asyncio.to_thread(shown, self.model, body, self.copies)
        else:
            ids = await asyncio.to_thread(rendered, self.model, body)
        self.usage.prompt = len(ids)
        length = room_of(self.model, len(ids), body.max_completion_tokens or body.max_tokens)
        top = (body.top_logprobs or 0) if body.logprobs else 0
        sampling = sampling_of(body, length, top, rules_of(body))
        rules = await self.server.grammars.of(self.model, sampling)
        return asked(self.model, ids, sampling, rules, self.request.state.client, self.adapter, self.copies,
                     self.server.until(), source)

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        job = await self.job()
        said, tokens = [Said(self.tools) for _ in range(self.copies)], [list[Token]() for _ in range(self.copies)]
        reasons = ["length"] * self.copies
        async for _, event in events(self.model.engine, [job]):
            self.usage.hear(self.server, job, event)
            if isinstance(event, Piece):
                said[event.index].text += event.text
                tokens[event.index] += event.tokens
                reasons[event.index] = event.reason or reasons[event.index]
        self.usage.close(self.server, self.request)
        choices = [{"index": i, "message": one.message(), "logprobs": self._logprobs(tokens[i]),
                    "finish_reason": one.reason(reasons[i])} for i, one in enumerate(said)]
        return {**self._root("chat.completion"), "choices": choices, "usage": self.usage.tree()}

    async def stream(self) -> AsyncGenerator[str, None]:
        """The answer as events."""
        job, root = await self.job(), self._root("chat.completion.chunk")
        said, begun = [Said(self.tools) for _ in range(self.copies)], set[int]()
        async for _, event in events(self.model.engine, [job]):
            self.usage.hear(self.server, job, event)
            if not isinstance(event, Piece):
                continue
            i, one = event.index, said[event.index]
            delta = one.push(event.text, event.reason is not None)
            if i not in begun:
                delta = {"role": "assistant", **({"content": ""} if not delta else {}), **delta}
                begun.add(i)
            if delta or event.tokens:
                yield data({**root, "choices": [{"index": i, "delta": delta, "finish_reason": None,
                                                 "logprobs": self._logprobs(event.tokens)}]})
            if event.reason:
                yield data({**root, "choices": [{"index": i, "delta": {}, "logprobs": None,
                                                 "finish_reason": one.reason(event.reason)}]})
        self.usage.close(self.server, self.request)
        if self.body.stream_options and self.body.stream_options.include_usage:
            yield data({**root, "choices": [], "usage": self.usage.tree()})
        yield LAST

    def _root(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.name,
                "system_fingerprint": self.model.identity.checkpoint}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.body.logprobs:
            return None
        return {"content": chat_logprobs(self.model, tokens), "refusal": None}
