"""Many adapters on one base: each row of a batch is its own adapter's, to the bit in fp32 with torch's products."""
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.adapt import files, lora
from meristem.core.errors import RequestError
from meristem.generate.sampling import Sampling
from meristem.hub import hf
from meristem.nn import kernel
from meristem.nn.attention import CHUNK
from meristem.nn.decode import Step, decoding
from meristem.nn.paged import ROWS, Store
from meristem.serve.adapters import Adapter, Bank
from meristem.serve.engine import Engine
from meristem.serve.jobs import Done, Piece
from meristem.serve.settings import Settings
from tests.generate import small
from tests.serve.test_engine import CODEC, ask, drain

COUNT = 256


def fresh() -> Any:
    """The small base, nobody else's: a bank wraps its layers."""
    return small.model.__wrapped__(context=2 * CHUNK)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 adapters of rank 8 and two of other ranks, on other layers; as PEFT writes them."""
    folder, base = tmp_path_factory.mktemp("adapters"), fresh()
    identity = hf.identity("llama", base)
    generator = torch.Generator().manual_seed(0)
    for n in range(16):
        rank, where = (3, r".*\.(q|v)") if n == 14 else (16, r".*\.(o|down)") if n == 15 else (8, lora.EVERYWHERE)
        module = lora.apply(fresh(), rank=rank, where=where, seed=n, rslora=n == 13)
        with torch.no_grad():
            for name, p in module.named_parameters():
                if name.endswith(".b"):
                    p.copy_(0.1 * torch.randn(p.shape, generator=generator))
        files.save(folder / f"a{n}", module, "llama", identity)
    return folder


def alone(shelf: Path, name: str) -> Any:
    """The base with one adapter, as training has it."""
    base = fresh()
    return files.load(shelf / name, base, "llama", hf.identity("llama", base)).eval()


def bank_of(shelf: Path, native: bool, **more: Any) -> Bank:
    """A bank on a base of its own."""
    base = fresh()
    return Bank(base, "llama", hf.identity("llama", base), shelf, native=native, **more)


@contextmanager
def counted(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The native kernel for whole blocks, and how many rows with adapters each call of it had."""
    step, calls = Step.__call__, list[int]()

    def called(self: Any, *given: Any, **more: Any) -> Any:
        calls.append(sum(one is not None for one in self.rows.kept) if self.rows else 0)
        return step(self, *given, **more)
    monkeypatch.setattr(Step, "__call__", called)
    with decoding(module):
        yield calls


@pytest.mark.parametrize("native", [False, True, "blocks"])
@torch.no_grad()
def test_each_row_of_a_mixed_batch_is_its_adapters_own(shelf: Path, native: bool | str,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """16 adapters, the base among them, one batch; cached. Torch's products: no difference at all."""
    bank = bank_of(shelf, bool(native))
    way: Any = counted(bank.module, monkeypatch) if native == "blocks" else nullcontext([])
    with way as calls:
        mixed(shelf, bank, bool(native))
    assert calls == ([16, 16] if native == "blocks" and kernel.library() else [])


def mixed(shelf: Path, bank: Bank, native: bool) -> None:
    """Compare the last place of 17 texts with each adapter's own forward."""
    names = [f"a{n}" for n in range(16)]
    held = [bank.hold(name) for name in names]
    tokens = torch.randint(0, small.VOCAB, (17, 2 * CHUNK), generator=torch.Generator().manual_seed(1))
    tokens, each = tokens[:, :40], 3
    table = torch.arange(1, 17 * each + 1).view(17, each)
    store, places = Store.like(bank.module, 17 * each + 1), torch.arange(39).expand(17, -1)
    with bank.using([*held, None]):
        bank.module(tokens[:, :39], positions=places, cache=store.view(table))
        got = bank.module(tokens[:, 39:], positions=torch.full((17, 1), 39), cache=store.view(table))[:, 0]
    padded = torch.cat([tokens, tokens.new_zeros(17, CHUNK - 40)], 1)
    worst = 0.0
    for row, name in enumerate([*names, ""]):
        want = (alone(shelf, name) if name else fresh())(padded[row:row + 1].expand(ROWS, -1))[0, 39]
        worst = max(worst, float((got[row] - want).abs().max()))
    assert worst == 0 if not native else worst < 1e-5


@torch.no_grad()
def test_256_different_adapters_in_one_batch(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row's logits are those of the base with that adapter's updates added to its weights: 1e-5, one pass."""
    bank, generator = bank_of(shelf, native=True), torch.Generator().manual_seed(2)
    plain = fresh()
    state, layers = plain.state_dict(), [n for n in bank.batch.slots if n.startswith("blocks.")]
    rows = []
    for n in range(COUNT):
        updates = {}
        for name in layers:
            out, inputs = state[f"{name}.weight"].shape
            a = torch.randn(8, inputs, generator=generator) / inputs**0.5
            updates[name] = lora.Update(a, 0.2 * torch.randn(out, 8, generator=generator), 16.0)
        rows.append(Adapter(f"{n}", updates))
    tokens = torch.randint(0, small.VOCAB, (COUNT, 3), generator=generator)
    cache = Store.like(plain, 1 + COUNT).view(torch.arange(1, 1 + COUNT)[:, None])
    with counted(bank.module, monkeypatch) as calls, bank.using(rows):
        got = bank.module(tokens, positions=torch.arange(3).expand(COUNT, -1), cache=cache)
    assert calls == [COUNT] or kernel.library() is None
    worst, moved = 0.0, 0.0
    for n, adapter in enumerate(rows):
        merged = {f"{name}.weight": state[f"{name}.weight"] + u.scale * u.b @ u.a
                  for name, u in adapter.updates.items()}
        want = torch.func.functional_call(plain, {**state, **merged}, (tokens[n:n + 1],))
        worst = max(worst, float((got[n] - want[0]).abs().max()))
        moved = max(moved, float((got[n] - plain(tokens[n:n + 1])[0]).abs().max()) if n < 3 else 0.0)
    assert worst <= 1e-5 and moved > 0.1


@pytest.mark.parametrize("exact", [True, False])
def test_texts_of_many_adapters_are_written_together(shelf: Path, exact: bool) -> None:
    """The engine: what each adapter writes alone, though places are few and the same prompt is asked of all."""
    bank = bank_of(shelf, native=not exact, places=3)
    made = Engine(bank.module, CODEC, Settings(exact=exact, rows=8), bank)
    heard = {}
    for name in ["", *(f"a{n}" for n in range(6))]:
        one, heard[name] = ask([5, 9, 13] * 12, Sampling(length=6), adapter=name)
        made.submit(one)
    drain(made)
    assert bank.evictions >= 3 and all(not a.users for a in bank.kept.values())
    for name, said in heard.items():
        module = alone(shelf, name) if name else fresh()
        single = Engine(module, CODEC, Settings(exact=True))
        one, want = ask([5, 9, 13] * 12, Sampling(length=6))
        single.submit(one)
        drain(single)
        assert said.tokens() == want.tokens() and isinstance(said[-1], Done)
        got, alike = ([t.logprob for e in some if isinstance(e, Piece) for t in e.tokens] for some in (said, want))
        assert got == (alike if exact else pytest.approx(alike, abs=1e-4))
    assert len({tuple(said.tokens()) for said in heard.values()}) > 3


@pytest.mark.parametrize("exact", [True, False])
def test_an_adapter_of_the_head_is_served(tmp_path: Path, exact: bool) -> None:
    """PEFT's target_modules may name lm_head: its rows have its logits, others the base's."""
    module = lora.apply(fresh(), rank=4, where="head|.*[.]down")
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith(".b"):
                p.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    files.save(tmp_path / "shelf" / "head", module, "llama", hf.identity("llama", fresh()))
    bank = bank_of(tmp_path / "shelf", native=not exact)
    made, heard = Engine(bank.module, CODEC, Settings(exact=exact), bank), []
    for name in ("head", ""):
        one, said = ask([5, 9, 13], Sampling(length=4), adapter=name)
        made.submit(one)
        heard.append(said)
    drain(made)
    for said, alone_ in zip(heard, (module, fresh()), strict=True):
        single = Engine(alone_.eval(), CODEC, Settings(exact=True))
        one, want = ask([5, 9, 13], Sampling(length=4))
        single.submit(one)
        drain(single)
        got, alike = ([t.logprob for e in some if isinstance(e, Piece) for t in e.tokens] for some in (said, want))
        assert said.tokens() == want.tokens() and got == (alike if exact else pytest.approx(alike, abs=1e-4))
    assert heard[0].tokens() != heard[1].tokens()


def test_an_adapter_is_there_in_50_ms_and_strangers_are_refused(shelf: Path, tmp_path: Path) -> None:
    bank = bank_of(shelf, native=True)
    bank.hold("a0")                                            # the first one wraps the layers
    start = time.perf_counter()
    adapter = bank.hold("a1")
    assert adapter is not None and adapter.laid(bank.batch.slots, torch.bfloat16).rank == 8
    assert time.perf_counter() - start < 0.05
    with pytest.raises(RequestError, match="did you mean a1"):
        bank.hold("a111")
    with pytest.raises(RequestError, match="trained on the base"):
        Bank(fresh(), "llama", "another", shelf).hold("a0")
    dora = lora.apply(fresh(), rank=2, dora=True)
    files.save(tmp_path / "dora", dora, "llama", hf.identity("llama", fresh()))
    with pytest.raises(RequestError, match="serve it alone"):
        Bank(fresh(), "llama", hf.identity("llama", fresh()), tmp_path).hold("dora")
