"""How attention learns about order: rotary position embedding (RoPE), Su et al. 2021, https://arxiv.org/abs/2104.09864.

A rotary table covers the first `rotary` numbers of each head; a family that turns only a part of its heads (GPT-NeoX)
makes a narrower table, and the rest passes. Pairs are (i, i + K/2), as in Hugging Face's Llama, or (2i, 2i + 1) with
`interleaved` (GPT-J, Llama 4).

`Scaling` stretches the angles for texts longer than those of pretraining:
  linear    every frequency / factor: Chen et al. 2023, https://arxiv.org/abs/2306.15595
  dynamic   a larger theta the longer the text is beyond `original` positions ("NTK-aware"; YaRN paper, section 3.3)
  yarn      slow pairs interpolated, fast ones kept, sharper attention: Peng et al. 2023, https://arxiv.org/abs/2309.00071
  llama3    slow pairs / factor, fast ones kept, a ramp between: Llama 3.1's reference code (apply_scaling)

    rotary(positions, 128, theta=500_000.0, scaling=Scaling("llama3", factor=8.0, original=8192))
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meristem.core.names import Group, Kind


@dataclass(frozen=True)
class Scaling:
    """How rotary angles are stretched; fields beside `kind` and `factor` matter only to the kinds named beside them."""

    kind: Literal["default", "linear", "dynamic", "yarn", "llama3"] = "default"
    factor: float = 1.0
    original: int = 0                   # dynamic, yarn, llama3: positions of pretraining; 0 = the model's context
    low: float = 1.0                    # llama3: turns within `original` below which a pair is slow
    high: float = 4.0                   # llama3: and above which it is fast
    fast: float = 32.0                  # yarn: turns within `original` above which a pair is kept
    slow: float = 1.0                   # yarn: and below which it is interpolated
    amplitude: float = 0.0              # yarn: of cos and sin; 0 = 0.1 ln(factor) + 1, or by the two below
    mscale: float = 0.0                 # yarn (DeepSeek): (0.1 mscale ln(factor) + 1) / (the same with mscale_all)
    mscale_all: float = 0.0
    truncate: bool = True               # yarn: the ramp begins and ends at whole pairs

    def __post_init__(self) -> None:
        if self.factor <= 0 or self.original < 0 or self.low > self.high or self.slow <= 0 or self.fast <= 0:
            raise ValueError(f"rotary scaling needs factor > 0, original >= 0, low <= high, fast and slow > 0: {self}")

    def frequencies(self, powers: Float[Tensor, "F"], theta: float,
                    longest: Int[Tensor, "*B"]) -> Float[Tensor, "*R F"]:
        """Each pair's radians a position [F], for dynamic scaling a row [*B F].

        `powers` are theta^(2 i / K), `longest` a row's last position + 1. Operations are in transformers' order: one
        bit of a frequency is 0.004 radians at position 100,000.
        """
        frequency = 1.0 / powers
        if self.kind == "linear":
            return frequency / self.factor
        if self.kind == "dynamic":
            width = 2 * len(powers)
            length = longest.clamp(min=self.original)
            base = theta * (self.factor * length / self.original - (self.factor - 1)) ** (width / (width - 2))
            return 1.0 / base[..., None] ** (torch.arange(0, width, 2, device=powers.device).float() / width)
        if self.kind == "yarn":
            kept = 1 - self._ramp(len(powers), theta).to(powers.device)
            return 1.0 / (self.factor * powers) * (1 - kept) + frequency * kept
        if self.kind == "llama3":
            turns = self.original / (2 * math.pi / frequency)
            smooth = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
            return (1 - smooth) * frequency / self.factor + smooth * frequency
        return frequency

    def _ramp(self, pairs: int, theta: float) -> Float[Tensor, "F"]:
        """YaRN's equation 18: how far each pair is interpolated, 0 for the fast ones, 1 for the slow ones."""
        def pair(turns: float) -> float:
            return 2 * pairs * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair(self.fast), pair(self.slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * pairs - 1)
        return ((torch.arange(pairs).float() - low) / (high - low or 0.001)).clamp(0, 1)

    @property
    def gain(self) -> float:
        """What cos and sin are multiplied with: YaRN's temperature (equation 22), else 1."""
        if self.kind != "yarn":
            return 1.0

        def grown(mscale: float) -> float:
            return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

        if self.amplitude:
            return self.amplitude
        return grown(self.mscale) / grown(self.mscale_all) if self.mscale and self.mscale_all else grown(1.0)


UNSCALED = Scaling()
THEIRS = {"factor": "factor", "original": "original_max_position_embeddings", "low": "low_freq_factor",
          "high": "high_freq_factor", "fast": "beta_fast", "slow": "beta_slow", "amplitude": "attention_factor",
          "mscale": "mscale", "mscale_all": "mscale_all_dim", "truncate": "truncate"}
NEEDS: dict[str, tuple[str, ...]] = {                          # the fields that a kind depends on, as they are written
    "default": (), "linear": ("factor",), "dynamic": ("factor",), "llama3": ("factor", "original", "low", "high"),
    "yarn": ("factor", "original", "fast", "slow", "amplitude", "mscale", "mscale_all", "truncate")}


def read_scaling(theirs: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """config.json's rope_parameters (transformers 5) or rope_scaling (4), flat -> {"scaling": fields of `Scaling`}."""
    found: dict[str, Any] = {}
    for path, value in theirs.items():
        folder, _, key = path.partition(".")
        if folder not in ("rope_parameters", "rope_scaling") or not key or value is None:
            continue
        key = "rope_type" if key == "type" else key
        if found.setdefault(key, value) != value:
            raise ValueError(f"{path} = {value!r} and {found[key]!r} disagree")
    name = found.pop("rope_type", "default")
    known = {*THEIRS.values(), "rope_theta", "partial_rotary_factor"}
    if name not in NEEDS:
        raise ValueError(f"rope_type = {name!r} is not supported (only {', '.join(NEEDS)})")
    if unknown := sorted(found.keys() - known):
        raise ValueError(f"rope_parameters.{unknown[0]} = {found[unknown[0]]!r} is a setting this family does not know")
    fields = {ours: found[THEIRS[ours]] for ours in NEEDS[name] if THEIRS[ours] in found}
    if name == "yarn" and "factor" not in fields and "original" in fields:
        fields["factor"] = theirs["max_position_embeddings"] / fields["original"]
    if name != "default" and "factor" not in fields:
        raise ValueError(f"rope_parameters.factor is missing, which {name} needs")
    return {"scaling": {"kind": name, **fields}}


def write_scaling(config: Any, kind: Kind) -> dict[str, Any]:
    """The keys of config.json for `config.scaling`, in the spellings of transformers 5 and 4."""
    scaling: Scaling = config.scaling
    if scaling.kind == "dynamic" and scaling.original != config.context:
        raise ValueError(f"dynamic scaling begins at the context there ({config.context}), not at {scaling.original}")
    plain = Scaling()
    fields = {THEIRS[name]: getattr(scaling, name) for name in NEEDS[scaling.kind]
              if name in ("factor", "original", "low", "high") or getattr(scaling, name) != getattr(plain, name)}
    folders = ("rope_parameters",) if scaling.kind == "default" else ("rope_parameters", "rope_scaling")
    return {f"{folder}.{key}": value for folder in folders
            for key, value in {"rope_type": scaling.kind, **fields}.items()}


SCALING = Group(("rope_parameters.*", "rope_scaling.*"), read_scaling, write_scaling)     # for a config with `scaling`


def rotary(positions: Int[Tensor, "*B T"], rotary_dim: int, theta: float = 10_000.0,
           scaling: Scaling = UNSCALED) -> Float[Tensor, "2 *B T F"]:
    """cos and sin of every (position, pair) angle, each pair's angle twice (half-split layout).

    With dynamic scaling a row's angles follow its longest position here, so keys cached earlier keep the angles of
    then, as in transformers; every other kind depends on the position alone.
    """
    powers = theta ** (torch.arange(0, rotary_dim, 2, device=positions.device).float() / rotary_dim)
    frequency = scaling.frequencies(powers, theta, positions.amax(-1) + 1)
    if frequency.ndim > 1:
        frequency = frequency[..., None, :]                    # [B, 1, F]: one set a row
    angle = positions[..., None].float() * frequency
    angle = torch.cat([angle, angle], -1)
    table = torch.stack([angle.cos(), angle.sin()])
    return table if scaling.gain == 1.0 else table * scaling.gain


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
