"""Parameter counts of published models, to the last one, built on the meta device: shapes without memory.

A row: (family, name in its SIZES, parameters with tied tensors once). Counts are recomputed from the papers' tables and
agree with the rounded numbers that the papers print.
"""
import pytest

from meristem.core import registry
from meristem.core.config import Part, to_dict
from meristem.plan.cost import on_meta

COUNTS = [
    ("llama", "llama-7b", 6_738_415_616),                      # LLaMA table 2: 6.7B, 13.0B, 32.5B, 65.2B
    ("llama", "llama-13b", 13_015_864_320),
    ("llama", "llama-33b", 32_528_943_616),
    ("llama", "llama-65b", 65_285_660_672),
    ("llama", "llama2-70b", 68_976_648_192),                   # Llama 2's model card
]


@pytest.mark.parametrize(("family", "size", "parameters"), COUNTS, ids=[row[1] for row in COUNTS])
def test_a_published_size_has_exactly_so_many_parameters(family: str, size: str, parameters: int) -> None:
    module = on_meta(Part(family, to_dict(registry.load("models", family).SIZES[size])))
    assert all(p.is_meta for p in module.parameters())
    assert sum(p.numel() for p in module.parameters()) == parameters
