"""Many adapters on one base: each row of a batch is its own adapter's, to the bit in fp32 with torch's products."""
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.adapt import files, lora
from meristem.core.errors import RequestError
from meristem.generate.sampling import Sampling
from meristem.hub import hf
from meristem.nn.attention import CHUNK
from meristem.nn.paged import ROWS, Store
from meristem.serve.adapters import Bank
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


@pytest.mark.parametrize("native", [False, True])
@torch.no_grad()
def test_each_row_of_a_mixed_batch_is_its_adapters_own(shelf: Path, native: bool) -> None:
    """16 adapters, the base among them, one batch; cached. Torch's products: no difference at all."""
    bank = bank_of(shelf, native)
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


def test_256_different_adapters_in_one_batch(shelf: Path) -> None:
    """256 rows, each with numbers of its own, against each adapter's own sum (no row sees another's)."""
    bank = bank_of(shelf, native=True)
    layer = bank.hold("a0") and bank.module.get_submodule("blocks.0.mlp.up")
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(COUNT, 1, 32, generator=generator)
    rows = []
    for n in range(COUNT):
        a, b = torch.randn(8, 32, generator=generator), torch.randn(layer.base.out_features, 8, generator=generator)
        adapter = bank.kept["a0"].__class__(f"{n}", {layer.name: lora.Update(a, b, 16.0)})
        rows.append(adapter)
    with torch.no_grad(), bank.using(rows):
        got = layer(x)
    for n, adapter in enumerate(rows):
        u = adapter.updates[layer.name]
        want = layer.base(x[n]) + u.scale * (x[n] @ u.a.T) @ u.b.T
        assert float((got[n] - want).detach().abs().max()) <= 1e-5 * float(want.detach().abs().max())


def test_texts_of_many_adapters_are_written_together(shelf: Path) -> None:
    """The engine: what each adapter writes alone, though places are few and the same prompt is asked of all."""
    bank = bank_of(shelf, native=False, places=3)
    made = Engine(bank.module, CODEC, Settings(exact=True, rows=8), bank)
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
        assert [t.logprob for e in said if isinstance(e, Piece) for t in e.tokens] == \
            [t.logprob for e in want if isinstance(e, Piece) for t in e.tokens]
    assert len({tuple(said.tokens()) for said in heard.values()}) > 3


def test_an_adapter_is_there_in_50_ms_and_strangers_are_refused(shelf: Path, tmp_path: Path) -> None:
    bank = bank_of(shelf, native=True)
    bank.hold("a0")                                            # the first one wraps the layers
    start = time.perf_counter()
    bank.hold("a1")
    assert time.perf_counter() - start < 0.05
    with pytest.raises(RequestError, match="did you mean a1"):
        bank.hold("a111")
    with pytest.raises(RequestError, match="trained on the base"):
        Bank(fresh(), "llama", "another", shelf).hold("a0")
    dora = lora.apply(fresh(), rank=2, dora=True)
    files.save(tmp_path / "dora", dora, "llama", hf.identity("llama", fresh()))
    with pytest.raises(RequestError, match="serve it alone"):
        Bank(fresh(), "llama", hf.identity("llama", fresh()), tmp_path).hold("dora")
