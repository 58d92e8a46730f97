"""The tool loop: a policy writes a message, its calls are checked and run, the results go back, until it answers.

    trace = run(policy, [calculator(), search], [{"role": "user", "content": "..."}])
    trace.answer, trace.status                                 # "84", "answered"
    trace.save(Path("trace.jsonl")); replay(Trace.load(Path("trace.jsonl")), policy)       # "": the same bits

ReAct (Yao et al. 2022, https://arxiv.org/abs/2210.03629) with messages in OpenAI's form. A policy is anything that
turns messages and function schemas into an assistant's message: a model (`agents.policy`), a script, another library.

What stands between a model and the world: a call must name a tool that it was given, with arguments that satisfy the
schema; a call that `acts` is refused where its message was cut short, for half an argument is another one, and once an
untrusted result was read (`tools`), unless `allow` names the tool; calls
are read from the policy's own messages and never from results, which go back with the role `tool`; a tool that does not
return in time is given up, one that writes without end is cut off; steps, calls and seconds are bounded. A refusal is
told to the policy as the call's result, so it can go on.

A trace is a list of entries, each with the hash of all before it. It holds no clock: two runs that see the same
results write the same bytes.
"""
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from meristem.core.errors import MeristemError, RequestError, nearest
from meristem.core.files import digest_bytes, write_bytes
from meristem.generate.agents.schema import Json, wrong
from meristem.generate.agents.tools import Tool, together

Message = Mapping[str, Any]
Policy = Callable[[Sequence[Message], Sequence[Json]], Message]
Entry = dict[str, Any]
ENDED = ("answered", "steps", "calls", "time")


@dataclass(frozen=True)
class Limits:
    """What one session may use."""

    steps: int = 8                      # messages of the policy
    calls: int = 16                     # of tools, refused ones included
    seconds: float = 60.0               # of the session, asked between steps
    tool_seconds: float = 10.0          # until a call is given up
    result: int = 4096                  # characters of a result


@dataclass
class Trace:
    """Everything that was said and done, in order: begin, message and result, end."""

    entries: list[Entry] = field(default_factory=list)

    def add(self, kind: str, **facts: Any) -> Entry:
        """One more entry, with the hash of all so far."""
        before = self.entries[-1]["hash"] if self.entries else ""
        entry: Entry = json.loads(json.dumps({"n": len(self.entries), "kind": kind, **facts}, allow_nan=False))
        self.entries.append({**entry, "hash": digest_bytes(before, _line(entry))})
        return self.entries[-1]

    @property
    def status(self) -> str:
        """How it ended: answered, or the limit that was reached."""
        return str(self.entries[-1]["status"])

    @property
    def answer(self) -> str:
        """The policy's last words; "" where a limit was reached."""
        return str(self.entries[-1]["answer"])

    @property
    def calls(self) -> list[Entry]:
        """What was called, with arguments, status and result."""
        return [entry for entry in self.entries if entry["kind"] == "result"]

    @property
    def messages(self) -> list[Message]:
        """The whole conversation."""
        return [*self.entries[0]["messages"], *(entry["message"] for entry in self.entries[1:-1])]

    def save(self, path: Path) -> None:
        """One JSON object a line."""
        write_bytes(path, "".join(_line(entry) + "\n" for entry in self.entries).encode())

    @classmethod
    def load(cls, path: Path) -> "Trace":
        """Read and verify; RequestError names the first line that was changed, or that is missing."""
        made, lines = cls(), path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                stated, place = entry.pop("hash"), entry.pop("n")
                found = made.add(entry.pop("kind"), **entry)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise RequestError(f"{path}:{number} is not an entry of a trace") from None
            if (found["hash"], found["n"]) != (stated, place):
                raise RequestError(f"{path}:{number} was changed: its hash does not follow from the lines before it")
        if not lines or made.entries[-1]["kind"] != "end":
            raise RequestError(f"{path} has no end: it was cut off")
        return made


@runtime_checkable
class _World(Protocol):
    """What answers calls and says whether it is late: tools and a clock, or a record of them."""

    def call(self, tool: Tool, arguments: dict[str, Any]) -> tuple[str, str]:
        """(status, text) of one call that was admitted."""
        ...

    def late(self) -> bool:
        """Whether the session's time is up."""
        ...


def run(policy: Policy, tools: Sequence[Tool], messages: Sequence[Message], limits: Limits = Limits(),   # noqa: B008
        allow: Collection[str] = (), untrusted: bool = False) -> Trace:
    """One session. `allow` names tools that may act on what others wrote; `untrusted`: the messages hold such text.

    RequestError for tools that must not be together (`tools.together`); what a policy does wrong is in the trace.
    """
    named = together(tools, allow)
    return _session(policy, named, messages, limits, sorted(allow), untrusted, _Live(limits))


def replay(trace: Trace, policy: Policy) -> str:
    """Let a policy act again, with the results that were recorded: "" when every byte is the same, else what is not."""
    begin = trace.entries[0]
    tools = [Tool.of(one["schema"], _never, **dict.fromkeys(one["tags"], True)) for one in begin["tools"]]
    again = _session(policy, {tool.name: tool for tool in tools}, begin["messages"], Limits(**begin["limits"]),
                     begin["allow"], begin["untrusted"], _Recorded(trace))
    for old, new in zip(trace.entries, again.entries, strict=False):
        if old != new:
            return f"entry {old['n']} was {_line(old)[:300]} and is now {_line(new)[:300]}"
    short = len(again.entries) - len(trace.entries)
    return f"it has {abs(short)} entries {'more' if short > 0 else 'fewer'} than before" if short else ""


def _session(policy: Policy, tools: Mapping[str, Tool], messages: Sequence[Message], limits: Limits,
             allow: Sequence[str], untrusted: bool, world: _World) -> Trace:
    trace, tainted = Trace(), untrusted
    trace.add("begin", messages=list(messages), tools=[{"schema": t.schema, "tags": t.tags} for t in tools.values()],
              limits=asdict(limits), allow=list(allow), untrusted=untrusted)
    said = [*trace.entries[0]["messages"]]
    schemas = [tool.schema for tool in tools.values()]
    count = 0
    for _ in range(limits.steps):
        if world.late():
            trace.add("end", status="time", answer="")
            return trace
        message = trace.add("message", message=_own(policy(said, schemas)))["message"]
        said.append(message)
        calls = message.get("tool_calls", [])
        if not calls:
            trace.add("end", status="answered", answer=message.get("content") or "")
            return trace
        for call in calls:
            if count == limits.calls:
                trace.add("end", status="calls", answer="")
                return trace
            count += 1
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            status, text = _admitted(tools, name, arguments, tainted, allow, bool(message.get("cut")))
            if not status:
                status, text = world.call(tools[name], arguments)
                tainted |= tools[name].untrusted
            entry = trace.add("result", status=status, name=name, message={
                "role": "tool", "tool_call_id": call["id"], "name": name, "content": text})
            said.append(entry["message"])
    trace.add("end", status="steps", answer="")
    return trace


def _admitted(tools: Mapping[str, Tool], name: str, arguments: Any, tainted: bool, allow: Collection[str],
              cut: bool) -> tuple[str, str]:
    """("", "") for a call that may run, else the status and what the policy is told."""
    if name not in tools:
        return "unknown", f"no tool {name!r}; {nearest(name, tools)}"
    if not isinstance(arguments, dict):
        return "malformed", f"the arguments of {name} are not a JSON object: {str(arguments)[:80]!r}"
    if problem := wrong(tools[name].parameters, arguments):
        return "malformed", problem
    if cut and tools[name].acts:
        return "refused", f"{name} acts, and the message that calls it was cut short: make it shorter"
    if tainted and tools[name].acts and name not in allow:
        return "refused", (f"{name} acts outside this conversation, which holds text of others by now; the caller has "
                           "not allowed it")
    return "", ""


def _own(message: Message) -> dict[str, Any]:
    """An assistant's message in one form: text, and calls with ids and with arguments as JSON values."""
    kept: dict[str, Any] = {"role": "assistant", "content": message.get("content"),
                            **({"cut": True} if message.get("cut") else {})}
    calls = []
    for number, call in enumerate(message.get("tool_calls") or []):
        inner = call.get("function", call)
        arguments = inner.get("arguments", {})
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):         # else it stays a text: malformed
                arguments = json.loads(arguments)
        try:
            json.dumps(arguments, allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            arguments = str(arguments)[:200]
        calls.append({"id": str(call.get("id") or f"call_{number}"), "type": "function",
                      "function": {"name": str(inner.get("name", "")), "arguments": arguments}})
    return {**kept, **({"tool_calls": calls} if calls else {})}


class _Live:
    """Tools that run, each in a thread that is left behind when it is late: Python cannot stop one."""

    def __init__(self, limits: Limits):
        self.limits, self.end = limits, time.monotonic() + limits.seconds

    def late(self) -> bool:
        return time.monotonic() >= self.end

    def call(self, tool: Tool, arguments: dict[str, Any]) -> tuple[str, str]:
        made: list[tuple[str, str]] = []

        def work() -> None:
            try:
                made.append(_bounded(tool.run(arguments), self.limits.result))
            except MeristemError as error:
                made.append(("failed", f"error: {error}"))
            except Exception as error:                         # whatever a tool's own function does
                made.append(("failed", f"error: {type(error).__name__}: {error}"[:self.limits.result]))
        thread = threading.Thread(target=work, daemon=True, name=f"tool {tool.name}")
        thread.start()
        thread.join(max(0.0, min(self.limits.tool_seconds, self.end - time.monotonic())))
        return made[0] if made else ("time", f"{tool.name} did not return within its time and was given up")


class _Recorded:
    """What a trace says of calls and of the clock."""

    def __init__(self, trace: Trace):
        self.trace, self.at, self.turns = trace, 0, 0
        self.ran = [entry for entry in trace.calls if entry["status"] in ("ok", "cut", "failed", "time")]
        self.spoke = sum(entry["kind"] == "message" for entry in trace.entries)

    def late(self) -> bool:
        self.turns += 1
        return self.turns > self.spoke and self.trace.status == "time"

    def call(self, tool: Tool, arguments: dict[str, Any]) -> tuple[str, str]:
        self.at += 1
        if self.at > len(self.ran):
            return "failed", "the record has no such call"
        entry = self.ran[self.at - 1]
        return entry["status"], entry["message"]["content"]


def _bounded(made: str | Iterator[str], most: int) -> tuple[str, str]:
    """("ok", a text) or ("cut", its beginning); pieces are not read beyond what is kept."""
    text = ""
    for piece in [made] if isinstance(made, str) else made:
        text += str(piece)[:most + 1 - len(text)]
        if len(text) > most:
            return "cut", text[:most] + "\n[cut off: the tool writes more than it may]"
    return "ok", text


def _never(arguments: dict[str, Any]) -> str:
    raise AssertionError("a replay runs no tool")


def _line(entry: Entry) -> str:
    return json.dumps(entry, sort_keys=True)                   # ASCII: half a surrogate pair has no UTF-8
