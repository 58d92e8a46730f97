"""How much an engine does at once, what it has done, and how it says no."""
from dataclasses import dataclass, field

from meristem.core.errors import MeristemError, RequestError

PATIENCE = 1.0                          # seconds that `Busy` names while nothing was measured yet


class Busy(MeristemError):
    """The queue is full; `after` says in how many seconds it is worth asking again."""

    def __init__(self, after: float):
        super().__init__(f"the queue is full; ask again in {after:.0f} s")
        self.after = after


class TooLong(RequestError):
    """A prompt and what is asked for exceed the model's context."""


class Late(MeristemError):
    """The request's time was up."""


@dataclass(frozen=True)
class Settings:
    """How much at once."""

    rows: int = 64                      # texts written in one step
    chunk: int = 256                    # tokens of prompts read in one step
    memory: int = 1 << 30               # bytes of keys and values
    queue: int = 256                    # jobs that may wait
    ahead: int = 0                      # tokens guessed and checked at once
    exact: bool = False                 # torch's products instead of the native kernel: the trainer's bits in fp32


@dataclass
class Counts:
    """What the engine has done since it began."""

    steps: int = 0
    read: int = 0                       # tokens of prompts
    found: int = 0                      # tokens of prompts that were in the cache
    written: int = 0
    guessed: int = 0
    kept: int = 0                       # guesses that were right
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    parked: int = 0                     # texts that had to make room
    busy: float = field(default=0.0)    # seconds of steps
