"""Feed-forward layers: the gated form of Shazeer 2020, https://arxiv.org/abs/2002.05202 (SwiGLU)."""
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.nn.linear import Linear


class GatedMLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, dim: int, hidden: int, bias: bool = False):
        super().__init__()
        self.gate, self.up, self.down = Linear(dim, hidden, bias), Linear(dim, hidden, bias), Linear(hidden, dim, bias)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """[..., D] -> [..., D]."""
        return self.down(F.silu(self.gate(x)) * self.up(x))
