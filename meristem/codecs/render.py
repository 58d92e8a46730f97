"""The child process of `codecs.chat`: renders chat templates, and can do nothing else.

A template comes with a checkpoint from a stranger and is a program. Jinja's immutable sandbox keeps it from attributes
and calls that it should not reach, but not from taking all time and memory (`{{ 'a' * 10**12 }}`, nested loops), so it
runs here: 2 s of processor time and 512 MB a template, no new file, no other program. `python -I render.py` reads one
JSON line a request, {"template", "variables"}, and answers {"text"} or {"error"} in one line. It imports Jinja and the
standard library only. The environment is that of `transformers.apply_chat_template`: loop controls, `tojson` without
HTML escapes, `raise_exception`, `strftime_now`, and `{% generation %}` around what an assistant wrote.
"""
import json
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS, MEMORY, TEXT = 2.0, 512 << 20, 1 << 24                # processor time, bytes, characters of one answer
OPEN, CLOSE = "\ufdd1", "\ufdd2"       # around an assistant's words; Unicode keeps these two out of any text
KEPT = 64                               # compiled templates remembered


class Overrun(BaseException):
    """The time is up; no template can catch it."""


class Refused(TemplateError):
    """What a template itself says of messages that it does not take."""


class Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: the block, between OPEN and CLOSE."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The tag as a call of `mark` with its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller: Callable[[], str]) -> str:
        """The rendered body with its ends marked."""
        return f"{OPEN}{caller()}{CLOSE}"


class Sandbox(ImmutableSandboxedEnvironment):
    """Refuses at once what Jinja would first turn into an undefined value."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Never returns: the attribute leads out of the sandbox."""
        raise SecurityError(f"attribute {attribute!r} of a {type(obj).__name__}")


def environment() -> Sandbox:
    """Jinja as chat templates expect it."""
    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals.update(raise_exception=_raise, strftime_now=lambda form: datetime.now().strftime(form))
    return made


def answer(sandbox: Sandbox, compiled: dict[str, Any], request: dict[str, Any]) -> dict[str, str]:
    """{"text": rendered} or {"error": what is wrong, in words}."""
    source = request["template"]
    try:
        if source not in compiled:
            if len(compiled) >= KEPT:
                compiled.clear()
            compiled[source] = sandbox.from_string(source)
        text = compiled[source].render(request["variables"])
        if len(text) > TEXT:
            return {"error": f"writes more than {TEXT >> 20} million characters"}
        return {"text": text}
    except SecurityError as error:
        return {"error": f"tries to reach outside its sandbox ({error})"}
    except TemplateSyntaxError as error:
        return {"error": f"is not valid Jinja in line {error.lineno}: {error.message}"}
    except Refused as error:
        return {"error": f"does not take these messages: {error}"}
    except Overrun:
        return {"error": f"takes more than {SECONDS:g} s of processor time"}
    except MemoryError:
        return {"error": f"takes more than {MEMORY >> 20} MB of memory"}
    except RecursionError:
        return {"error": "calls itself without end"}
    except Exception as error:                                 # whatever its own expressions do wrong
        return {"error": f"fails on these messages: {type(error).__name__}: {error}"}


def main() -> None:
    """Answer requests until the input ends."""
    sandbox, compiled = environment(), dict[str, Any]()
    for source in ("{{ strftime_now('%Y') | tojson }}", "{{ 1 // 0 }}"):
        answer(sandbox, compiled, {"template": source, "variables": {}})   # whatever is imported late is imported now
    _lock_in()
    clock = _Clock()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        clock.start()
        try:
            reply = answer(sandbox, compiled, request)
        except Overrun:                                        # between two lines of ours
            reply = {"error": f"takes more than {SECONDS:g} s of processor time"}
        clock.stop()
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


class _Clock:
    """Raises Overrun after SECONDS of processor time; without such a timer (Windows) the parent's patience holds."""

    def __init__(self) -> None:
        self.timer = getattr(signal, "setitimer", None)
        if self.timer:
            signal.signal(signal.SIGPROF, self.ring)

    def ring(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        raise Overrun

    def start(self) -> None:
        """From now on."""
        if self.timer:
            self.timer(signal.ITIMER_PROF, SECONDS)

    def stop(self) -> None:
        """No longer."""
        if self.timer:
            self.timer(signal.ITIMER_PROF, 0.0)


def _lock_in() -> None:
    """No new files or sockets, no bytes into files, no other program, and MEMORY; only the open pipes are left."""
    try:
        import resource
    except ImportError:                                        # Windows
        return
    for name, limit in (("RLIMIT_AS", MEMORY), ("RLIMIT_FSIZE", 0), ("RLIMIT_NPROC", 0), ("RLIMIT_NOFILE", 0)):
        kind = getattr(resource, name, None)
        if kind is not None:
            resource.setrlimit(kind, (limit, limit))


def _raise(message: str) -> NoReturn:
    raise Refused(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None,
            separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


if __name__ == "__main__":
    main()
