"""The `meristem` command: wires the verbs, prints their answers, and turns every failure into one line and a status.

Exit status: 0 ok; 1 the machine failed; 2 the request was wrong; 3 every checkpoint of a run is damaged; 130 or 143
stopped by Ctrl-C or SIGTERM, with everything saved.
"""
import functools
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from meristem.cli.adapt import adapt
from meristem.cli.card import card
from meristem.cli.chat import chat
from meristem.cli.common import Answer, Stopped
from meristem.cli.compare import compare
from meristem.cli.curate import curate
from meristem.cli.doctor import doctor
from meristem.cli.evaluate import evaluate
from meristem.cli.export import export
from meristem.cli.generate import generate
from meristem.cli.launch import launch
from meristem.cli.list import list_entries
from meristem.cli.plan import plan
from meristem.cli.pretrain import pretrain
from meristem.cli.quickstart import quickstart
from meristem.cli.replay import replay
from meristem.cli.serve import serve
from meristem.cli.show import show
from meristem.cli.trace import trace
from meristem.cli.verify import verify
from meristem.cli.votes import votes
from meristem.core.errors import MeristemError, nearest

VERBS: dict[str, Callable[..., Answer]] = {
    "quickstart": quickstart, "curate": curate, "plan": plan, "pretrain": pretrain, "adapt": adapt,
    "evaluate": evaluate, "generate": generate, "chat": chat, "serve": serve, "compare": compare, "export": export,
    "votes": votes, "card": card, "replay": replay, "trace": trace, "verify": verify, "launch": launch,
    "list": list_entries, "show": show, "doctor": doctor}
EPILOG = ("With --json, every verb prints one JSON object as the last line of standard output; progress goes to "
          "standard error. Exit status: 0 ok, 1 the machine failed, 2 the request was wrong, 130 stopped.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; nothing but a bug of ours ever shows a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        outcome = typer.main.get_command(_app())(args=words, prog_name="meristem", standalone_mode=False)
        if isinstance(outcome, str) and outcome and not _rank():
            print(outcome, flush=True)
        return outcome if isinstance(outcome, int) else 0
    except MeristemError as error:
        return _fail(str(error), error.status)
    except typer.TyperException as error:
        return _fail(_usage(error, words), 2)
    except Stopped as stop:
        return _fail(stop.line, stop.status)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", 130)
    except BrokenPipeError:                                    # `meristem list | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("this machine has too little memory for that; try a smaller model, batch or limit", 1)
    except OSError as error:
        if error.errno is None:
            raise
        return _fail(f"{error.filename or 'input/output'}: {error.strerror}", 1)


def _app() -> typer.Typer:
    app = typer.Typer(name="meristem", no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
                      pretty_exceptions_enable=False, epilog=EPILOG,
                      context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(meristem)
    for name, verb in VERBS.items():
        app.command(name)(_with_json(verb))
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from meristem import __version__
        print(__version__)
        raise typer.Exit


def meristem(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                   help="Print the version and exit.")] = False) -> None:
    """The whole foundation-model lifecycle in one readable PyTorch codebase.

    Raw files in, an adapted, certified model out.

    Start with [bold]meristem quickstart[/bold]: five minutes, two cores, real data found on this machine.
    """


def _with_json(verb: Callable[..., Answer]) -> Callable[..., str]:
    """The verb with `--json` added to its options, its answer as text: one place, so no verb can lack it."""
    @functools.wraps(verb)
    def run(*args: Any, as_json: bool, **options: Any) -> str:
        answer = verb(*args, **options)
        return json.dumps(answer.facts, ensure_ascii=False, default=str) if as_json else answer.text

    signature = inspect.signature(verb)
    extra = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])  # type: ignore[attr-defined]
    text = inspect.cleandoc(verb.__doc__ or "").replace("[", r"\[")               # rich drops [trace] as a style
    run.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", text)                          # let the terminal wrap it
    run.__annotations__ = {**verb.__annotations__, "as_json": Json}
    return run


def _usage(error: typer.TyperException, words: Sequence[str]) -> str:
    """A wrong command line in one line, with the nearest name that exists."""
    text = error.format_message()
    if unknown := re.match(r"No such command '(.*?)'", text):
        return f"no verb {unknown[1]!r}; {nearest(unknown[1], VERBS)}"
    command = next((word for word in words if word in VERBS), "")
    return f"{text[:1].lower()}{text[1:].rstrip('.')}; see: meristem {command + ' ' if command else ''}--help"


def _fail(line: str, status: int) -> int:
    if not _rank() or status == 1:                             # a wrong request and a signal reach every process
        rank = f"rank {_rank()}: " if _rank() else ""
        print(f"meristem: {rank}{' '.join(line.split())}", file=sys.stderr)
    return status


def _rank() -> int:
    """Which process of torchrun this is; the first one speaks."""
    return int(os.environ.get("RANK", "0"))
