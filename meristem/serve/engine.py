"""One model, one thread, one loop: many texts at once, each written as if it were alone.

    engine = Engine(module, codec, Settings(rows=32)); engine.start()
    engine.submit(Ask(prompt=ids, sampling=Sampling(length=64), tell=hear))    # `Busy` when the queue is full
    engine.stop()

Each step reads a piece of the prompts that wait (chunked prefill, Agrawal et al. 2023, https://arxiv.org/abs/2308.16369)
and writes one token of every text that has begun (continuous batching, Yu et al. 2022, Orca, OSDI section 3.2). Keys
and values lie in pages (`nn.paged`, `serve.pages`), so equal beginnings are read once. When pages run out the text that
began last makes room and is read again later. The forward is the trainer's own module; sampling, penalties, grammars
and stop texts are those of `generate`, so a request gives the tokens that `generate` gives with the same seed, whatever
else is in the batch: tests/serve/test_engine.py.

With the native kernel both happen in one pass (`serve.packing`): the tokens of all texts stand one after another, each
with the pages of its own text and its own adapter, so a step reads the weights once and pads nothing. `exact` and
`ahead` go by `_write` and `_read`, which keep the trainer's shapes.

`ahead` > 0 checks several guesses in one pass (`serve.guessing`): they change the speed, never the text.
"""
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.core import machine
from meristem.core.errors import MachineError, MeristemError, RequestError
from meristem.generate.base import evaluating, groups
from meristem.nn.attention import CHUNK
from meristem.nn.decode import decoding
from meristem.nn.paged import PAGE, ROWS, Store, pageable, shapes_of
from meristem.serve.adapters import Bank
from meristem.serve.choosing import chosen
from meristem.serve.fair import Fair, Full
from meristem.serve.guessing import Draft, Guesser, Lookup
from meristem.serve.jobs import Ask, Call, Done, Failed, Job, Piece, Row, Token, check
from meristem.serve.packing import Found, logits_of, packable, packed, padded
from meristem.serve.pages import Pages, digest
from meristem.serve.settings import PATIENCE, Busy, Counts, Late, Settings

WAIT = 1.0                              # seconds the idle loop sleeps when nobody wakes it


class Engine:
    """The loop around one decoder; `bank` holds its adapters."""

    def __init__(self, module: nn.Module, codec: Codec | None, settings: Settings | None = None,
                 bank: Bank | None = None, draft: nn.Module | None = None):
        self.module, self.codec, self.settings, self.bank = module, codec, settings or Settings(), bank
        config = vars(vars(module).get("config") or Counts())  # a painter has none
        self.vocab, self.context = config.get("vocab", 0), config.get("context", 0)
        self.writes = codec is not None and pageable(module)   # others are only called
        shapes, dtype = shapes_of(module) if self.writes else ([], torch.float32)
        page = sum(2 * groups_ * width * PAGE * dtype.itemsize for groups_, width in shapes)
        most = 1 + (self.settings.rows + 1) * -(-self.context // PAGE)         # more can never be used
        count = min(most, max(2 + -(-self.context // PAGE), self.settings.memory // max(1, page)))
        self.pages, self.store = Pages(count), Store(count, shapes, dtype, native=not self.settings.exact)
        self.draft = draft
        self.guesser: Guesser = Lookup() if draft is None else Draft(draft, count, self.vocab, not self.settings.exact)
        self.least = ROWS if self.settings.exact else 1        # rows of a product
        self.waiting: Fair[Job] = Fair(self.settings.queue)
        self.parked: deque[Row] = deque()                      # begun, or copies of one that began
        self.rows: list[Row] = []                              # in the order in which they began
        self.counts, self.speed = Counts(), 0.0                # tokens a second of the last steps
        self.lock, self.wake = threading.Lock(), threading.Event()
        self.thread: threading.Thread | None = None
        self.stopping = self.packing = False                   # packing: `ready` says

    # -- from other threads ------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queue a job. `Busy` when the queue is full, RequestError for what can never be answered."""
        if isinstance(job, Ask):
            if not self.writes:
                raise RequestError("this model reads whole texts: it embeds or classifies them, and writes none")
            check(job, self.context, self.vocab)
        if self.stopping:
            raise MachineError("the server is stopping")
        with self.lock:
            try:
                self.waiting.put(job.client, job)
            except Full:
                self.counts.refused += 1
                raise Busy(self.patience()) from None
        self.wake.set()

    def cancel(self, job: Job) -> None:
        """The one who asked has gone: its pages are free before the next step."""
        job.cancelled = True
        self.wake.set()

    def patience(self) -> float:
        """Seconds until the queue is likely to be shorter."""
        done = max(1, self.counts.finished)
        each = self.counts.busy / done if self.counts.finished else PATIENCE
        return min(60.0, max(1.0, each * max(1, len(self.waiting)) / 2))

    def start(self) -> None:
        """Begin the loop on a thread of its own."""
        self.thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self.thread.start()

    def stop(self, patience: float = 10.0) -> None:
        """End the loop; what was not finished fails."""
        self.stopping = True
        self.wake.set()
        if self.thread:
            self.thread.join(patience)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self.rows or self.parked or len(self.waiting))

    # -- the loop ----------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        machine.set_threads()
        with self.ready():
            while not self.stopping:
                self.wake.clear()
                if not self.step():
                    self.wake.wait(WAIT)
            self._give_up(MachineError("the server is stopping"))

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Evaluation mode and the native kernel, for `step` outside the loop (tests)."""
        with ExitStack() as stack:
            for module in (self.module, *([self.draft] if self.draft else [])):
                stack.enter_context(evaluating(module))
                if not self.settings.exact:
                    stack.enter_context(decoding(module))
            plain = self.writes and not self.settings.exact and not self.settings.ahead
            self.packing = plain and packable(self.module)
            yield

    def step(self) -> bool:
        """One turn: calls, admission, a piece of the prompts, a token of every text. False when there was nothing."""
        start = time.perf_counter()
        self._sweep()
        self._admit()
        if not self.rows:
            return not self.idle
        before = self.counts.written + self.counts.read
        begun, found = [row for row in self.rows if not row.reading], list[Found | None]()
        if self.packing:
            begun = [row for row in begun if row in self.rows and self._room(row, len(row.tokens))]
            pieces = self._pieces()
            spans = [(row, len(row.tokens)) for row in begun if row in self.rows]
            found.append(self._guarded(self._together, spans + pieces))
        else:
            found.append(self._guarded(self._write, begun))
            pieces = self._pieces()
            for some in groups([stop - row.read for row, stop in pieces]) if pieces else []:
                found.append(self._guarded(self._read, [pieces[i] for i in some]))
        for one in found:
            if one is not None:
                self._settle(one)
        took = time.perf_counter() - start
        self.counts.steps += 1
        self.counts.busy += took
        self.speed = (self.counts.written + self.counts.read - before) / max(took, 1e-9)
        return True

    def _guarded(self, work: Callable[[Sequence[Any]], Found | None], items: Sequence[Any]) -> Found | None:
        """`work(items)`; when it fails its rows fail, and the server goes on."""
        try:
            return work(items) if items else None
        except Exception as error:                             # the border of a request: nothing may end the loop
            for item in items:
                self._fail((item if isinstance(item, Row) else item[0]).ask, error)
            return None

    def _sweep(self) -> None:
        """Forget who has gone and who waited too long."""
        now = time.monotonic()
        for row in [*self.rows, *self.parked]:
            if row.ask.rows and (row.ask.cancelled or now > row.ask.deadline):
                self._abandon(row.ask)
        with self.lock:
            gone = [(client, job) for client, queue in self.waiting.queues.items() for job in queue
                    if job.cancelled or now > job.deadline]
            for client, job in gone:
                self.waiting.remove(client, job)
        for _, job in gone:
            self._abandon(job)

    def _abandon(self, job: Job) -> None:
        if job.cancelled:
            self.counts.cancelled += 1
            self._end(job)
        else:
            self._fail(job, Late("the request took longer than its deadline"))

    def _admit(self) -> None:
        """Begin what there is room for: first what had begun, then by fairness; calls are answered at once."""
        while len(self.rows) < self.settings.rows:
            if self.parked:
                row = self.parked[0]
                try:
                    if not self._begin(row):
                        return
                except MeristemError as error:                 # an adapter that cannot be read
                    self._fail(row.ask, error)
                else:
                    self.parked.popleft()
                continue
            with self.lock:
                found = self.waiting.peek()
                if found is None:
                    return
                job = self.waiting.pop()
            if isinstance(job, Call):
                self._answer(job)
                return                                         # one between two steps: texts go on meanwhile
            assert isinstance(job, Ask) and self.codec is not None
            job.rows = [Row(job, index, self.codec, self.module) for index in range(job.copies)]
            self.parked.extend(job.rows)

    def _begin(self, row: Row) -> bool:
        need = -(-(len(row.tokens) + 1) // PAGE) + len(self.rows)              # a page more for everyone
        if self.rows and self.pages.available < need:
            return False
        if row.ask.adapter and row.adapter is None:
            assert self.bank is not None
            row.adapter = self.bank.hold(row.ask.adapter)
            if row.adapter is None:                            # all places are held by texts that go on
                return False
        self.rows.append(row)
        return True

    def _answer(self, call: Call) -> None:
        """Do a call on the module."""
        try:
            if call.adapter:
                assert self.bank is not None
                value = self.bank.call(call.adapter, call.work)
            else:
                value = call.work(self.module)
        except Exception as error:                             # the border of a request
            if call.cancelled:
                self._abandon(call)
            else:
                self._fail(call, error)
            return
        self.counts.finished += 1
        self.counts.read += call.cost
        with self.lock:
            self.waiting.charge(call.client, read=call.cost)
        call.tell(value if isinstance(value, Done) else Done(value))

    # -- reading and writing -----------------------------------------------------------------------------------------

    def _pieces(self) -> list[tuple[Row, int]]:
        """Which rows read on now, and up to where: at most `chunk` tokens; unpacked none beyond its chunk of places."""
        left, out = self.settings.chunk, list[tuple[Row, int]]()
        for row in list(self.rows):
            if left <= 0 or row not in self.rows or not row.reading:
                continue
            if any(other is not row and other.index < row.index and other.reading for other in row.ask.rows):
                continue                                       # the first copy reads the prompt for all
            if not row.pages:
                row.pages, row.names = self.pages.match(row.tokens, row.ask.adapter.encode())
                row.read = len(row.pages) * PAGE
                row.ask.cached = max(row.ask.cached, min(row.read, row.prompt))
                self.counts.found += row.read
            stop = min(len(row.tokens), row.read + left)
            if not self.packing:
                stop = min(stop, (row.read // CHUNK + 1) * CHUNK)
            if self._room(row, stop):
                out.append((row, stop))
                left -= stop - row.read
        return [(row, stop) for row, stop in out if row in self.rows and row.pages]

    def _room(self, row: Row, upto: int) -> bool:
        """Pages for the first `upto` tokens; others make room where there are none, or this row does."""
        while len(row.pages) * PAGE < upto:
            page = self.pages.take()
            if page is not None:
                row.pages.append(page)
                continue
            last = self.rows[-1]
            self._park(last)
            if last is row:
                return False
        return True

    def _park(self, row: Row) -> None:
        self.rows.remove(row)
        self._release(row)
        self.parked.appendleft(row)
        self.counts.parked += 1

    def _release(self, row: Row) -> None:
        self.pages.release(row.pages)
        row.pages, row.names, row.read = [], [], 0
        if row.adapter is not None and self.bank is not None:
            self.bank.drop(row.ask.adapter)
            row.adapter = None

    def _together(self, spans: Sequence[tuple[Row, int]]) -> Found | None:
        """Read on up to a place in each row, whether it is prompt or the last token written: one pass for all."""
        pack = packed([(row.tokens[row.read:stop], row.read, row.pages) for row, stop in spans])
        slots = [spans[i][0].adapter for i in pack.whose]
        with self.bank.using(slots) if self.bank else nullcontext():
            features = self.module.features(pack.tokens, positions=pack.places,                # type: ignore[operator]
                                            cache=self.store.view(pack.table))[:, 0]
        for row, stop in spans:
            self._has_read(row, stop)
        through = [i for i, (row, stop) in enumerate(spans) if stop == len(row.tokens)]
        if not through:
            return None
        rows = [spans[i][0] for i in through]
        return Found(rows, self._head(features[pack.last[through]], rows), [1] * len(through))

    def _has_read(self, row: Row, stop: int) -> None:
        if row.reading:
            self.counts.read += stop - row.read
            with self.lock:
                self.waiting.charge(row.ask.client, read=stop - row.read)
        row.read, row.guess = stop, []
        self._name(row)

    def _read(self, pieces: Sequence[tuple[Row, int]]) -> Found | None:
        """Read on in some rows; the logits of those that are through."""
        spans = [(row, row.read, stop) for row, stop in pieces]
        features = self._features(spans)
        for row, _, stop in spans:
            self._has_read(row, stop)
        through = [i for i, (row, _, stop) in enumerate(spans) if stop == len(row.tokens)]
        if not through:
            return None
        last = torch.stack([features[i, spans[i][2] - spans[i][1] - 1] for i in through])
        rows = [spans[i][0] for i in through]
        return Found(rows, self._head(last, rows), [1] * len(through))

    def _write(self, rows: Sequence[Row]) -> Found | None:
        """One pass over the last token of each row and what is guessed to follow it; the logits of all these."""
        asked = list[tuple[Row, int]]()
        for row in rows:
            if row not in self.rows:
                continue                                       # it made room for another
            count = max(0, min(self.settings.ahead, row.sampling.length - row.written - 1,
                               (row.read // CHUNK + 1) * CHUNK - len(row.tokens)))
            if self._room(row, len(row.tokens) + count):
                asked.append((row, count))
        asked = [(row, count) for row, count in asked if row in self.rows]
        if not asked:
            return None
        guesses: list[list[int]] = [[] for _ in asked]
        if self.settings.ahead:
            guesses = self.guesser.guess([row for row, _ in asked], [count for _, count in asked])
            self.counts.guessed += sum(map(len, guesses))
        spans = [(row, guess) for (row, _), guess in zip(asked, guesses, strict=True)]
        features = self._features([(row, row.read, row.read + 1 + len(guess)) for row, guess in spans],
                                  [guess for _, guess in spans])
        lengths = [1 + len(guess) for _, guess in spans]
        flat = torch.cat([features[i, :n] for i, n in enumerate(lengths)])
        for row, guess in spans:
            row.guess = guess
            row.read += 1
            self._name(row)
        whose = [row for (row, _), count in zip(spans, lengths, strict=True) for _ in range(count)]
        return Found([row for row, _ in spans], self._head(flat, whose), lengths)

    def _features(self, spans: Sequence[tuple[Row, int, int]], guesses: Sequence[Sequence[int]] = ()) -> Tensor:
        """Features [B', T, D] of places start to stop of each row; `padded` says why B' >= B."""
        tokens, places, table = padded(spans, guesses, self.least)
        slots = [spans[min(i, len(spans) - 1)][0].adapter for i in range(len(tokens))]
        if self.settings.ahead and not guesses:
            self.guesser.read(tokens, places, table)
        with self.bank.using(slots) if self.bank else nullcontext():
            found: Tensor = self.module.features(tokens, positions=places,             # type: ignore[operator]
                                                 cache=self.store.view(table))
        return found

    def _head(self, features: Tensor, rows: Sequence[Row]) -> Tensor:
        """fp32 logits [N, V] of features [N, D] of these rows, some of which may have a head of their adapter's."""
        count, slots = len(features), [row.adapter for row in rows]
        if count < self.least:
            features = torch.cat([features, features[-1:].expand(self.least - count, -1)])
            slots += slots[-1:] * (self.least - count)
        with self.bank.using(slots) if self.bank and self.bank.wraps("head") else nullcontext():
            return logits_of(self.module, features)[:count]

    def _name(self, row: Row) -> None:
        """Make the full pages of a row known."""
        while len(row.names) < row.read // PAGE:
            start = len(row.names) * PAGE
            before = row.names[-1] if row.names else digest(row.ask.adapter.encode(), ())
            row.names.append(digest(before, row.tokens[start:start + PAGE]))
            self.pages.name(row.pages[len(row.names) - 1], row.names[-1])

    # -- choosing ----------------------------------------------------------------------------------------------------

    def _settle(self, found: Found) -> None:
        """`_choose`; when it fails the rows that it was about fail, and the server goes on."""
        try:
            self._choose(found)
        except Exception as error:                             # found by schemathesis: it ended the loop
            for row in [row for row in found.rows if row in self.rows]:
                self._fail(row.ask, error)

    def _choose(self, found: Found) -> None:
        """The next token of every row, and as many more as were guessed rightly."""
        rows, logits, counts = found
        first = np.cumsum([0, *counts])
        left, step = [i for i, row in enumerate(rows) if row in self.rows], 0
        while left:
            some = logits if len(left) == len(logits) else logits[torch.from_numpy(first[left] + step)]
            on = []
            for i, token in zip(left, chosen([rows[i] for i in left], some), strict=True):
                row = rows[i]
                if row not in self.rows:                       # a copy of it failed
                    continue
                if token is None:                              # nothing at all may follow
                    self._finish(row, True)
                elif isinstance(token, Exception):
                    self._fail(row.ask, token)
                elif self._push(row, token, step) and step + 1 < counts[i]:
                    on.append(i)
            left, step = on, step + 1

    def _push(self, row: Row, token: Token, step: int) -> bool:
        """Add a token; whether the row goes on and its guess at this step was right."""
        if token.id in row.ask.ends:
            self._finish(row, True)
            return False
        right = step < len(row.guess) and row.guess[step] == token.id
        text = row.push(token)
        self.counts.written += 1
        row.ask.written += 1
        with self.lock:
            self.waiting.charge(row.ask.client, written=1)
        if right:                                              # its keys and values are there
            row.read += 1
            self.counts.kept += 1
            self._name(row)
        if row.stream.stopped or row.written >= row.sampling.length:
            self._finish(row, row.stream.stopped, text)
            return False
        if text:
            self._tell(row.ask, Piece(row.index, text, row.take(False)))
        return right

    def _finish(self, row: Row, stopped: bool, text: str = "") -> None:
        text += row.stream.end()
        whole = row.grammar.accepts([]) if row.grammar else stopped
        ask = row.ask
        self.rows.remove(row)
        ask.rows.remove(row)
        self._release(row)
        self._tell(ask, Piece(row.index, text, row.take(True), "stop" if whole else "length"))
        if not ask.rows:
            self.counts.finished += 1
            ask.tell(Done(None, {"prompt": len(ask.prompt), "written": ask.written, "cached": ask.cached}))

    def _tell(self, ask: Ask, piece: Piece) -> None:
        ask.first = ask.first or time.monotonic()
        ask.tell(piece)

    def _fail(self, job: Job, error: Exception) -> None:
        self.counts.failed += 1
        self._end(job)
        job.tell(Failed(error))

    def _end(self, job: Job) -> None:
        """Free what a job holds."""
        if isinstance(job, Ask):
            for row in job.rows:
                if row in self.rows:
                    self.rows.remove(row)
                    self._release(row)
                elif row in self.parked:
                    self.parked.remove(row)
            job.rows = []

    def _give_up(self, error: Exception) -> None:
        for ask in {row.ask for row in (*self.rows, *self.parked)}:
            self._fail(ask, error)
        with self.lock:
            left = [job for queue in self.waiting.queues.values() for job in queue]
            for job in left:
                self.waiting.remove(job.client, job)
        for job in left:
            self._fail(job, error)
