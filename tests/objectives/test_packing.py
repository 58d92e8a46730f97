"""Packed documents that do not see each other cost what they cost one by one, in every family that takes positions."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from meristem.core.types import Batch
from meristem.data.loader import batch_of, separate
from meristem.objectives.next_token import NextToken
from tests.models import parity

END, CONTEXT = 0, 48
SMALL = {"vocab": 20, "context": CONTEXT, "dim": 32, "layers": 2, "heads": 4}
MODELS: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {"groups": 2, "qk_norm": True}),
    "mistral": ("llama", {"window": 5}),
    "qwen2": ("llama", {"window": 6, "windowed": (1,), "bias": True}),
    "smollm3": ("llama", {"nope": (1,), "scaling": {"kind": "yarn", "factor": 4.0, "original": 8}}),
    "gpt2": ("gpt2", {}),
    "neox": ("neox", {}),
    "palm": ("palm", {}),
    "starcoder2": ("starcoder2", {}),
    "mixtral": ("mixtral", {"hidden": 48, "experts": 4}),
    "llama4": ("llama4", {"layers": 4, "groups": 2, "head_dim": 8, "hidden": 48, "dense_hidden": 48, "experts": 4,
                          "chunk": 6}),
}


def model_of(name: str) -> nn.Module:
    family, fields = MODELS[name]
    return parity.ours(family, **{**SMALL, **fields})[1]


@pytest.fixture(scope="module", params=MODELS)
def objective(request) -> NextToken:
    return NextToken(model_of(request.param))


def pieces(batch: Batch) -> list[Batch]:
    """Each document of a batch as a batch of its own: its inputs, the token after them, its weights."""
    found = []
    for tokens, weight in zip(batch["tokens"], batch["weight"], strict=True):
        starts = sorted({0, *(i for i, token in enumerate(tokens[:-1].tolist()) if token == END)})
        found += [{"tokens": tokens[None, a:b + 1], "weight": weight[None, a:b]}
                  for a, b in zip(starts, [*starts[1:], len(weight)], strict=True)]
    return found


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_a_packed_loss_is_the_sum_of_its_documents_losses(objective, data) -> None:
    length = data.draw(st.integers(1, CONTEXT))
    rows = data.draw(st.lists(st.lists(st.integers(0, 19) | st.just(END), min_size=length + 1, max_size=length + 1),
                              min_size=1, max_size=3))
    weights = torch.rand(len(rows), length).round(decimals=1).numpy()
    batch = batch_of(np.array(rows, dtype=np.int64), weights)
    with torch.no_grad():
        packed, _ = objective(separate(batch, END))
        alone = sum(objective(piece)[0] for piece in pieces(batch))
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


def test_joined_documents_do_see_each_other(objective) -> None:
    batch = batch_of(np.array([[3, 4, END, 5, 6, 7, END, 8, 9]]))
    with torch.no_grad():
        assert abs(objective(batch)[0] - objective(separate(batch, END))[0]) > 1e-4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from([END, 1, 2]), min_size=9, max_size=9), min_size=1, max_size=3))
def test_segments_count_the_ends_and_positions_start_again_at_each(rows) -> None:
    made = separate(batch_of(np.array(rows, dtype=np.int64)), END)
    for row, segments, positions in zip(rows, made["segments"].tolist(), made["positions"].tolist(), strict=True):
        want = [row[:i + 1].count(END) for i in range(8)]
        assert segments == want
        assert positions == [i - want.index(want[i]) for i in range(8)]


def test_gradients_are_those_of_the_documents_too() -> None:
    objective = NextToken(model_of("llama").train())
    batch = batch_of(np.random.default_rng(0).integers(0, 6, (3, CONTEXT + 1)))
    objective(separate(batch, END))[0].backward()
    packed = [p.grad.clone() for p in objective.parameters()]
    objective.zero_grad()
    sum(objective(piece)[0] for piece in pieces(batch)).backward()
    for got, p in zip(packed, objective.parameters(), strict=True):
        torch.testing.assert_close(got, p.grad, rtol=1e-4, atol=1e-4)
