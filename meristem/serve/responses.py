"""POST /v1/responses: the same conversations in OpenAI's newer form.

https://platform.openai.com/docs/api-reference/responses. The request becomes a chat request and its answer a response;
nothing is stored, so `previous_response_id` is refused: send the whole conversation.
"""
import secrets
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from pydantic import Field

from meristem.serve import chat
from meristem.serve.errors import Refused
from meristem.serve.hear import events
from meristem.serve.jobs import Piece
from meristem.serve.schema import (
    LENGTH,
    MESSAGES,
    TOOLS,
    TOPS,
    Chat,
    ContentPart,
    Function,
    JsonSchema,
    Message,
    Named,
    Number,
    Request,
    ResponseFormat,
    Strict,
    Text,
    Tool,
    ToolChoice,
)
from meristem.serve.server import Server
from meristem.serve.stream import data


class Item(Strict):
    """A piece of the conversation: a message, a call, or what a call gave."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Text | Annotated[list[ContentPart], Field(max_length=64)] | None = None
    id: Annotated[str, Field(max_length=256)] | None = None
    status: Annotated[str, Field(max_length=64)] | None = None
    phase: Annotated[str, Field(max_length=64)] | None = None
    call_id: Annotated[str, Field(max_length=256)] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    arguments: Text | None = None
    output: Text | None = None


class FlatTool(Function):
    """A tool of a responses request: a function without a wrapper."""

    type: Literal["function"]


class FlatChoice(Named):
    """One tool must be called."""

    type: Literal["function"]


class Format(JsonSchema):
    """What the text must be."""

    type: Literal["text", "json_object", "json_schema"] = "text"


class TextOptions(Strict):
    """Options of the text."""

    format: Format | None = None
    verbosity: str | None = None


class Response(Request):
    """The request."""

    input: Text | Annotated[list[Item], Field(min_length=1, max_length=MESSAGES)]
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=LENGTH)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOPS)] | None = None
    stream: bool | None = None
    tools: Annotated[list[FlatTool], Field(max_length=TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FlatChoice | None = None
    text: TextOptions | None = None
    previous_response_id: Annotated[str, Field(max_length=256)] | None = None


def as_chat(body: Response) -> Chat:
    """The same as a chat request; `Refused` for an item that lacks what its type needs."""
    if body.previous_response_id:
        raise Refused(400, "responses are not stored here; send the whole conversation as input", "not_stored",
                      "previous_response_id")
    messages = [Message(role="system", content=body.instructions)] if body.instructions else []
    if isinstance(body.input, str):
        messages.append(Message(role="user", content=body.input))
    else:
        messages += [_message(item) for item in body.input]
    wanted = body.text.format if body.text else None
    form = None
    if wanted and wanted.type != "text":
        form = ResponseFormat(type=wanted.type, json_schema=JsonSchema(name=wanted.name, schema=wanted.schema_)
                              if wanted.type == "json_schema" else None)
    choice = body.tool_choice
    return Chat(
        model=body.model, messages=messages, temperature=body.temperature, top_p=body.top_p, response_format=form,
        max_completion_tokens=body.max_output_tokens, stream=body.stream,
        tools=[Tool(type="function", function=Function(name=t.name, description=t.description, parameters=t.parameters))
               for t in body.tools] if body.tools else None,
        tool_choice=ToolChoice(type="function", function=Named(name=choice.name)) if isinstance(choice, FlatChoice)
        else choice)


def _message(item: Item) -> Message:
    if item.type == "function_call":
        return Message.model_validate({"role": "assistant", "tool_calls": [
            {"id": item.call_id or "", "function": {"name": item.name or "", "arguments": item.arguments or ""}}]})
    if item.type == "function_call_output":
        return Message(role="tool", content=item.output or "", tool_call_id=item.call_id)
    if item.role is None:
        raise Refused(400, "a message needs a role", "invalid_value", "input")
    return Message(role=item.role, content=item.content)


class Work:
    """One request."""

    def __init__(self, server: Server, request: Any, body: Response):
        self.body, self.inner = body, chat.Work(server, request, as_chat(body))
        self.id, self.number = f"resp_{secrets.token_hex(12)}", 0

    async def whole(self) -> dict[str, Any]:
        """The response in one piece."""
        made = await self.inner.whole()
        choice = made["choices"][0]
        return self._response(self._items(choice["message"]), choice["finish_reason"])

    async def stream(self) -> AsyncGenerator[str, None]:
        """The response as events, numbered."""
        inner, said, reason = self.inner, chat.Said(self.inner.tools), "length"
        job, item, begun = await inner.job(), f"msg_{secrets.token_hex(12)}", False
        yield self._event("response.created", response=self._response([], None))
        yield self._event("response.in_progress", response=self._response([], None))
        where = {"item_id": item, "output_index": 0, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        async for _, event in events(inner.model.engine, [job]):
            inner.usage.hear(inner.server, job, event)
            if not isinstance(event, Piece):
                continue
            reason = event.reason or reason
            text = said.push(event.text, event.reason is not None).get("content", "")
            if text and not begun:
                begun = True
                yield self._event("response.output_item.added", output_index=0, item={
                    "id": item, "type": "message", "role": "assistant", "status": "in_progress", "content": []})
                yield self._event("response.content_part.added", **where, part=part)
            if text:
                yield self._event("response.output_text.delta", **where, delta=text, logprobs=[])
        inner.usage.close(inner.server, inner.request)
        items = self._items(said.message(), item)
        if items[0]["type"] == "message":
            if not begun:
                yield self._event("response.output_item.added", output_index=0, item={**items[0], "content": []})
                yield self._event("response.content_part.added", **where, part=part)
            yield self._event("response.output_text.done", **where, text=said.text, logprobs=[])
            yield self._event("response.content_part.done", **where, part=items[0]["content"][0])
            yield self._event("response.output_item.done", output_index=0, item=items[0])
        for index, one in enumerate(items if items[0]["type"] == "function_call" else []):
            place = {"item_id": one["id"], "output_index": index}
            yield self._event("response.output_item.added", output_index=index,
                              item={**one, "arguments": "", "status": "in_progress"})
            yield self._event("response.function_call_arguments.delta", **place, delta=one["arguments"])
            yield self._event("response.function_call_arguments.done", **place, name=one["name"],
                              arguments=one["arguments"])
            yield self._event("response.output_item.done", output_index=index, item=one)
        whole = self._response(items, said.reason(reason))
        yield self._event(f"response.{whole['status']}", response=whole)

    def _event(self, kind: str, **facts: Any) -> str:
        self.number += 1
        return data({"type": kind, "sequence_number": self.number - 1, **facts}, kind)

    def _items(self, message: dict[str, Any], name: str = "") -> list[dict[str, Any]]:
        if message.get("tool_calls"):
            return [{"id": f"fc_{secrets.token_hex(12)}", "type": "function_call", "status": "completed",
                     "call_id": one["id"], **one["function"]} for one in message["tool_calls"]]
        return [{"id": name or f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant",
                 "status": "completed", "content": [{"type": "output_text", "text": message["content"] or "",
                                                     "annotations": [], "logprobs": []}]}]

    def _response(self, items: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
        inner, body = self.inner, self.body
        status = "in_progress" if reason is None else "incomplete" if reason == "length" else "completed"
        usage = inner.usage
        return {
            "id": self.id, "object": "response", "created_at": inner.created, "status": status, "model": inner.name,
            "output": items, "error": None, "instructions": body.instructions, "metadata": {},
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "parallel_tool_calls": True, "temperature": body.temperature, "top_p": body.top_p,
            "tool_choice": "auto" if body.tool_choice is None else body.tool_choice if isinstance(body.tool_choice, str)
            else body.tool_choice.model_dump(),
            "tools": [tool.model_dump() for tool in body.tools or ()], "max_output_tokens": body.max_output_tokens,
            "previous_response_id": None, "text": {"format": {"type": "text"}}, "truncation": "disabled",
            "usage": None if reason is None else {
                "input_tokens": usage.prompt, "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens": usage.written, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt + usage.written}}
