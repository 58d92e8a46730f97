"""Relative biases: which distances share a bucket, and that the table stays in fp32."""
import torch

from meristem.nn.linear import compute_in
from meristem.nn.relative import RelativeBias, bucket


def test_near_distances_are_single_and_far_ones_share() -> None:
    away = torch.arange(0, 1000)
    back = bucket(-away, 32, 128, causal=True)
    assert back[:16].tolist() == list(range(16)) and (back.diff() >= 0).all()
    assert set(back[128:].tolist()) == {31} and back[112] == 30 and back[113] == 31    # 16 * 8**(15/16) = 112.4
    assert set(bucket(away, 32, 128, causal=True).tolist()) == {0}
    both = bucket(torch.cat([-away[1:], away[1:]]), 32, 128)
    before, after = both.split(999)
    assert torch.equal(after, before + 16) and set(both.tolist()) == set(range(32)) - {0, 16}


def test_a_bias_depends_on_the_distance_alone_and_stays_fp32() -> None:
    bias = compute_in(RelativeBias(3, causal=True), torch.bfloat16)
    at = torch.arange(20)
    table = bias(at, at)
    assert table.shape == (3, 20, 20) and table.dtype == torch.float32
    torch.testing.assert_close(table[:, 5, 2], table[:, 9, 6])
    rows = bias(torch.tensor([[19], [7]]), at.expand(2, -1))
    assert torch.equal(rows[0], table[:, 19:]) and torch.equal(rows[1], table[:, 7:8])
