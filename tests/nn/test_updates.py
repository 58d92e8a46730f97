"""Low-rank updates in the native kernel, each row with its own: one layer, and a whole step beside merged weights."""
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from meristem.models.llama import Model
from meristem.nn import kernel
from meristem.nn.decode import Step, decoding
from meristem.nn.linear import Linear
from meristem.nn.updates import PARTS, Rows, Updates
from tests.nn.test_decode import model_of

pytestmark = pytest.mark.skipif(kernel.library() is None, reason=kernel.why())
One = tuple[Tensor, Tensor, float]


def update(rank: int, inputs: int, outputs: int, seed: int) -> One:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rank, inputs, generator=generator) / inputs**0.5,
            torch.randn(outputs, rank, generator=generator) / rank**0.5, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (37, 50)])
@torch.no_grad()
def test_each_row_of_a_layer_has_its_own_update(dtype: torch.dtype, inputs: int, outputs: int) -> None:
    ranks = (1, 3, 8, 16, 0, 5, 40)
    some = [[None, update(rank, inputs, outputs, rank)] if rank else None for rank in ranks]
    rows = Rows([Updates(one, dtype) if one else None for one in some])
    x, y = torch.randn(len(ranks), 2, inputs).to(dtype), torch.randn(len(ranks), 2, outputs).to(dtype)
    got = rows.add(x, y, 1)
    assert got is not None and got.dtype == dtype
    for i, one in enumerate(some):
        want = y[i]
        if one:
            a, b, scale = one[1]
            want = y[i] + scale * F.linear(F.linear(x[i], a.to(dtype)), b.to(dtype))
        most = 1e-5 if dtype == torch.float32 else 2**-6       # bf16: A x rounds the other way now and then
        assert float((got[i] - want).abs().max()) <= most * float(want.abs().max())
    assert torch.equal(got[4], y[4]) and torch.equal(rows.add(x[:, 0], y[:, 0], 1), got[:, 0])
    assert torch.equal(rows.add(x, y, 0), y)                   # nothing at that slot


def adapters(model: Model, count: int) -> list[list[One | None]]:
    """Updates of every layer, of some layers, of other ranks."""
    out = []
    for n in range(count):
        names = [f"blocks.{i}.{part}" for i in range(len(model.blocks)) for part in PARTS]
        layers = [model.get_submodule(name) for name in names]
        assert all(isinstance(m, Linear) for m in layers)
        out.append([update(1 + 3 * n, m.in_features, m.out_features, 100 * n + k) if n != 1 or k % 3 else None
                    for k, m in enumerate(layers)])
    return out


@torch.no_grad()
def stepped(model: Model, tokens: Tensor, rows: Sequence[Updates | None], each: int = 1) -> Tensor:
    """Features of every place, read `each` tokens at a time by the step, each text with its own updates."""
    cache, out = model.caches(len(tokens), tokens.shape[1]), []
    with decoding(model):
        assert isinstance(model.native, Step)
        model.native.rows = Rows(rows)
        for start in range(0, tokens.shape[1], each):
            some = tokens[:, start:start + each]
            places = torch.arange(start, start + some.shape[1]).expand(len(tokens), -1)
            out.append(model.features(some, positions=places, cache=cache))
    return torch.cat(out, 1)


@torch.no_grad()
def merged(kind: str, one: Sequence[One | None] | None, tokens: Tensor) -> Tensor:
    """The same of a model that has the updates in its weights."""
    model = model_of(kind)
    for k, found in enumerate(one or ()):
        if found:
            a, b, scale = found
            model.get_submodule(f"blocks.{k // len(PARTS)}.{PARTS[k % len(PARTS)]}").weight.add_(scale * b @ a)
    return model.features(tokens)


@pytest.mark.parametrize("kind", ["plain", "qwen", "odd", "biases"])
def test_a_step_with_updates_is_each_merged_model(kind: str) -> None:
    model, tokens = model_of(kind), torch.randint(0, 67, (5, 9))
    every = [*adapters(model, 3), None]
    packed = [Updates(one, torch.float32) if one else None for one in every]
    whose = [2, 0, 3, 1, 2]
    got = stepped(model, tokens, [packed[i] for i in whose], 2)
    for i, which in enumerate(whose):
        want = merged(kind, every[which], tokens[i:i + 1])
        assert float((got[i] - want[0]).abs().max()) <= 1e-5 * float(want.abs().max()), (i, which)
    assert float((got[0] - merged(kind, None, tokens[:1])[0]).abs().max()) > 0.1


@pytest.mark.skipif(kernel.level() < max(kernel.LEVELS), reason="this machine has no products of bf16 pairs")
def test_in_bf16_rows_beside_it_and_threads_do_not_change_a_bit() -> None:
    model, tokens, before = model_of("plain", torch.bfloat16), torch.randint(0, 67, (17, 4)), torch.get_num_threads()
    one, other, third = (Updates(some, torch.bfloat16) for some in adapters(model, 3))
    rows = [one, other, None, third] * 4 + [one]
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(stepped(model, tokens, rows))
        torch.set_num_threads(1)
        for i in (0, 1, 2, 3, 16):
            assert torch.equal(stepped(model, tokens[i:i + 1], rows[i:i + 1], 2)[0], found[0][i])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert not torch.equal(found[0], stepped(model, tokens, [None] * 17))
