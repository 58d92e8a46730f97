"""trainer.recompute_blocks: the same bits from half the memory, each block computed twice."""
import pytest
import torch

from meristem.core import registry
from meristem.core.run import Train
from meristem.nn.linear import compute_in
from meristem.objectives.base import make
from meristem.train.processes import One
from meristem.train.trainer import Trainer, recompute_blocks
from tests.train.test_many import FAMILIES, source


def losses(family: str, recompute: bool, dtype: torch.dtype) -> tuple[list[float], int]:
    """Losses and norms of six steps, and how often the first block's feed-forward layer ran."""
    entry = registry.load("models", family)
    torch.manual_seed(0)
    objective = make("next_token", compute_in(entry.Model(entry.Config(**FAMILIES[family])), dtype), {})
    calls: list[int] = []
    objective.model.blocks[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    if recompute:
        recompute_blocks(objective)
    config = Train(steps=6, batch=8, micro=4, context=16, warmup=2, lr=1e-2, dtype="float32")
    trainer = Trainer(objective, lambda step: source(step, micro=4), config, processes=One())
    numbers: list[float] = []
    trainer.hooks.append(lambda t, facts: numbers.extend((facts["loss"], facts["grad_norm"])))
    trainer.fit()
    return numbers, len(calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_the_same_bits_and_twice_the_calls(family, dtype):
    plain, again = losses(family, False, dtype), losses(family, True, dtype)
    assert plain[0] == again[0] and again[1] == 2 * plain[1]
