"""`meristem serve`: the models of some folders over HTTP, as OpenAI's clients speak it."""
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from meristem.cli.common import Answer
from meristem.core.errors import RequestError

GUESSES = 4                             # tokens guessed ahead when a draft model is named
LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    models: Annotated[list[Path] | None, typer.Argument(help="Run, model or adapter folders, or Hub ids.",
                                                        show_default=False)] = None,
    adapters: Annotated[Path | None, typer.Option(help="A folder of LoRA adapters of the first model: "
                                                       "model=\"NAME:ADAPTER\" selects one.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; another than this machine needs --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 = any free one.", min=0, max=65535)] = 8000,
    keys: Annotated[Path | None, typer.Option(help="A file of API keys; see --new-key.")] = None,
    new_key: Annotated[str, typer.Option(help="Add a key of this name to --keys, print it once, and end.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="With --new-key: it may also see metrics and runs.")] = False,
    requests_per_minute: Annotated[int, typer.Option(help="With --new-key: 0 = any number.", min=0)] = 0,
    tokens_per_minute: Annotated[int, typer.Option(help="With --new-key: 0 = any number.", min=0)] = 0,
    allow_host: Annotated[list[str] | None, typer.Option(help="A name under which the server is called; may be "
                                                              "repeated. * = any.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM; with --tls-key: https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM.")] = None,
    dtype: Annotated[Literal["", "float32", "bfloat16"], typer.Option(help="Compute in it; default: as the folder "
                                                                           "has it.")] = "",
    bits: Annotated[int, typer.Option(help="8 or 4: quantise the weights; 0 = not.", min=0, max=8)] = 0,
    rows: Annotated[int, typer.Option(help="Texts written at once.", min=1, max=4096)] = 64,
    chunk: Annotated[int, typer.Option(help="Tokens of prompts read between two written ones.", min=1)] = 256,
    memory: Annotated[int, typer.Option(help="MB of keys and values.", min=1)] = 1024,
    queue: Annotated[int, typer.Option(help="Requests that may wait; more are answered 429.", min=1)] = 256,
    ahead: Annotated[int, typer.Option(help="Speculative decoding: guess so many tokens at once, by --draft or by "
                                            "looking them up in the text.", min=0, max=16)] = 0,
    draft: Annotated[Path | None, typer.Option(help="A smaller model of the same tokenizer, which guesses "
                                                    "ahead for the first model.")] = None,
    places: Annotated[int, typer.Option(help="Adapters in memory.", min=1)] = 256,
    exact: Annotated[bool, typer.Option("--exact", help="The trainer's bits in float32, slower.")] = False,
    deadline: Annotated[float, typer.Option(help="Seconds a request may take.", min=1.0)] = 600.0,
    audit: Annotated[Path | None, typer.Option(help="Append a JSON line a request: who, what kind, how long; never "
                                                    "what was said.")] = None,
    runs: Annotated[Path | None, typer.Option(help="A folder of runs that the page shows (scope admin).")] = None,
    preferences: Annotated[Path | None, typer.Option(help="Keep which of two answers people prefer in this file of "
                                                          "JSON lines.")] = None,
    dev: Annotated[bool, typer.Option("--dev", help="Show /docs and /openapi.json.")] = False,
) -> Answer:
    """Serve models: continuous batching, many adapters on one base, OpenAI's API at /v1, a page at /.

    The folder's files are compared with its manifest first; a difference is refused.

    Example: meristem serve runs/quickstart/base

    Example: meristem serve runs/chat --adapters adapters --keys keys.json --host 0.0.0.0

    Exit status: 0 ok, stopped; 1 the machine failed; 2 the request was wrong.
    """
    if new_key:
        return _new_key(keys, new_key, admin, requests_per_minute, tokens_per_minute)
    if not models:
        raise RequestError("name a model: meristem serve RUN_OR_FOLDER")
    if bits not in (0, 4, 8):
        raise RequestError(f"weights can be quantised to 8 or 4 bits, not {bits}")
    if bool(tls_certificate) != bool(tls_key):
        raise RequestError("https needs both --tls-certificate and --tls-key")
    from meristem.serve.keys import Keys
    known = Keys.read(keys)
    if host not in LOCAL and not known.keys:
        raise RequestError(f"{host} can be reached from other machines: that needs a key; make one: "
                           "meristem serve --new-key NAME --keys keys.json")
    try:
        import uvicorn
    except ImportError:
        raise RequestError("a server needs more packages: pip install 'meristem[serve]'") from None
    from meristem.core import machine
    from meristem.serve.app import application_of
    from meristem.serve.guard import Guard
    from meristem.serve.loading import Options, load_text
    from meristem.serve.pictures import load_pictures
    from meristem.serve.senses import load_senses
    from meristem.serve.server import Server
    from meristem.serve.settings import Settings
    machine.share_arenas()
    settings = Settings(rows, chunk, memory << 20, queue, ahead or (GUESSES if draft else 0), exact)
    texts: dict[str, Any] = {}
    pictures: dict[str, Any] = {}
    for path in models:
        options = Options(settings, dtype, bits, None if texts else adapters, places, None if texts else draft)
        painted = load_senses(path, options) or load_pictures(path, options)
        model: Any = painted or load_text(path, options)
        model.name = _free(model.name, {*texts, *pictures})
        (pictures if painted else texts)[model.name] = model
        mark = "" if model.identity.verified else " (no manifest: its files could not be checked)"
        print(f"{model.name}: {', '.join(model.can)}; checkpoint {model.identity.checkpoint}{mark}", file=sys.stderr)
    guard = Guard(known, (*(allow_host or ()), *(() if host in LOCAL else (host,))), audit)
    server = Server(texts, guard, pictures, deadline, runs, preferences, dev)
    scheme = "https" if tls_key else "http"
    print(f"listening on {scheme}://{host}:{port}; Ctrl-C ends", file=sys.stderr)
    uvicorn.run(application_of(server), host=host, port=port, log_level="warning", access_log=False,
                server_header=False, proxy_headers=False, h11_max_incomplete_event_size=16_384, timeout_keep_alive=30,
                limit_concurrency=4 * queue + rows, ssl_certfile=tls_certificate, ssl_keyfile=tls_key,
                timeout_graceful_shutdown=10, loop="asyncio", http="h11", ws="none", lifespan="on")
    return Answer({"models": list(server.models())})


def _free(name: str, taken: set[str]) -> str:
    """A model's name, with a number where two folders are called alike."""
    name, number = name.replace(":", "-"), 2
    found = name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


def _new_key(path: Path | None, name: str, admin: bool, requests: int, tokens: int) -> Answer:
    if path is None:
        raise RequestError("say where keys are kept: --keys keys.json")
    from meristem.serve.keys import add
    scopes = ("infer", "admin") if admin else ("infer",)
    given = add(path, name, scopes, requests, tokens)
    return Answer({"name": name, "key": given, "scopes": list(scopes)},
                  f"{given}\nThis is shown once; {path} keeps only its hash.")
