"""Text to text: pairs packed into a row cost what each costs alone, behind the model's own start token."""
import pytest
import torch

from meristem.core.errors import RequestError
from meristem.models import llama, t5
from meristem.objectives.seq2seq import Seq2Seq
from tests.models import parity


def objective() -> Seq2Seq:
    _, model = parity.ours("t5", vocab=50, dim=16, layers=1, heads=2, head_dim=8, hidden=32, start=3)
    return Seq2Seq(model)


def pair(source: list[int], target: list[int]) -> dict:
    return {"source": torch.tensor([source]), "source_segments": torch.zeros(1, len(source), dtype=torch.long),
            "tokens": torch.tensor([[0, *target]]), "weight": torch.ones(1, len(target))}


def test_a_packed_row_costs_what_its_pairs_cost_alone() -> None:
    o = objective()
    a, b = pair([5, 6, 7, 0], [8, 9, 0]), pair([10, 0], [11, 0])
    packed = {"source": torch.tensor([[5, 6, 7, 0, 10, 0, 0, 0]]),
              "source_segments": torch.tensor([[0, 0, 0, 0, 1, 1, -1, -1]]),
              "tokens": torch.tensor([[0, 8, 9, 0, 0, 11, 0, 0]]),
              "segments": torch.tensor([[0, 0, 0, 0, 1, 1, 1]]),
              "weight": torch.tensor([[1.0, 1, 1, 0, 1, 1, 0]])}
    made = o.prepare(packed)
    assert made["tokens"].tolist() == [[3, 8, 9, 0, 3, 11, 0, 0]] and packed["tokens"][0, 0] == 0
    loss = o(made)[0]
    torch.testing.assert_close(loss, sum(o(o.prepare(x))[0] for x in (a, b)), rtol=1e-5, atol=1e-5)
    assert float(o.weight(made)) == 5
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in o.parameters())


def test_it_asks_for_an_encoder_decoder() -> None:
    with pytest.raises(RequestError, match="set model.name=t5"):
        Seq2Seq(llama.Model(llama.Config(vocab=20, dim=16, layers=1, heads=2)))
    assert Seq2Seq(t5.Model(t5.Config(vocab=20, dim=16, layers=1, heads=2))).start == 0
