"""Served log-probabilities are the trainer's: batch 1, 7 and 32, cached or not, with 16 adapters mixed and without.

The trainer's are those of its forward over whole training rows (`CHUNK` places or a multiple), with no cache. With
`exact`, float32 has no difference at all (where a product of this machine does not depend on its number of rows), bf16
at most 1e-3.
"""
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meristem.generate.sampling import Sampling
from meristem.nn.attention import CHUNK
from meristem.nn.paged import ROWS
from meristem.serve.engine import Engine
from meristem.serve.jobs import Piece, Token
from meristem.serve.settings import Settings
from tests.generate import small
from tests.nn.test_paged import rows_count
from tests.serve.test_adapters import alone, bank_of, shelf  # noqa: F401, a fixture
from tests.serve.test_engine import CODEC, ask, drain

HALF = 1e-3                             # of bf16, nats


def written(engine: Engine, names: list[str], again: bool) -> list[tuple[list[int], list[Token]]]:
    """The prompt and the tokens of one text a name; `again`: of the second time, when its beginning is in the cache."""
    prompts, out = small.prompts(len(names), longest=90), []
    for turn in range(1 + again):
        heard = []
        for prompt, name in zip(prompts, names, strict=True):
            one, said = ask(prompt, Sampling(length=5, temperature=1.0, seed=turn), adapter=name)
            engine.submit(one)
            heard.append(said)
        drain(engine)
        out = [(prompt.tolist(), [t for e in said if isinstance(e, Piece) for t in e.tokens])
               for prompt, said in zip(prompts, heard, strict=True)]
    assert not again or engine.counts.found
    return out


@torch.no_grad()
def trained(module: Any, prompt: list[int], tokens: list[Token]) -> np.ndarray:
    """log p of each token by the trainer's forward."""
    ids = [*prompt, *(t.id for t in tokens)]
    row = torch.tensor([[*ids, *[0] * (-len(ids) % CHUNK)]]).expand(ROWS, -1)
    logits = module(row)[0, len(prompt) - 1:len(ids) - 1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[len(prompt):])[:, None])[:, 0].numpy()


@pytest.mark.parametrize("again", [False, True], ids=["read", "cached"])
@pytest.mark.parametrize("mixed", [False, True], ids=["base", "adapters"])
@pytest.mark.parametrize("batch", [1, 7, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_what_is_served_is_what_was_trained(dtype: torch.dtype, batch: int, mixed: bool, again: bool,
                                            shelf: Path) -> None:  # noqa: F811
    bank = bank_of(shelf, native=False)
    bank.module.to(dtype)
    names = [f"a{n % 16}" if mixed else "" for n in range(batch)]
    engine = Engine(bank.module, CODEC, Settings(exact=True, rows=32), bank)
    made, worst = written(engine, names, again), 0.0
    modules = {name: (alone(shelf, name) if name else bank_of(shelf, native=False).module).to(dtype)
               for name in set(names)}
    for name, (prompt, tokens) in zip(names, made, strict=True):
        got = np.array([t.logprob for t in tokens])
        worst = max(worst, float(np.abs(got - trained(modules[name], prompt, tokens)).max(initial=0.0)))
    assert worst <= (HALF if dtype == torch.bfloat16 else 1e-5)
    assert worst < 1e-6 or dtype == torch.bfloat16 or rows_count()
