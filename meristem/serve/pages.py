"""Which page of the key/value memory belongs to whom, and which equal beginnings are there already.

Kwon et al. 2023, https://arxiv.org/abs/2309.06180, section 4 (block tables, sharing, reference counts). A full page is
known by a SHA-256 over the page before it, its tokens and what they were read with (`salt`: the adapter), so a text
that begins alike finds its pages again; a short or guessable hash would let one client aim at another's pages
(vLLM's GHSA-rm76-4mrf-v9r8).

    pages = Pages(1024)
    found, digests = pages.match(tokens, salt)                 # pages of the longest known beginning, now also ours
    page = pages.take()                                        # one more, None when all are in use
    pages.name(page, digest); pages.release(found)

Pages that nobody uses keep their content until it is needed; the longest unused goes first.
"""
import hashlib
from collections import OrderedDict, deque
from collections.abc import Sequence

import numpy as np

from meristem.nn.paged import PAGE


def digest(before: bytes, tokens: Sequence[int]) -> bytes:
    """The name of a full page: SHA-256 of the page before (or the salt of a first one) and its tokens."""
    return hashlib.sha256(before + np.asarray(tokens, dtype="<u4").tobytes()).digest()


class Pages:
    """Pages 1 to count - 1 in use, known or free; page 0 is for padding (`nn.paged`)."""

    def __init__(self, count: int):
        self.count = count
        self.free = deque(range(1, count))
        self.users = [0] * count
        self.known: dict[bytes, int] = {}
        self.names: dict[int, bytes] = {}
        self.idle: OrderedDict[int, None] = OrderedDict()      # nobody's, but known; the longest unused first
        self.hits = self.asked = 0                             # tokens found, tokens looked for

    @property
    def available(self) -> int:
        """How many can be taken now."""
        return len(self.free) + len(self.idle)

    @property
    def used(self) -> int:
        """How many are somebody's."""
        return self.count - 1 - self.available

    def match(self, tokens: Sequence[int], salt: bytes = b"") -> tuple[list[int], list[bytes]]:
        """The pages of the longest known beginning that leaves at least one token to read, and their names."""
        found: list[int] = []
        names: list[bytes] = []
        before = digest(salt, ())
        for start in range(0, len(tokens) - PAGE, PAGE):
            before = digest(before, tokens[start:start + PAGE])
            page = self.known.get(before)
            if page is None:
                break
            found.append(page)
            names.append(before)
        for page in found:
            self.users[page] += 1
            self.idle.pop(page, None)
        self.hits += len(found) * PAGE
        self.asked += len(tokens)
        return found, names

    def take(self) -> int | None:
        """A page of one's own, its content undefined; None when every page is in use."""
        if self.free:
            page = self.free.popleft()
        elif self.idle:
            page, _ = self.idle.popitem(last=False)
            del self.known[self.names.pop(page)]
        else:
            return None
        self.users[page] = 1
        return page

    def name(self, page: int, name: bytes) -> None:
        """This page is full and not written any more: others may use it. The first one of a name counts."""
        if name not in self.known:
            self.known[name] = page
            self.names[page] = name

    def release(self, pages: Sequence[int]) -> None:
        """One user of each of these pages has gone. The end of a text is forgotten before its beginning."""
        for page in reversed(pages):
            self.users[page] -= 1
            assert self.users[page] >= 0, f"page {page} was released twice"
            if not self.users[page]:
                if page in self.names:
                    self.idle[page] = None
                else:
                    self.free.append(page)
