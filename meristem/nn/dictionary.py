"""A sparse autoencoder: activations as sums of few directions of a dictionary that is larger than their width.

Bricken et al. 2023, "Towards monosemanticity", https://transformer-circuits.pub/2023/monosemantic-features: codes are
relu(W (x - b) + c), the reconstruction is their weighted sum of directions of length 1, plus b.
"""
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Width of the activations and how many directions."""

    width: int
    size: int


class Dictionary(nn.Module):
    """Activations [B, E] -> codes [B, S] and back."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        directions = nn.functional.normalize(torch.randn(c.size, c.width), dim=-1)
        self.directions = nn.Parameter(directions)             # [S, E]
        self.encoder = nn.Parameter(directions.T.clone())      # [E, S]
        self.offset, self.bias = nn.Parameter(torch.zeros(c.width)), nn.Parameter(torch.zeros(c.size))

    def encode(self, x: Float[Tensor, "B E"]) -> Float[Tensor, "B S"]:
        """Codes, not below 0."""
        return ((x - self.offset) @ self.encoder + self.bias).relu()

    def decode(self, codes: Float[Tensor, "B S"]) -> Float[Tensor, "B E"]:
        """The sum of the directions."""
        return codes @ self.directions + self.offset

    def forward(self, activations: Float[Tensor, "B E"]) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B S"]]:
        """The reconstruction and its codes."""
        codes = self.encode(activations)
        return self.decode(codes), codes
