"""POST /v1/completions: go on from a prompt, or fill the gap before a suffix.

https://platform.openai.com/docs/api-reference/completions. With `echo` and `logprobs` the prompt's own
log-probabilities come from the trainer's forward; lm-evaluation-harness reads them.
"""
import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from meristem.core.errors import RequestError
from meristem.serve.hear import call, events
from meristem.serve.jobs import Job, Piece
from meristem.serve.schema import Completion
from meristem.serve.server import Server
from meristem.serve.stream import LAST, data
from meristem.serve.texts import (
    Scored,
    asked,
    length_of,
    now,
    prompts_of,
    rules_of,
    sampling_of,
    scored,
    text_logprobs,
)
from meristem.serve.usage import Usage


class Work:
    """One request: its prompts, its jobs, and how their pieces become an answer."""

    def __init__(self, server: Server, request: Any, body: Completion):
        self.server, self.request, self.body = server, request, body
        self.model, self.adapter = server.text(request, body.model)
        self.name = request.state.facts["model"]
        self.id, self.created = f"cmpl-{secrets.token_hex(12)}", now()
        self.ids: list[list[int]] = []
        self.texts: list[str] = []
        self.copies, self.length = body.n or 1, length_of(body)
        if body.best_of and body.best_of != self.copies:
            raise RequestError("best_of other than n is not offered: ask for n and choose")
        if not self.length and not body.echo:
            raise RequestError("max_tokens 0 writes nothing; ask for echo, or for at least 1 token")
        self.model.offer("completions")
        if self.model.reads and (body.echo or body.suffix is not None):
            raise RequestError(f"{self.model.name} reads a text and writes another: it takes neither echo nor suffix")
        self.usage = Usage(0)
        self.echoed: list[Scored] = []

    async def jobs(self) -> list[Job]:
        """One a prompt; none where nothing is to be written."""
        body = self.body
        self.ids, self.texts = await asyncio.to_thread(prompts_of, self.model, body)
        self.usage.prompt = sum(map(len, self.ids))
        if body.echo and body.logprobs is not None:
            for row in self.ids:
                work = partial(scored, ids=row, top=body.logprobs)
                self.echoed.append(await call(self.model.engine, work, self.request.state.client, cost=len(row),
                                              adapter=self.adapter, deadline=self.server.until()))
        if not self.length:
            return []
        sampling = sampling_of(body, self.length, body.logprobs or 0, rules_of(body))
        rules = await self.server.grammars.of(self.model, sampling)
        return [asked(self.model, row, sampling, rules, self.request.state.client, self.adapter, self.copies,
                      self.server.until()) for row in self.ids]

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        jobs = await self.jobs()
        count = len(self.ids) * self.copies
        texts, tokens, reasons = [""] * count, [list[Any]() for _ in range(count)], ["length"] * count
        async for which, event in events(self.model.engine, jobs):
            self.usage.hear(self.server, jobs[which], event)
            if isinstance(event, Piece):
                at = which * self.copies + event.index
                texts[at] += event.text
                tokens[at] += event.tokens
                reasons[at] = event.reason or reasons[at]
        self.usage.close(self.server, self.request)
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.name,
                "system_fingerprint": self.model.identity.checkpoint,
                "choices": [self._choice(at, texts[at], tokens[at], reasons[at]) for at in range(count)],
                "usage": self.usage.tree()}

    async def stream(self) -> AsyncGenerator[str, None]:
        """The answer as events."""
        jobs, begun = await self.jobs(), set[int]()
        root = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.name,
                "system_fingerprint": self.model.identity.checkpoint}
        for at in range(len(self.ids) * self.copies) if not jobs else ():
            yield data({**root, "choices": [self._choice(at, "", [], "length")]})
        async for which, event in events(self.model.engine, jobs):
            self.usage.hear(self.server, jobs[which], event)
            if isinstance(event, Piece):
                at = which * self.copies + event.index
                yield data({**root, "choices": [self._choice(at, event.text, event.tokens, event.reason,
                                                             at not in begun)]})
                begun.add(at)
        self.usage.close(self.server, self.request)
        if self.body.stream_options and self.body.stream_options.include_usage:
            yield data({**root, "choices": [], "usage": self.usage.tree()})
        yield LAST

    def _choice(self, at: int, text: str, tokens: Sequence[Any], reason: str | None,
                first: bool = True) -> dict[str, Any]:
        which, rows = at // self.copies, [(t.id, t.logprob, t.top) for t in tokens]
        echo, offset = "", 0
        if self.body.echo and first:
            echo = self.texts[which]
            if self.echoed:
                before = [(i, *(one or (None, ()))) for i, one in zip(self.ids[which], self.echoed[which], strict=True)]
                rows = [*before, *rows]
        marks = text_logprobs(self.model, rows, offset) if self.body.logprobs is not None else None
        return {"index": at, "text": echo + text, "logprobs": marks, "finish_reason": reason}

