"""The HTTP interface: OpenAI's endpoints and ours, as one ASGI application.

    application = application_of(Server({"chat": load_text(Path("runs/chat"), Options())}, Guard(Keys([]))))

GET /health /ready /metrics /v1/models; POST /v1/completions /v1/chat/completions /v1/responses /v1/embeddings /score
/classify and pictures (`serve.pictures`); the page at / is `serve/static`. `guard` stands before everything. Request
bodies are pydantic models (`serve.schema`), from which FastAPI makes the OpenAPI document (shown with --dev).
"""
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from meristem import __version__
from meristem.core.errors import MeristemError, RequestError, nearest
from meristem.serve import chat, completions, pictures, responses, runs, senses, sounds, vectors
from meristem.serve.errors import Refused, refusal
from meristem.serve.hear import Gone, begun, unless_gone
from meristem.serve.schema import Chat, Classify, Completion, Embedding, Score
from meristem.serve.server import SHOWN, Server
from meristem.serve.stream import response_class

PART = 16 << 20                         # bytes of a file in a form
GONE = 499                              # nginx' status of a client that closed the connection; nobody reads it


def application_of(server: Server) -> Callable[..., Awaitable[None]]:
    """The application behind its guard; its lifespan starts and stops the engines."""
    try:
        from fastapi import FastAPI
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse
        from starlette.exceptions import HTTPException
    except ImportError:
        raise RequestError("a server needs more packages: pip install 'meristem[serve]'") from None

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        server.start()
        yield
        server.stop()

    shown: dict[str, Any] = {"docs_url": "/docs"} if server.dev else {"openapi_url": None}
    app = FastAPI(title="meristem", version=__version__, lifespan=lifespan, redoc_url=None, **shown)

    def refuse(error: Exception) -> Any:
        wrong = refusal(error)
        return JSONResponse(wrong.body(), wrong.status, wrong.headers())

    async def invalid(request: Any, error: Exception) -> Any:
        assert isinstance(error, RequestValidationError)
        return refuse(_told(error.errors()))

    async def unknown(request: Any, error: Exception) -> Any:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, Refused):               # the guard's, while the body was read
            return refuse(error.__cause__)
        return refuse(Refused(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}",
                              "not_found" if error.status_code == 404 else "invalid_request"))

    async def refused(request: Any, error: Exception) -> Any:
        return refuse(error)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unknown)
    for kind in (Refused, MeristemError, Exception):
        app.add_exception_handler(kind, refused)
    _add_state(app, server)
    _add_text(app, server)
    _add_pictures(app, server)
    _add_sounds(app, server)
    senses.add(app, server)
    _add_runs(app, server)
    _add_page(app, server)
    return server.guard.wrap(app)


def _told(wrong: Any) -> Refused:
    """The first thing that is wrong with a body, in a line."""
    first = wrong[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    line = first["msg"]
    if first["type"] == "extra_forbidden":
        every = {name for kind in (Completion, Chat, Embedding, Score) for name in kind.model_fields}
        line = f"unknown field; {nearest(str(first['loc'][-1])[:100], every)}"
    return Refused(400, f"{place}: {line}"[:500] if place else line[:500], "invalid_value", place[:200] or None)


def _add_state(app: Any, server: Server) -> None:
    """What the server says of itself."""
    from fastapi.responses import JSONResponse, Response

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Any:
        """Every model is loaded and its engine runs."""
        return JSONResponse({"ready": server.ready, "models": list(server.models())}, 200 if server.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters and times, as Prometheus reads them."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    def card(name: str, model: Any) -> dict[str, Any]:
        base, _, adapter = name.partition(":")
        identity = model.identity
        return {"id": name, "object": "model", "created": model.created, "owned_by": "meristem",
                "root": base, "parent": base if adapter else None, "kind": model.kind, "can": model.can,
                "run": identity.run, "checkpoint": identity.checkpoint, "corpus": identity.corpus or None,
                "verified": identity.verified, "context": model.context}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Every name that a request may give as its model."""
        return {"object": "list", "data": [card(name, model) for name, model in server.names().items()]}

    @app.get("/v1/models/{name:path}")
    async def one(name: str) -> dict[str, Any]:
        """One of them."""
        known = server.names()
        if name not in known:
            raise Refused(404, f"there is no model {name[:200]!r}; {nearest(name[:200], list(known)[:SHOWN])}",
                          "model_not_found", "model")
        return card(name, known[name])


async def answered(request: Any, work: Awaitable[dict[str, Any]]) -> Any:
    """The answer in one piece; the work ends when the client goes first."""
    from fastapi.responses import JSONResponse, Response
    try:
        return JSONResponse(await unless_gone(request.receive, work))
    except Gone:
        return Response(status_code=GONE)


async def streamed(pieces: AsyncGenerator[str, None]) -> Any:
    """The answer as events."""
    return response_class()(await begun(pieces))


def _add_text(app: Any, server: Server) -> None:
    """Models of text."""
    from fastapi import Request as Http

    @app.post("/v1/completions")
    async def complete(body: Completion, request: Http) -> Any:
        """Go on from a prompt, or fill the gap before a suffix."""
        work = completions.Work(server, request, body)
        return await streamed(work.stream()) if body.stream else await answered(request, work.whole())

    @app.post("/v1/chat/completions")
    async def converse(body: Chat, request: Http) -> Any:
        """Answer a conversation."""
        work = chat.Work(server, request, body)
        return await streamed(work.stream()) if body.stream else await answered(request, work.whole())

    @app.post("/v1/responses")
    async def respond(body: responses.Response, request: Http) -> Any:
        """Answer a conversation, in the newer form."""
        work = responses.Work(server, request, body)
        return await streamed(work.stream()) if body.stream else await answered(request, work.whole())

    @app.post("/v1/embeddings")
    async def embed(body: Embedding, request: Http) -> Any:
        """One vector a text."""
        return await answered(request, vectors.embeddings(server, request, body))

    @app.post("/score")
    async def score(body: Score, request: Http) -> Any:
        """How likely the model finds each text."""
        return await answered(request, vectors.score(server, request, body))

    @app.post("/classify")
    async def classify(body: Classify, request: Http) -> Any:
        """The probability of each class of each text."""
        return await answered(request, vectors.classify(server, request, body))


def _add_pictures(app: Any, server: Server) -> None:
    """Models of pictures."""
    from fastapi import Request as Http
    from fastapi.exceptions import RequestValidationError
    from pydantic import ValidationError

    async def form(request: Http) -> pictures.Painted:
        """The fields of a JSON body, or of a form with files, as OpenAI's client sends it."""
        fields: dict[str, Any] = {}
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with request.form(max_files=4, max_fields=32, max_part_size=PART) as given:
                for key, value in given.multi_items():
                    name = key.removesuffix("[]")
                    if name in fields:
                        raise Refused(400, f"{name} is given twice; one picture is taken", "invalid_value", name)
                    if isinstance(value, str):
                        fields[name] = value
                    else:
                        raw = base64.b64encode(await value.read()).decode()
                        fields[name] = f"data:image/png;base64,{raw}"
        else:
            try:
                fields = await request.json()
            except (ValueError, RecursionError):
                raise Refused(400, "the body is no JSON", "invalid_json") from None
        try:
            return pictures.Painted.model_validate(fields)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None

    @app.post("/v1/images/generations")
    async def generate(body: pictures.Painted, request: Http) -> Any:
        """Pictures of a prompt."""
        return await answered(request, pictures.painted(server, request, body, "new"))

    @app.post("/v1/images/edits")
    async def edit(request: Http) -> Any:
        """A picture painted anew, where its mask is transparent or, without one, as far as `strength` says."""
        return await answered(request, pictures.painted(server, request, await form(request), "edit"))

    @app.post("/v1/images/variations")
    async def vary(request: Http) -> Any:
        """Others like a picture."""
        return await answered(request, pictures.painted(server, request, await form(request), "vary"))

    @app.post("/v1/zero-shot")
    async def fits(body: pictures.ZeroShot, request: Http) -> Any:
        """Which of some words fits a picture."""
        return await answered(request, pictures.zero_shot(server, request, body))

    @app.post("/v1/segment")
    async def segment(body: pictures.Segment, request: Http) -> Any:
        """The object under a click."""
        return await answered(request, pictures.segment(server, request, body))


def _add_sounds(app: Any, server: Server) -> None:
    """Models that hear."""
    from fastapi import Request as Http
    from fastapi.responses import PlainTextResponse

    @app.post("/v1/audio/transcriptions")
    async def hear(request: Http) -> Any:
        """What was said in a sound: a form with a file."""
        async with request.form(max_files=1, max_fields=16, max_part_size=PART) as given:
            fields = {key: value for key, value in given.items() if isinstance(value, str)}
            file = given.get("file")
            if file is None or isinstance(file, str):
                raise Refused(400, "send the sound as `file` in a form", "invalid_value", "file")
            raw = await file.read()
        made = await sounds.transcribed(server, request, fields, raw)
        return PlainTextResponse(made) if isinstance(made, str) else made


def _add_runs(app: Any, server: Server) -> None:
    """What the page shows beside answers."""
    from fastapi import Request as Http

    @app.get("/api/runs")
    def every() -> list[dict[str, Any]]:
        """The runs of the folder given with --runs."""
        return runs.summary(server.runs)

    @app.get("/api/runs/{name}")
    def single(name: str) -> dict[str, Any]:
        """One of them: recipe, log, samples, scores, energy."""
        return runs.run(server.runs, name)

    @app.post("/v1/preferences")
    def prefer(body: runs.Preference, request: Http) -> dict[str, str]:
        """Keep which of two answers somebody prefers."""
        return runs.keep(server.preferences, body, request.state.client)


def _add_page(app: Any, server: Server) -> None:
    """The files of `serve/static`: index.html at /, the others under /static/."""
    from starlette.responses import FileResponse
    from starlette.staticfiles import StaticFiles
    if (server.static / "index.html").is_file():
        @app.get("/", include_in_schema=False)
        async def page() -> FileResponse:
            """The page."""
            return FileResponse(server.static / "index.html")

        app.mount("/static", StaticFiles(directory=server.static), name="static")


