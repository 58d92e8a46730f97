"""Who is next: a bounded queue that shares the machine between clients by tokens, not by requests.

Sheng et al. 2024, "Fairness in Serving Large Language Models", https://arxiv.org/abs/2401.00588, algorithm 2 (virtual
token counters): every client has a counter of what was done for it, read tokens once and written ones twice, and the
waiting client with the lowest counter goes first. A client that comes back after a pause starts at the lowest counter
of those who wait, so that nobody saves up. Within a client, first come first served.

    queue = Fair(limit=256)
    queue.put("alice", job); client, job = queue.peek(); queue.pop(); queue.charge("alice", read=100, written=20)
"""
from collections import OrderedDict, deque
from typing import Generic, TypeVar

READ, WRITTEN = 1, 2                    # what a token costs
REMEMBERED = 10_000                     # clients whose counters are kept

J = TypeVar("J")


class Full(Exception):
    """The queue takes no more."""


class Fair(Generic[J]):
    """Jobs that wait, at most `limit`."""

    def __init__(self, limit: int):
        self.limit, self.waiting = limit, 0
        self.queues: dict[str, deque[J]] = {}
        self.counters: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return self.waiting

    def put(self, client: str, job: J) -> None:
        """To the end of the client's own queue; `Full` at the limit."""
        if self.waiting >= self.limit:
            raise Full
        if client not in self.queues:
            self._lift(client)
            self.queues[client] = deque()
        self.queues[client].append(job)
        self.waiting += 1

    def peek(self) -> tuple[str, J] | None:
        """The client that is next and its job."""
        if not self.queues:
            return None
        client = min(self.queues, key=lambda c: self.counters[c])
        return client, self.queues[client][0]

    def pop(self) -> J:
        """Take the job that `peek` shows."""
        found = self.peek()
        assert found is not None
        self.remove(*found)
        return found[1]

    def remove(self, client: str, job: J) -> bool:
        """Take a job out wherever it stands; False when it does not wait."""
        queue = self.queues.get(client)
        if queue is None or job not in queue:
            return False
        queue.remove(job)
        self.waiting -= 1
        if not queue:
            del self.queues[client]
        return True

    def charge(self, client: str, read: int = 0, written: int = 0) -> None:
        """So many tokens were read and written for a client."""
        self.counters[client] = self.counters.get(client, 0) + READ * read + WRITTEN * written
        self.counters.move_to_end(client)
        while len(self.counters) > REMEMBERED:
            old = next((c for c in self.counters if c not in self.queues), None)
            if old is None:
                break
            del self.counters[old]

    def _lift(self, client: str) -> None:
        lowest = min((self.counters[c] for c in self.queues), default=0)
        self.counters[client] = max(self.counters.get(client, 0), lowest)
        self.counters.move_to_end(client)
