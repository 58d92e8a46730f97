"""Pages of keys and values: the bits of the trainer's forward, whatever the batch, the pieces, the order of pages."""
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from meristem.models.llama import Config, Model
from meristem.nn.attention import CHUNK
from meristem.nn.decode import decoding
from meristem.nn.paged import PAGE, ROWS, Store, pageable

CONTEXT = 2 * CHUNK


def small(**more: int) -> Model:
    """A llama whose every weight is moved, because fresh blocks are the identity."""
    torch.manual_seed(0)
    model = Model(Config(vocab=61, context=CONTEXT, dim=32, layers=2, heads=4, groups=2, **more)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return model


def rows_count() -> bool:
    """Whether this machine's products of ROWS rows have other bits than those of many: then nothing can be exact."""
    x, w = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)), small().head.weight
    return not torch.equal(linear(x, w)[:ROWS], linear(x[:ROWS], w))


@pytest.mark.parametrize("batch", [1, 7, 32])
@torch.no_grad()
def test_cached_in_pages_has_the_bits_of_the_forward_without_a_cache(batch: int) -> None:
    model, rng = small(**({"window": 40} if batch == 7 else {})), np.random.default_rng(batch)
    tokens = torch.from_numpy(rng.integers(0, 61, (batch, CONTEXT)))
    want, each = model(tokens), CONTEXT // PAGE
    table = torch.from_numpy(1 + rng.permutation(batch * each)).view(batch, each)
    store, lengths, worst = Store.like(model, 1 + batch * each), rng.integers(CHUNK - 12, CHUNK + 12, batch), 0.0

    def read(rows: Tensor, places: Tensor) -> Tensor:
        return model(tokens[rows].gather(1, places), positions=places, cache=store.view(table[rows]))

    for row in range(batch):                                   # the prompts, each in pieces of its own
        at = 0
        while at < lengths[row]:
            stop = min(at + int(rng.integers(1, 100)), int(lengths[row]), (at // CHUNK + 1) * CHUNK)
            places = torch.arange(at, max(stop, at + ROWS)).clamp(max=stop - 1)[None]
            got = read(torch.tensor([row]), places)
            worst = max(worst, float((got[0, :stop - at] - want[row, at:stop]).abs().max()))
            at = stop
    whose = torch.arange(max(ROWS, batch)).clamp(max=batch - 1)
    for step in range(3):                                      # then a token of each, together
        places = torch.from_numpy(lengths + step)[whose][:, None]
        got = read(whose, places)[:batch, 0]
        worst = max(worst, float((got - want[torch.arange(batch), torch.from_numpy(lengths + step)]).abs().max()))
    assert worst < 1e-5
    assert worst == 0 or rows_count()


def test_what_can_lie_in_pages() -> None:
    assert pageable(small())
    assert not pageable(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [0, 21])
@torch.no_grad()
def test_the_native_kernel_reads_pages_where_they_are(dtype: torch.dtype, window: int) -> None:
    """The fused step and its attention alone, over scattered pages, against the torch path; rows do not matter."""
    model = small(**({"window": window} if window else {})).to(dtype)
    rng, batch, each = np.random.default_rng(0), 5, CONTEXT // PAGE
    tokens = torch.from_numpy(rng.integers(0, 61, (batch, 60)))
    table = torch.from_numpy(1 + rng.permutation(batch * each)).view(batch, each)
    lengths = torch.tensor([3, 17, 32, 45, 58])
    stores = [Store.like(model, 1 + batch * each) for _ in range(3)]
    for store in stores:
        model(tokens, positions=torch.arange(60).expand(batch, -1), cache=store.view(table))
    stores[1].native = True
    step, places = tokens.gather(1, lengths[:, None]), lengths[:, None]
    plain, seen = (model(step, positions=places, cache=store.view(table)).float() for store in stores[:2])
    with decoding(model):
        fused = model(step, positions=places, cache=stores[2].view(table[:, :4])).float()
        single = model(step[3:4], positions=places[3:4], cache=stores[2].view(table[3:4, :4])).float()
    most = 2e-5 if dtype == torch.float32 else 0.15
    assert float((plain - seen).abs().max()) < most and float((plain - fused).abs().max()) < most
    assert torch.equal(single[0], fused[3])
