"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}, one line, no traceback."""
from dataclasses import dataclass
from typing import Any

from meristem.core.errors import MachineError, MeristemError, RequestError
from meristem.serve.settings import Busy, Late, TooLong


@dataclass
class Refused(Exception):
    """A request that is answered with an error."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    after: float | None = None          # Retry-After, seconds

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
                429: "rate_limit_error"}.get(self.status, "invalid_request_error" if self.status < 500 else
                                             "server_error")
        return {"error": {"message": " ".join(self.message.split())[:1000], "type": kind, "param": self.param,
                          "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Retry-After, where it is worth coming back."""
        return {} if self.after is None else {"retry-after": str(max(1, round(self.after)))}


def refusal(error: Exception) -> Refused:
    """What a client is told of an error; a bug of ours is a plain 500."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Busy):
        return Refused(429, str(error), "queue_full", after=error.after)
    if isinstance(error, TooLong):
        return Refused(400, str(error), "context_length_exceeded", "messages")
    if isinstance(error, Late):
        return Refused(504, str(error), "deadline_exceeded")
    if isinstance(error, RequestError):
        return Refused(400, str(error), "invalid_value")
    if isinstance(error, MachineError | MeristemError):
        return Refused(503, str(error), "machine_error", after=5)
    return Refused(500, "something went wrong in the server; its log says what", "internal_error")
