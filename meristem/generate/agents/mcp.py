"""Tools of a server that speaks the Model Context Protocol over its standard input and output.

    with Server(["my-server", "--stdio"]) as server:
        trace = loop.run(policy, server.tools(), messages, allow={"send"})

Protocol: https://modelcontextprotocol.io/specification/2025-06-18 (JSON-RPC 2.0, one object a line; initialize,
tools/list, tools/call). The official package brings an HTTP server and client and an event loop; what an agent needs of
it is this file, with what it lacks: a line that is too long, an answer that does not come and a process that outlives
its use all end the server. It gets an environment of its own, without this process's secrets.

What a server does nobody here knows: its tools are private, untrusted and acting (`agents.tools`), unless the caller
says by name that they only `read`. What it says of itself (annotations) is not believed.
"""
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from meristem.core.errors import MachineError, RequestError
from meristem.generate.agents.schema import Json
from meristem.generate.agents.tools import Tool

VERSION = "2025-06-18"
LONGEST = 1 << 20                       # bytes of one line of a server
PAGES = 100                             # of tools/list
ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT")


class Server:
    """A process that offers tools. `seconds` bounds each request; one that is late ends the process."""

    def __init__(self, command: Sequence[str], seconds: float = 10.0, env: Mapping[str, str] | None = None):
        self.command, self.seconds = list(command), seconds
        kept = {key: os.environ[key] for key in ENVIRONMENT if key in os.environ}
        try:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.DEVNULL, env={**kept, **(env or {})},
                                            start_new_session=True)
        except OSError as error:
            raise RequestError(f"the server {self.command[0]} does not start: {error.strerror}") from None
        self.lock, self.number, self.rest = threading.Lock(), 0, b""
        hello = self.ask("initialize", {"protocolVersion": VERSION, "capabilities": {},
                                        "clientInfo": {"name": "meristem", "version": "0"}})
        self.name = str(hello.get("serverInfo", {}).get("name", self.command[0]))
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"}, time.monotonic() + seconds)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def tools(self, read: Collection[str] = ()) -> list[Tool]:
        """What it offers; those named in `read` change and send nothing, the caller says. RequestError for a tool whose
        schema we cannot check."""
        found: list[Json] = []
        cursor: str | None = None
        for _ in range(PAGES):
            page = self.ask("tools/list", {"cursor": cursor} if cursor else {})
            found += page.get("tools", [])
            if not (cursor := page.get("nextCursor")):
                break
        return [Tool(str(one.get("name", "")), str(one.get("description", "")),
                     one.get("inputSchema") or {"type": "object"}, self._caller(str(one.get("name", ""))),
                     private=True, untrusted=True, acts=one.get("name") not in read) for one in found]

    def _caller(self, name: str) -> Any:
        def run(arguments: dict[str, Any]) -> str:
            made = self.ask("tools/call", {"name": name, "arguments": arguments})
            texts = [str(part.get("text", f"[{part.get('type')}]")) for part in made.get("content", [])
                     if isinstance(part, Mapping)]
            if made.get("isError"):
                raise RequestError("\n".join(texts) or f"{name} failed")
            return "\n".join(texts) or json.dumps(made.get("structuredContent", ""))
        return run

    def ask(self, method: str, parameters: Json) -> dict[str, Any]:
        """The result of a request. MachineError where the server is late, floods, has ended or answers an error."""
        with self.lock:
            self.number += 1
            end = time.monotonic() + self.seconds
            self._write({"jsonrpc": "2.0", "id": self.number, "method": method, "params": parameters}, end)
            while True:
                said = self._read(end)
                if said.get("id") == self.number and "method" not in said:
                    break
                if "id" in said and "method" in said:          # it asks us: nothing of ours is open to it but a ping
                    reply = {"result": {}} if said["method"] == "ping" else {
                        "error": {"code": -32601, "message": "not offered"}}
                    self._write({"jsonrpc": "2.0", "id": said["id"], **reply}, end)
        if "error" in said:
            raise MachineError(f"{self.command[0]}: {method}: {str(said['error'])[:300]}")
        result = said.get("result")
        return result if isinstance(result, dict) else {}

    def close(self) -> None:
        """End the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()

    def _write(self, message: Json, end: float) -> None:
        assert self.process.stdin
        line, number = json.dumps(message).encode() + b"\n", self.process.stdin.fileno()
        try:
            os.set_blocking(number, False)
            while line:
                if not select.select([], [number], [], max(0.0, end - time.monotonic()))[1]:
                    raise self._ended("does not read what it is sent")
                line = line[os.write(number, line):]
        except (OSError, ValueError):
            raise self._ended("has ended") from None

    def _read(self, end: float) -> dict[str, Any]:
        assert self.process.stdout
        while b"\n" not in self.rest:
            if len(self.rest) > LONGEST:
                raise self._ended(f"writes a line of more than {LONGEST >> 20} MiB")
            try:
                number = self.process.stdout.fileno()
                ready = select.select([number], [], [], max(0.0, end - time.monotonic()))[0]
                piece = os.read(number, 1 << 16) if ready else None
            except (OSError, ValueError):
                piece = b""
            if piece is None:
                raise self._ended(f"does not answer within {self.seconds:g} s")
            if not piece:
                raise self._ended("has ended")
            self.rest += piece
        if time.monotonic() > end:                             # it talks without end and answers nothing
            raise self._ended(f"does not answer within {self.seconds:g} s")
        line, _, self.rest = self.rest.partition(b"\n")
        try:
            said = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            raise self._ended("writes what is no JSON") from None
        return said if isinstance(said, dict) else {}

    def _ended(self, why: str) -> MachineError:
        self.close()
        return MachineError(f"the server {' '.join(self.command)[:120]} {why} and was stopped")
