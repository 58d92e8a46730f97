"""Server-sent events: pieces of an answer as they appear, and an end to the work when nobody reads any more."""
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import cache
from typing import Any

from meristem.serve.errors import refusal
from meristem.serve.hear import gone

HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
LAST = "data: [DONE]\n\n"


def data(value: Any, name: str = "") -> str:
    """One event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, separators=(',', ':'))}\n\n"


@cache
def response_class() -> type:
    """The response of a stream (made here because the web library is an extra)."""
    from starlette.responses import Response

    class Events(Response):
        """Sends what an async iterator of texts gives; closes it as soon as the client has gone."""

        def __init__(self, pieces: AsyncIterator[str]):
            self.pieces, self.background, self.status_code = pieces, None, 200
            self.raw_headers = [(k.encode(), v.encode()) for k, v in HEADERS.items()]

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending, left = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(gone(receive))
            try:
                await asyncio.wait({sending, left}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, left):
                    if not task.done():
                        task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

        async def _send(self, send: Any) -> None:
            try:
                async for piece in self.pieces:
                    await send({"type": "http.response.body", "body": piece.encode(), "more_body": True})
            except Exception as error:                         # the status is sent: the error is an event
                await send({"type": "http.response.body", "body": data(refusal(error).body()).encode(),
                            "more_body": True})
            finally:
                close = vars(type(self.pieces)).get("aclose")
                if close:
                    await close(self.pieces)
            await send({"type": "http.response.body", "body": b""})

    return Events
