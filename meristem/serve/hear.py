"""Between the engine's thread and the server's loop: jobs go one way, what is heard of them the other.

    async for which, event in events(model.engine, jobs):      # Piece or Done; a failure is raised
        ...

When the one who listens goes away (the generator is closed or cancelled), the engine drops the jobs that are not done.
"""
import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

from meristem.serve.engine import Engine
from meristem.serve.errors import Refused
from meristem.serve.jobs import Call, Done, Failed, Job, Piece

T = TypeVar("T")


class Gone(Exception):
    """The client closed the connection."""


class Mailbox:
    """What other threads have for a loop: it is woken once for all that a step of the engine tells 32 clients."""

    every: "WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox]" = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop, self.posted, self.letters = ref(loop), False, deque[Callable[[], None]]()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "Mailbox":
        """The one of this loop."""
        if loop not in cls.every:
            cls.every[loop] = cls(loop)
        return cls.every[loop]

    def post(self, letter: Callable[[], None]) -> None:
        """Have the loop call this soon; in the order of posting."""
        self.letters.append(letter)
        loop = self.loop()
        if not self.posted and loop is not None:
            self.posted = True
            with suppress(RuntimeError):                       # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self.posted = False                                    # first: what is posted from here on wakes the loop again
        while self.letters:
            self.letters.popleft()()


async def events(engine: Engine, jobs: Sequence[Job]) -> AsyncIterator[tuple[int, Piece | Done]]:
    """Submit jobs and hear them: (which job, what happened) until all are done; a failure of one ends all."""
    box, queue = Mailbox.of(asyncio.get_running_loop()), asyncio.Queue[tuple[int, Piece | Done | Failed]]()

    def tell(which: int) -> Callable[[Piece | Done | Failed], None]:
        return lambda event: box.post(partial(queue.put_nowait, (which, event)))

    left = set(range(len(jobs)))
    try:
        for which, job in enumerate(jobs):
            job.tell = tell(which)
            engine.submit(job)
        while left:
            which, event = await queue.get()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                left.discard(which)
            yield which, event
    finally:
        for which in left:
            engine.cancel(jobs[which])


async def call(engine: Engine, work: Callable[[Any], T], client: str, *, cost: int = 1, adapter: str = "",
               deadline: float = float("inf")) -> T:
    """The value of `work(module)`, done by the engine in its turn."""
    job = Call(client=client, work=work, cost=cost, adapter=adapter, deadline=deadline)
    async for _, event in events(engine, [job]):
        assert isinstance(event, Done)
        value: T = event.value
    return value


async def gone(receive: Callable[[], Awaitable[Any]]) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Callable[[], Awaitable[Any]], work: Awaitable[T]) -> T:
    """The result of `work`; it is cancelled, and `Gone` raised, when the client goes first."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        for one in (task, left):
            if not one.done():
                one.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await one


async def begun(stream: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    """The same stream after its first piece is there, so that what fails before it has a status of its own."""
    try:
        first = await anext(stream)
    except StopAsyncIteration:
        raise Refused(500, "there was nothing to stream", "internal_error") from None

    async def whole() -> AsyncIterator[str]:
        async with aclosing(stream):
            yield first
            async for piece in stream:
                yield piece
    return whole()
