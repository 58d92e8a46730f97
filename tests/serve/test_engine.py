"""The engine writes each text as if it were alone: batches, pieces, pages, copies, guesses, clients that leave."""
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from meristem.codecs.char import Char
from meristem.core.errors import RequestError
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling
from meristem.models.llama import Config, Model
from meristem.nn import kernel
from meristem.serve.engine import Engine
from meristem.serve.jobs import Ask, Call, Done, Failed, Piece
from meristem.serve.settings import Busy, Settings, TooLong
from tests.generate import small

CODEC = Char("".join(chr(33 + i) for i in range(small.VOCAB - 1)))


def engine(draft: Any = None, **more: Any) -> Engine:
    """Around the small model; torch's products, so that the tests' bits are those of `generate` without a kernel."""
    return Engine(small.model(context=256), CODEC, Settings(exact=True, **more), None, draft)


def drain(made: Engine, limit: int = 2000) -> None:
    """Step until there is nothing left to do."""
    with made.ready():
        while made.step():
            limit -= 1
            assert limit, "the engine does not come to an end"


class Heard(list[Any]):
    """What was told of a job."""

    def tokens(self, index: int = 0) -> list[int]:
        """The ids of one copy."""
        return [t.id for e in self if isinstance(e, Piece) and e.index == index for t in e.tokens]

    def text(self, index: int = 0) -> str:
        """The text of one copy."""
        return "".join(e.text for e in self if isinstance(e, Piece) and e.index == index)


def ask(prompt: Sequence[int] | np.ndarray, sampling: Sampling, **more: Any) -> tuple[Ask, Heard]:
    """A job and what is heard of it."""
    heard = Heard()
    return Ask(prompt=list(prompt), sampling=sampling, tell=heard.append, ends=frozenset({0}), **more), heard


@pytest.mark.parametrize("ahead", [0, 3, -3])
def test_each_of_many_texts_is_what_it_is_alone(ahead: int) -> None:
    """Different settings, lengths, copies; so few pages that texts make room for each other; guesses (< 0: a draft's).

    The draft is the model itself a little moved, so that some of its guesses are right.
    """
    model, prompts, rng = small.model(context=256), small.prompts(9, longest=70), random.Random(ahead)
    draft = small.model(move=0.29, context=256) if ahead < 0 else None
    made, asked = engine(draft, rows=6, chunk=48, memory=1, ahead=abs(ahead)), []
    for i, prompt in enumerate(prompts):
        sampling = Sampling(length=rng.randint(20, 60), temperature=rng.choice([0.0, 0.7, 1.3]), seed=i,
                            top_p=rng.choice([1.0, 0.9]), top_k=rng.choice([0, 5]),
                            repetition_penalty=rng.choice([1.0, 1.3]))
        one, heard = ask(prompt, sampling, copies=rng.choice([1, 3]), client=str(i % 3))
        asked.append((prompt, sampling, one, heard))
        made.submit(one)
    drain(made)
    for prompt, sampling, one, heard in asked:
        for i, want in enumerate(generate(model, [prompt], sampling, stop={0}, copies=one.copies)):
            got = [t for e in heard if isinstance(e, Piece) and e.index == i for t in e.tokens]
            assert [t.id for t in got] == want.tokens
            assert [t.logprob for t in got] == pytest.approx(want.logprobs, abs=1e-4)
            reasons = [e.reason for e in heard if isinstance(e, Piece) and e.index == i and e.reason]
            assert reasons == ["stop" if want.stopped else "length"]
        assert isinstance(heard[-1], Done)
    assert made.pages.used == 0 and made.idle and made.counts.parked > 0
    assert made.counts.found > 0                               # copies found their prompt
    assert not ahead or made.counts.kept > 0


def test_who_leaves_frees_his_pages_and_who_waits_too_long_is_told() -> None:
    made = engine(rows=4)
    leaving, heard = ask([5] * 40, Sampling(length=100), copies=2)
    late, heard_late = ask([6] * 40, Sampling(length=100), deadline=time.monotonic() - 1)
    waiting, heard_waiting = ask([7] * 40, Sampling(length=100))
    for one in (leaving, late):
        made.submit(one)
    with made.ready():
        for _ in range(3):
            made.step()
    assert made.pages.used > 0 and heard and isinstance(heard_late[-1], Failed)
    made.submit(waiting)
    made.cancel(leaving)
    made.cancel(waiting)
    count = len(heard)
    drain(made)
    assert made.pages.used == 0 and len(heard) == count and not heard_waiting
    assert made.counts.cancelled == 2 and made.counts.failed == 1


def test_a_full_queue_says_when_to_come_back_and_what_can_never_be_answered_is_refused() -> None:
    made = engine(queue=2)
    for _ in range(2):
        made.submit(ask([5], Sampling(length=1))[0])
    with pytest.raises(Busy) as busy:
        made.submit(ask([5], Sampling(length=1))[0])
    assert busy.value.after >= 1 and made.counts.refused == 1
    with pytest.raises(TooLong, match="256"):
        made.submit(ask([5] * 250, Sampling(length=7))[0])
    for prompt in ([], [61], [-1]):
        with pytest.raises(RequestError):
            made.submit(ask(prompt, Sampling(length=1))[0])
    drain(made)
    made.submit(ask([5] * 249, Sampling(length=7))[0])
    drain(made)


def test_calls_take_their_turn_and_a_failure_stays_in_its_request() -> None:
    made, told = engine(), Heard()
    made.submit(Call(work=lambda module: module.config.vocab, tell=told.append))
    made.submit(Call(work=lambda module: 1 // 0, tell=told.append))
    one, heard = ask([5, 6], Sampling(length=3))
    made.submit(one)
    drain(made)
    assert told[0] == Done(small.VOCAB) and isinstance(told[1].error, ZeroDivisionError)
    assert isinstance(heard[-1], Done)


def test_a_failure_in_choosing_ends_its_requests_and_not_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by schemathesis: an exception there ended the thread, and every later request waited for ever."""
    made, called = engine(), []

    def broken(*given: Any) -> Any:
        called.append(given)
        raise IndexError("amax(): Expected reduction dim -1 to have non-zero size")
    first, heard = ask([5, 6], Sampling(length=3))
    made.submit(first)
    with monkeypatch.context() as patched:
        patched.setattr("meristem.serve.engine.chosen", broken)
        drain(made)
    assert called and isinstance(heard[-1], Failed) and made.pages.used == 0
    second, again = ask([5, 6], Sampling(length=3))
    made.submit(second)
    drain(made)
    assert isinstance(again[-1], Done)


def test_clients_share_by_tokens() -> None:
    """One who asks for much waits for one who asks for little: both begin, whoever came first."""
    made, order = engine(rows=1), []
    for client, count in (("greedy", 4), ("modest", 1)):
        for _ in range(count):
            one, _ = ask([5] * 30, Sampling(length=10), client=client)
            one.tell = lambda event, client=client: order.append(client) if isinstance(event, Done) else None
            made.submit(one)
    drain(made)
    assert order.index("modest") == 1


def test_the_loop_runs_on_its_own_thread_and_ends() -> None:
    made = engine()
    made.start()
    one, heard = ask([5, 6, 7], Sampling(length=4))
    made.submit(one)
    until = time.monotonic() + 20
    while not (heard and isinstance(heard[-1], Done)):
        assert time.monotonic() < until
        time.sleep(0.005)
    made.stop()
    assert made.thread is not None and not made.thread.is_alive()


def small_half(hidden: int = 96) -> Any:
    """A llama in bf16 whose products the kernel packs."""
    torch.manual_seed(0)
    made = Model(Config(vocab=small.VOCAB, context=256, dim=32, layers=2, heads=4, groups=2, hidden=hidden))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return made.bfloat16().eval()


@pytest.mark.skipif(kernel.library() is None, reason=kernel.why())
def test_the_native_kernel_writes_the_same_texts() -> None:
    """Prompts and last tokens in one pass: float32 has the tokens of `generate`, whatever stands beside them."""
    model, prompts = small.model(context=256), small.prompts(20, longest=90)
    made, asked = Engine(model, CODEC, Settings(rows=16, chunk=100, memory=1)), []
    for i, prompt in enumerate(prompts):
        one, heard = ask(prompt, Sampling(length=8 + i, temperature=float(i % 2), seed=i), copies=1 + i % 2)
        made.submit(one)
        asked.append((prompt, one, heard))
    drain(made)
    assert made.counts.parked and made.counts.steps < made.counts.written / 4
    for prompt, one, heard in asked:
        for n, want in enumerate(generate(model, [prompt], one.sampling, stop={0}, copies=one.copies)):
            assert heard.tokens(n) == want.tokens


@pytest.mark.skipif(kernel.level() < max(kernel.LEVELS), reason="this machine has no products of bf16 pairs")
def test_bf16_has_the_same_bits_alone_and_among_others() -> None:
    """In pieces or at once, found or read: the log-probabilities do not move by a bit."""
    prompts = small.prompts(24, longest=90)

    def written(rows: int, chunk: int, which: Sequence[int]) -> dict[int, list[float]]:
        made, heard = Engine(small_half(), CODEC, Settings(rows=rows, chunk=chunk)), {}
        for i in [*which, *which]:                             # the second time its beginning is found
            one, heard[i] = ask(prompts[i], Sampling(length=6, temperature=1.0, seed=i))
            made.submit(one)
        drain(made)
        return {i: [t.logprob for e in some if isinstance(e, Piece) for t in e.tokens] for i, some in heard.items()}

    together = written(24, 400, range(24))
    for i in (0, 7, 19):
        assert together[i] == written(1, 33, [i])[i]
