"""What stands before every route: limits of size, hosts and origins, keys, rates, and the audit log.

It wraps the whole application, not single routes, so a route cannot be forgotten (vLLM's --api-key guards /v1 only):
everything but `/health` and the page's own files needs a key, where there are keys. Errors never carry a traceback.
Host and origin are checked against DNS rebinding: a stranger's page in a browser on this machine must not reach it.
"""
import json
import logging
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from meristem.serve.errors import Refused, refusal
from meristem.serve.keys import Keys

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEADERS = 16_384                        # bytes of a request's headers
BODY, PICTURE_BODY = 4 << 20, 16 << 20  # bytes of a request, of one that may hold pictures or sounds
PICTURES = ("/v1/images/", "/v1/audio/", "/v1/chat/completions", "/v1/zero-shot", "/v1/segment", "/v1/responses")
OPEN = ("/health",)                     # needs no key
PAGE = ("/", "/favicon.ico", "/static/")                       # the page's own files: they hold no secrets
ADMIN = ("/metrics", "/api/", "/openapi.json", "/docs")        # need the scope admin
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")
ALWAYS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY"}

log = logging.getLogger("meristem.serve")


@dataclass
class Guard:
    """What is allowed. `hosts` are names under which the server may be called beside those of this machine."""

    keys: Keys
    hosts: tuple[str, ...] = ()
    audit: Path | None = None           # JSON lines: who asked what kind of thing, never what was said
    counts: dict[str, int] = field(default_factory=dict)       # answers by status

    def wrap(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """`app` behind this guard, as an ASGI application."""
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
            elif scope["type"] == "http":
                await self._request(app, scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
        return guarded

    async def _request(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        start, name = time.monotonic(), secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state.update(request_id=name, client="", facts={})
        status = 0

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {key.lower() for key, _ in message.get("headers", [])}
                more = {**ALWAYS, "x-request-id": name, **state["facts"].get("headers", {})}
                message["headers"] = [*message.get("headers", []), *((k.encode(), v.encode()) for k, v in more.items()
                                                                     if k.encode() not in given)]
            await send(message)

        try:
            limited = self._limited(scope, receive)
            self._check(scope)
            await app(scope, limited, answer)
        except Exception as error:                             # the border of the server
            wrong = refusal(error)
            if wrong.status == 500:
                log.error("request %s failed", name, exc_info=error)
            if not status:
                await _send(answer, wrong)
        finally:
            self.counts[str(status)] = self.counts.get(str(status), 0) + 1
            self._note(scope, name, status, time.monotonic() - start)

    def _check(self, scope: Scope) -> None:
        """Raises `Refused` for a request that must not reach a route."""
        headers = scope["headers"]
        if sum(len(k) + len(v) for k, v in headers) > HEADERS:
            raise Refused(431, f"the headers have more than {HEADERS} bytes", "headers_too_large")
        named = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in headers}
        host = named.get("host", "")
        if not self._mine(host):
            raise Refused(403, f"the server is not called {host[:100]!r}; allow that name with --allow-host",
                          "host_not_allowed")
        origin = named.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(403, "requests of other sites' pages are not answered", "origin_not_allowed")
        path, state = scope["path"], scope["state"]
        peer = scope.get("client")
        state["client"] = peer[0] if peer else "local"
        open_ = path in OPEN or (scope["method"] in ("GET", "HEAD") and _within(path, PAGE))
        if not self.keys.keys or open_:
            return
        scheme, _, given = named.get("authorization", "").partition(" ")
        key = self.keys.of(given.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise Refused(401, "give a key of this server: Authorization: Bearer KEY", "invalid_api_key")
        state["client"] = key.name
        wanted = "admin" if _within(path, ADMIN) else "infer"
        if wanted not in key.scopes:
            raise Refused(403, f"the key {key.name} has no scope {wanted}", "insufficient_scope")
        if wait := self.keys.admit(key):
            raise Refused(429, f"the key {key.name} is at its limit; ask again in {wait:.0f} s", "rate_limit_exceeded",
                          after=wait)

    def _mine(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") and ":" in host.rpartition("]")[2] else host
        return name.lower() in (*LOCAL, *self.hosts) or "*" in self.hosts

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """`receive`, refusing a body beyond the limit, whatever its headers promise."""
        most = PICTURE_BODY if scope["path"].startswith(PICTURES) else BODY
        length = next((v for k, v in scope["headers"] if k.lower() == b"content-length"), b"0")
        wrong = Refused(413, f"the body has more than {most} bytes", "body_too_large")
        if not length.isdigit() or int(length) > most:
            raise wrong
        got = 0

        async def limited() -> MutableMapping[str, Any]:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > most:
                raise wrong
            return message
        return limited

    def _note(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        if self.audit is None:
            return
        state = scope["state"]
        facts = {k: v for k, v in state["facts"].items() if k != "headers"}
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "request": name, "client": state["client"],
                "method": scope["method"], "path": scope["path"][:200], "status": status, "seconds": round(seconds, 3),
                **facts}
        try:
            with open(self.audit, "a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")
        except OSError as error:
            print(f"meristem: could not write {self.audit}: {error.strerror}", file=sys.stderr)


async def _send(send: Send, wrong: Refused) -> None:
    body = json.dumps(wrong.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **wrong.headers()}
    await send({"type": "http.response.start", "status": wrong.status,
                "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
    await send({"type": "http.response.body", "body": body})


def _within(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or (place != "/" and place.endswith("/") and path.startswith(place)) for place in places)
