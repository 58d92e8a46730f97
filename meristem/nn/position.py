"""How attention learns about order: rotary position embedding (RoPE), Su et al. 2021, https://arxiv.org/abs/2104.09864."""
import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary(positions: Int[Tensor, "*B T"], head_dim: int, theta: float = 10_000.0) -> Float[Tensor, "2 *B T K"]:
    """cos and sin of every (position, pair) angle, each pair's angle twice (half-split layout, as in Hugging Face)."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angle = positions[..., None].float() * frequency
    angle = torch.cat([angle, angle], -1)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Float[Tensor, "B T N K"], table: Float[Tensor, "2 *B T K"]) -> Float[Tensor, "B T N K"]:
    """Turn each (i, i + K/2) pair of a query or key by its position's angle; computed in fp32, returned in x's type."""
    cos, sin = table[0].unsqueeze(-2), table[1].unsqueeze(-2)
    left, right = x.float().chunk(2, -1)
    return (torch.cat([left, right], -1) * cos + torch.cat([-right, left], -1) * sin).to(x.dtype)
