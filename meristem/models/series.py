"""A patch transformer for series of numbers that says how sure it is: quantiles of the next values.

Nie et al. 2022 (PatchTST), https://arxiv.org/abs/2211.14730, section 3: a stretch of a series is a token; Kim et al.
2022 (RevIN), https://openreview.net/forum?id=cGDAkQo1C0p: every window is brought to mean 0 and deviation 1 and its
forecast back; quantiles as in Das et al. 2023 (TimesFM), https://arxiv.org/abs/2310.10688, and Chronos-Bolt. Unknown
numbers (NaN) are 0 with a mask beside them. Quantiles never cross: each is the one below it plus something positive.

    model = Model(Config(context=96, horizon=24))
    model(window)                                              # [B, 96] -> [B, 24, quantiles], in the window's units
"""
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.names import FieldMap, Kind, NameMap
from meristem.nn.attention import Attention, Reach
from meristem.nn.linear import Entrance, Linear
from meristem.nn.mlp import MLP
from meristem.nn.norm import LayerNorm

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FLAT = 1e-5                             # the least deviation of a window, over its largest number


@dataclass(frozen=True)
class Config:
    """The shape: `context` numbers are read in patches of `patch`, `horizon` forecast; hidden 0 means 4 dim."""

    context: int = 512
    horizon: int = 64
    patch: int = 16
    dim: int = 256
    layers: int = 6
    heads: int = 8
    hidden: int = 0
    quantiles: tuple[float, ...] = TENTHS
    eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        if self.context % self.patch or self.dim % self.heads:
            raise ValueError(f"context ({self.context}) must be a multiple of patch ({self.patch}) and dim ({self.dim})"
                             f" of heads ({self.heads})")
        if list(self.quantiles) != sorted(set(self.quantiles)) or not all(0 < q < 1 for q in self.quantiles):
            raise ValueError(f"quantiles rise from above 0 to below 1, not {self.quantiles}")


class Enter(Linear, Entrance):
    """Patches with their masks as vectors, in the type that the network computes in."""

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., 2 patch] -> [..., D]."""
        return super().forward(x.to(self.compute or x.dtype))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, c: Config):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(c.dim, c.eps), LayerNorm(c.dim, c.eps)
        self.attn = Attention(c.dim, c.heads, bias=True, reach=Reach(causal=False))
        self.mlp, self.drop = MLP(c.dim, c.hidden), nn.Dropout(c.dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class Model(nn.Module):
    """A window of a series -> quantiles of what comes next."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.enter = Enter(2 * c.patch, c.dim)
        self.position = nn.Parameter(0.02 * torch.randn(c.context // c.patch, c.dim))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = LayerNorm(c.dim, c.eps)
        self.head = Linear(c.dim * (c.context // c.patch), c.horizon * len(c.quantiles))
        self.initialise()

    def initialise(self) -> None:
        """Matrices Normal(0, fan_in^-0.5), the head near 0: a fresh model forecasts the mean of its window."""
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5 * (0.1 if module is self.head else 1.0))
                nn.init.zeros_(module.bias)

    def scale(self, source: Float[Tensor, "B T"]) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B 1"]]:
        """Mean and deviation of the known numbers of each window; of a flat one the deviation is 1."""
        known = source.isfinite()
        count = known.sum(1, keepdim=True).clamp(min=1)
        plain = source.nan_to_num(0.0)
        mean = plain.sum(1, keepdim=True) / count
        spread = (((plain - mean) * known).square().sum(1, keepdim=True) / count).sqrt()
        flat = spread <= FLAT * plain.abs().amax(1, keepdim=True)
        return mean, torch.where(flat, torch.ones_like(spread), spread)

    def features(self, source: Float[Tensor, "B T"]) -> Float[Tensor, "B P D"]:
        """A normalised vector a patch."""
        c, (mean, spread), known = self.config, self.scale(source), source.isfinite()
        x = torch.where(known, (source.nan_to_num(0.0) - mean) / spread, 0.0)
        given = torch.cat([x.unflatten(1, (-1, c.patch)), known.float().unflatten(1, (-1, c.patch))], -1)
        x = self.enter(given)
        x = x + self.position.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, source: Float[Tensor, "B T"]) -> Float[Tensor, "B H Q"]:
        """Quantiles of each of the next numbers, fp32."""
        c, (mean, spread) = self.config, self.scale(source)
        raw = self.head(self.features(source).flatten(1)).float().unflatten(1, (c.horizon, len(c.quantiles)))
        middle = len(c.quantiles) // 2
        steps = F.softplus(raw)
        up = steps[..., middle + 1:].cumsum(-1)
        down = steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
        best = raw[..., middle:middle + 1]
        return torch.cat([best - down, best, best + up], -1) * spread[..., None] + mean[..., None]


SIZES = {
    "patch-base": Config(dim=128, layers=3, heads=16, hidden=256, horizon=96),      # PatchTST/64's, section A.1.4
}

_PARTS = ("norm1", "norm2", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")
HF = NameMap(("position", "position"), ("enter.{x}", "enter.{x}"), ("norm.{x}", "norm.{x}"), ("head.{x}", "head.{x}"),
             *((f"blocks.{{i}}.{part}.{{x}}", f"blocks.{{i}}.{part}.{{x}}") for part in _PARTS))

HF_CONFIG = FieldMap(
    Kind("PatchSeriesForQuantiles", "meristem_series"),        # ours alone
    rows=(("context", "context_length"), ("horizon", "prediction_length"), ("patch", "patch_length"),
          ("dim", "hidden_size"), ("layers", "num_hidden_layers"), ("heads", "num_attention_heads"),
          ("hidden", "intermediate_size"), ("quantiles", "quantiles"), ("eps", "layer_norm_eps"),
          ("dropout", "dropout", 0.0)),
    fixed={})
