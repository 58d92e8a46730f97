"""What `meristem chat --tool ... --mcp ...` does: a model that calls tools, question by question."""
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meristem.core.errors import RequestError, nearest

if TYPE_CHECKING:
    from meristem.api import Model
    from meristem.generate.retrieve.store import Store
    from meristem.generate.sampling import Sampling

NAMES = ("calculator", "python")
READY = "Tools: {}. Ask something; /exit or end of input leaves."


@dataclass(frozen=True)
class Wish:
    """Which tools: by name, of MCP servers by command line, a search of documents; which may act on what they read."""

    names: Sequence[str] = ()
    servers: Sequence[str] = ()
    store: "Store | None" = None
    allow: Sequence[str] = ()
    traces: Path | None = None          # a folder for the record of each question


def answers(loaded: "Model", wish: Wish, lines: Iterable[str], sampling: "Sampling") -> list[dict[str, Any]]:
    """Each line's answer, printed with what was called for it; the conversation goes on."""
    from meristem.generate.agents import loop, mcp
    from meristem.generate.agents.policy import Caller
    from meristem.generate.agents.tools import Tool, calculator, python, retriever
    makers = {"calculator": calculator, "python": python}
    if unknown := [name for name in wish.names if name not in makers]:
        raise RequestError(f"no tool {unknown[0]!r}; {nearest(unknown[0], makers)} (documents are searched with "
                           "--documents, a server's tools come with --mcp)")
    policy = Caller(loaded.module, loaded.codec, loaded.template, sampling)
    turns: list[dict[str, Any]] = []
    with ExitStack() as stack:
        tools: list[Tool] = [makers[name]() for name in wish.names]
        tools += [retriever(wish.store)] if wish.store else []
        for command in wish.servers:
            tools += stack.enter_context(mcp.Server(shlex.split(command))).tools()
        print(READY.format(", ".join(tool.name for tool in tools)), file=sys.stderr)
        said: list[Any] = []
        read = False                                           # whether text of others stands in the conversation
        for text in lines:
            if not text.strip():
                continue
            trace = loop.run(policy, tools, [*said, {"role": "user", "content": text}], allow=wish.allow,
                             untrusted=read)
            said = list(trace.messages)
            read |= any(tool.untrusted and tool.name == call["name"] for tool in tools for call in trace.calls)
            if wish.traces:
                wish.traces.mkdir(parents=True, exist_ok=True)
                trace.save(wish.traces / f"{len(turns) + 1}.jsonl")
            calls = [{"name": c["name"], "status": c["status"], "result": c["message"]["content"]} for c in trace.calls]
            print("\n".join([*(f"[{c['name']}: {c['status']}] {c['result'][:200]}" for c in calls),
                             trace.answer or f"(no answer: {trace.status})"]), flush=True)
            turns.append({"prompt": text, "text": trace.answer, "status": trace.status, "calls": calls})
    return turns
