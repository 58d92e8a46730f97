"""DALL-E's decoder: places, cache, files, and the published layout."""
from pathlib import Path

import pytest
import torch

from meristem.hub import hf
from meristem.models.dalle import SIZES, Config, Model
from tests.models import parity

SMALL = {"vocab": 50, "codes": 30, "text": 16, "grid": 8, "dim": 32, "layers": 2, "heads": 4}


def test_the_published_layout() -> None:
    c = SIZES["dalle-12b"]                                     # 256 words of 16,384 and 32 x 32 tokens of 8,192
    assert (c.vocab, c.codes, c.text, c.grid, c.context, c.layers, c.dim) == (16384, 8192, 256, 32, 1280, 64, 62 * 64)
    with torch.device("meta"):
        count = sum(p.numel() for p in Model(c).parameters())
    assert 11.9e9 < count < 12.4e9                             # "12-billion parameter"


def test_the_cache_and_the_past() -> None:
    model = parity.ours("dalle", **SMALL)[1]
    rows = parity.ids(80).clamp(min=1)                         # 0 closes a caption
    parity.check_cache(model, rows)
    parity.check_causal(model, rows, 80)


@torch.no_grad()
def test_a_cell_is_told_its_row_and_column() -> None:
    model = parity.ours("dalle", **SMALL)[1]
    where = model.where(torch.arange(80))
    assert torch.equal(where[:16], model.place.weight)
    at = 16 + 3 * 8 + 5
    assert torch.equal(where[at], model.row.weight[3] + model.column.weight[5])


@torch.no_grad()
def test_padding_is_told_from_the_end_of_the_caption() -> None:
    """After the first end token each further one is padding, of its own embedding at every place."""
    model = parity.ours("dalle", **SMALL, end=7)[1]
    given = []
    model.embed.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    rows = parity.ids(80).clamp(min=8)
    rows[0, 3:16] = 7
    model(rows)
    assert given[0][0, :16].tolist() == [*rows[0, :3].tolist(), 7, *range(84, 96)]
    assert torch.equal(given[0][1], rows[1]) and torch.equal(given[0][0, 16:], rows[0, 16:])


@torch.no_grad()
def test_written_and_read(tmp_path: Path) -> None:
    config, model = parity.ours("dalle", **SMALL)
    hf.save(tmp_path, "dalle", config, model)
    loaded = hf.load(tmp_path)
    assert (loaded.family, loaded.config) == ("dalle", config)
    assert torch.equal(loaded.module(parity.ids(80)), model(parity.ids(80)))
    with pytest.raises(ValueError, match="multiple of heads"):
        Config(dim=30, heads=4)
