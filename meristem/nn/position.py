"""How attention learns about order: rotary position embedding (RoPE), Su et al. 2021, https://arxiv.org/abs/2104.09864.

A rotary table covers the first `rotary` numbers of each head; a family that turns only a part of its heads (GPT-NeoX)
makes a narrower table, and the rest passes. Pairs are (i, i + K/2), as in Hugging Face's Llama, or (2i, 2i + 1) with
`interleaved` (GPT-J, Llama 4).
"""
import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary(positions: Int[Tensor, "*B T"], rotary_dim: int, theta: float = 10_000.0) -> Float[Tensor, "2 *B T F"]:
    """cos and sin of every (position, pair) angle, each pair's angle twice (half-split layout)."""
    frequency = theta ** (-torch.arange(0, rotary_dim, 2, device=positions.device).float() / rotary_dim)
    angle = positions[..., None].float() * frequency
    angle = torch.cat([angle, angle], -1)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Float[Tensor, "B T N K"], table: Float[Tensor, "2 *B T F"],
           interleaved: bool = False) -> Float[Tensor, "B T N K"]:
    """Turn each pair of a query or key by its position's angle; computed in fp32, returned in x's type."""
    cos, sin = table[0].unsqueeze(-2), table[1].unsqueeze(-2)
    turned, rest = x[..., :table.shape[-1]].float(), x[..., table.shape[-1]:]
    if interleaved:
        left, right = turned[..., 0::2], turned[..., 1::2]
        c, s = cos[..., :left.shape[-1]], sin[..., :left.shape[-1]]
        turned = torch.stack([left * c - right * s, right * c + left * s], -1).flatten(-2)
    else:
        left, right = turned.chunk(2, -1)
        turned = torch.cat([left, right], -1) * cos + torch.cat([-right, left], -1) * sin
    return torch.cat([turned.to(x.dtype), rest], -1) if rest.shape[-1] else turned.to(x.dtype)
