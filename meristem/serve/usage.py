"""How many tokens a request read and wrote: what its answer says, what its key is charged, what the metrics time."""
import time
from typing import TYPE_CHECKING, Any

from meristem.serve.jobs import Done, Job, Piece

if TYPE_CHECKING:
    from meristem.serve.server import Server


class Usage:
    """Counts of one request; every copy of an answer counts, its prompt once."""

    def __init__(self, prompt: int):
        self.prompt, self.written, self.cached = prompt, 0, 0
        self.begun = self.last = time.monotonic()
        self.heard: set[int] = set()

    def hear(self, server: "Server", job: Job, event: Piece | Done) -> None:
        """A piece or the end of a job."""
        now = time.monotonic()
        if isinstance(event, Done):
            self.written += event.facts.get("written", 0)
            self.cached += event.facts.get("cached", 0)
        elif id(job) not in self.heard:
            self.heard.add(id(job))
            server.metrics.first_token.observe(now - job.since)
        else:
            server.metrics.between.observe(now - self.last)
        self.last = now

    def close(self, server: "Server", request: Any) -> None:
        """The request is answered."""
        server.metrics.whole.observe(time.monotonic() - self.begun)
        server.spent(request, self.prompt, self.written)

    def tree(self) -> dict[str, Any]:
        """As completions and chats have it."""
        return {"prompt_tokens": self.prompt, "completion_tokens": self.written,
                "total_tokens": self.prompt + self.written, "prompt_tokens_details": {"cached_tokens": self.cached}}
