"""ViT and DINOv2: transformers over image patches.

Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929 (ViT: table 1); Oquab et al. 2023,
https://arxiv.org/abs/2304.07193 (DINOv2: layer scale, SwiGLU in the giant, table 17); Darcet et al. 2023,
https://arxiv.org/abs/2309.16588 (registers). `Config.kind` is which of the two, `Config.head` what stands on top:
"none" gives the normalised vectors of every token, "image" classifies the picture. In Python:

    model = Model(Config(image=32, patch=4, dim=192, layers=6, heads=3)); model(torch.rand(8, 3, 32, 32))
"""
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meristem.core.names import FieldMap, FieldMaps, Group, Kind, NameMap, NameMaps
from meristem.nn.attention import Attention, Reach, watched
from meristem.nn.linear import Linear
from meristem.nn.mlp import MLP, Activation, GatedMLP
from meristem.nn.norm import LayerNorm
from meristem.nn.patch import Patches, resample


@dataclass(frozen=True)
class Config:
    """An encoder's shape; `image` is the side that the position table is made for, other sizes resample it."""

    kind: Literal["vit", "dinov2"] = "vit"
    head: Literal["none", "image"] = "none"
    image: int = 224
    patch: int = 16
    channels: int = 3
    dim: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 0                     # 0: 4 dim
    gated: bool = False                 # SwiGLU of two thirds of `hidden`, rounded up to a multiple of 8
    registers: int = 0                  # DINOv2: tokens without a place, between the class token and the patches
    activation: Activation = "gelu"
    eps: float = 0.0                    # 0: 1e-12 for ViT, 1e-6 for DINOv2
    std: float = 0.02                   # of the first weights: at a width of 96, 0.02 leaves all pictures nearly alike
    scale: float = 1.0                  # what DINOv2's layer scales begin with
    drop_path: float = 0.0              # DINOv2: chance that an image skips a branch while training
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        object.__setattr__(self, "eps", self.eps or {"vit": 1e-12, "dinov2": 1e-6}[self.kind])
        if self.image % self.patch:
            raise ValueError(f"image ({self.image}) must be a multiple of patch ({self.patch})")
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        if self.kind == "vit" and (self.registers or self.gated or self.drop_path):
            raise ValueError("registers, gated and drop_path belong to kind=dinov2")

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image // self.patch


class Scaled(nn.Module):
    """A branch with a learned factor a channel (layer scale); an image skips it with probability `drop`."""

    def __init__(self, dim: int, value: float, drop: float):
        super().__init__()
        self.weight, self.drop = nn.Parameter(torch.full((dim,), value)), drop

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """[B, T, D] -> [B, T, D]."""
        x = x * self.weight.to(x.dtype)
        if not self.drop or not self.training:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop
        return x * kept.to(x.dtype) / (1 - self.drop)


class Block(nn.Module):
    """x + scale(attention(norm(x))), then x + scale(mlp(norm(x))); a ViT has no scales."""

    def __init__(self, c: Config):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(c.dim, c.eps), LayerNorm(c.dim, c.eps)
        self.attn = Attention(c.dim, c.heads, bias=True, reach=Reach(causal=False))
        self.mlp = (GatedMLP(c.dim, (c.hidden * 2 // 3 + 7) // 8 * 8, bias=True) if c.gated
                    else MLP(c.dim, c.hidden, c.activation))
        self.scale1, self.scale2 = (nn.Identity() if c.kind == "vit" else Scaled(c.dim, c.scale, c.drop_path)
                                    for _ in range(2))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        x = x + self.scale1(self.attn(self.norm1(x)))
        return x + self.scale2(self.mlp(self.norm2(x)))


class Model(nn.Module):
    """Images -> token vectors or class logits; `pool` is the picture as one vector."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.patches = Patches(c.channels, c.dim, c.patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, c.dim))
        self.position = nn.Parameter(torch.zeros(1, 1 + c.grid**2, c.dim))
        self.mask = nn.Parameter(torch.zeros(1, c.dim)) if c.kind == "dinov2" else None
        self.registers = nn.Parameter(torch.zeros(1, c.registers, c.dim)) if c.registers else None
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = LayerNorm(c.dim, c.eps)
        self.pooler = Linear(c.dim, c.dim) if (c.kind, c.head) == ("vit", "none") else None
        width = c.dim if c.kind == "vit" else 2 * c.dim
        self.head = Linear(width, len(c.labels)) if c.head == "image" else None
        self.initialise()

    def initialise(self) -> None:
        """Matrices and tables Normal(0, std), biases and the classifier 0 (ViT, appendix D)."""
        larger = self.config.std / 0.02
        with torch.no_grad():
            self.patches.weight.mul_(larger)
            for module in self.modules():
                if isinstance(module, Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02).mul_(larger)
                    nn.init.zeros_(module.bias)
            for table in (self.cls, self.position, self.registers):
                if table is not None:
                    nn.init.trunc_normal_(table, std=0.02).mul_(larger)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def features(self, images: Float[Tensor, "B C H W"],
                 masked: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B T D"]:
        """The class token, the registers and the patches after the last layer; `masked` patches are not shown."""
        c, x = self.config, self.patches(images)
        if masked is not None:
            assert self.mask is not None, "a ViT has no mask token: take kind=dinov2"
            x = torch.where(masked[..., None], self.mask.to(x.dtype), x)
        x = torch.cat([self.cls.to(x.dtype).expand(len(x), -1, -1), x], 1)
        at = resample(self.position[0, 1:], images.shape[2] // c.patch, images.shape[3] // c.patch, c.registers > 0)
        x = x + torch.cat([self.position[0, :1], at]).to(x.dtype)
        if self.registers is not None:
            x = torch.cat([x[:, :1], self.registers.to(x.dtype).expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def looks(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B heads Y X"]:
        """How much each head of the class token looks at every patch in the last layer."""
        shares = watched(self.blocks[-1].attn, lambda: self.features(images))    # type: ignore[arg-type]
        rows = images.shape[2] // self.config.patch
        return shares[:, :, 0, 1 + self.config.registers:].unflatten(-1, (rows, -1))

    def pool(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B E"]:
        """The picture as one vector: the class token's, beside it in DINOv2 the mean of the patches' (appendix E.3)."""
        if self.config.kind == "vit":
            return features[:, 0]
        return torch.cat([features[:, 0], features[:, 1 + self.config.registers:].mean(1)], 1)

    def forward(self, images: Float[Tensor, "B C H W"],
                masked: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B *T E"]:
        """Vectors [B, 1 + R + N, D], or class logits [B, L] with the "image" head."""
        features = self.features(images, masked)
        return features if self.head is None else self.head(self.pool(features))


SIZES = {
    "vit-tiny": Config(dim=192, heads=3),                               # DeiT table 1
    "vit-small": Config(dim=384, heads=6),
    "vit-base": Config(),                                               # ViT table 1
    "vit-large": Config(dim=1024, layers=24, heads=16),
    "vit-huge": Config(patch=14, dim=1280, layers=32, heads=16),
    "dinov2-small": Config(kind="dinov2", image=518, patch=14, dim=384, heads=6),          # DINOv2's model card
    "dinov2-base": Config(kind="dinov2", image=518, patch=14),
    "dinov2-large": Config(kind="dinov2", image=518, patch=14, dim=1024, layers=24, heads=16),
    "dinov2-giant": Config(kind="dinov2", image=518, patch=14, dim=1536, layers=40, heads=24, gated=True),
    "dinov2-small-registers": Config(kind="dinov2", image=518, patch=14, dim=384, heads=6, registers=4),
    "dinov2-base-registers": Config(kind="dinov2", image=518, patch=14, registers=4),
    "dinov2-large-registers": Config(kind="dinov2", image=518, patch=14, dim=1024, layers=24, heads=16, registers=4),
    "dinov2-giant-registers": Config(kind="dinov2", image=518, patch=14, dim=1536, layers=40, heads=24, gated=True,
                                     registers=4),
}

EMBEDDINGS = (
    ("patches.{x}", "embeddings.patch_embeddings.projection.{x}"),
    ("cls", "embeddings.cls_token"),
    ("position", "embeddings.position_embeddings"),
    ("mask", "embeddings.mask_token"),
    ("registers", "embeddings.register_tokens"),
    ("norm.{x}", "layernorm.{x}"),
)
ATTENTION = tuple((f"blocks.{{i}}.attn.{ours}.{{x}}", f"encoder.layer.{{i}}.attention.{theirs}.{{x}}")
                  for ours, theirs in (("q", "attention.query"), ("k", "attention.key"), ("v", "attention.value"),
                                       ("o", "output.dense")))
LAYERS = {
    "vit": (("blocks.{i}.norm1.{x}", "encoder.layer.{i}.layernorm_before.{x}"),
            ("blocks.{i}.norm2.{x}", "encoder.layer.{i}.layernorm_after.{x}"),
            ("blocks.{i}.mlp.up.{x}", "encoder.layer.{i}.intermediate.dense.{x}"),
            ("blocks.{i}.mlp.down.{x}", "encoder.layer.{i}.output.dense.{x}")),
    "dinov2": (("blocks.{i}.norm1.{x}", "encoder.layer.{i}.norm1.{x}"),
               ("blocks.{i}.norm2.{x}", "encoder.layer.{i}.norm2.{x}"),
               ("blocks.{i}.scale1.weight", "encoder.layer.{i}.layer_scale1.lambda1"),
               ("blocks.{i}.scale2.weight", "encoder.layer.{i}.layer_scale2.lambda1")),
}
FEED = {
    False: (("blocks.{i}.mlp.up.{x}", "encoder.layer.{i}.mlp.fc1.{x}"),
            ("blocks.{i}.mlp.down.{x}", "encoder.layer.{i}.mlp.fc2.{x}")),
    True: (("blocks.{i}.mlp.(gate,up).{x}", "encoder.layer.{i}.mlp.weights_in.{x}"),
           ("blocks.{i}.mlp.down.{x}", "encoder.layer.{i}.mlp.weights_out.{x}")),
}
PREFIX = {"vit": "vit.", "dinov2": "dinov2.", "registers": "dinov2_with_registers."}


@functools.cache
def names(kind: str, head: str, gated: bool, registers: bool) -> NameMap:
    """The tensor names of one kind with one head: the body has a prefix as soon as there is a head."""
    prefix = "" if head == "none" else PREFIX["registers" if registers else kind]
    body = EMBEDDINGS + ATTENTION + LAYERS[kind] + (FEED[gated] if kind == "dinov2" else ())
    rows = [(ours, prefix + theirs) for ours, theirs in body]
    return NameMap(*rows, ("pooler.{x}", "pooler.dense.{x}"), ("head.{x}", "classifier.{x}"))


HF = NameMaps(lambda c: names(c.kind, c.head, c.gated, c.registers > 0))

SHARED = (("image", "image_size"), ("patch", "patch_size"), ("channels", "num_channels", 3), ("dim", "hidden_size"),
          ("layers", "num_hidden_layers"), ("heads", "num_attention_heads"), ("activation", "hidden_act", "gelu"),
          ("eps", "layer_norm_eps"), ("std", "initializer_range", 0.02))
DINO = (*SHARED, ("scale", "layerscale_value", 1.0), ("drop_path", "drop_path_rate", 0.0),
        ("gated", "use_swiglu_ffn", False))
WHOLE = {"qkv_bias": True, "mlp_ratio": 4, "use_mask_token": True}
# what a backbone would hand out and how pixels would be painted back changes nothing that this model computes
UNUSED = Group(("apply_layernorm", "reshape_hidden_states", "stage_names", "out_features", "out_indices",
                "encoder_stride"), lambda whole, kind: {}, lambda config, kind: {})


def _pooled(whole: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """The pooler keeps the width."""
    if (size := whole.get("pooler_output_size")) not in (None, whole["hidden_size"]):
        raise ValueError(f"pooler_output_size = {size} is not supported (only hidden_size)")
    return {}


def _kinds(name: str, model_type: str, kind: str, fits: Callable[[Config], bool]) -> tuple[Kind, ...]:
    return tuple(Kind(name + word, model_type, {"kind": kind, "head": head}, when=fits)
                 for head, word in (("none", "Model"), ("image", "ForImageClassification")))


HF_CONFIG = FieldMaps(
    FieldMap(*_kinds("ViT", "vit", "vit", lambda c: True), rows=(*SHARED, ("hidden", "intermediate_size")),
             fixed={"qkv_bias": True, "pooler_act": "tanh"}, labels="labels",
             groups=(UNUSED, Group(("pooler_output_size",), _pooled, lambda config, kind: {}))),
    FieldMap(*_kinds("Dinov2", "dinov2", "dinov2", lambda c: c.hidden == 4 * c.dim and not c.registers), rows=DINO,
             fixed=WHOLE, labels="labels", groups=(UNUSED,)),
    FieldMap(*_kinds("Dinov2WithRegisters", "dinov2_with_registers", "dinov2",
                     lambda c: c.hidden == 4 * c.dim and c.registers > 0),
             rows=(*DINO, ("registers", "num_register_tokens")), fixed=WHOLE, labels="labels", groups=(UNUSED,)))


def module_names(c: Config) -> tuple[tuple[str, str], ...]:
    """What turns the names in a file into those of transformers 5's layers, by which PEFT calls them: (regex, new)."""
    rows = tuple((rf"attention\.attention\.{old}$", f"attention.{new}_proj")
                 for old, new in (("query", "q"), ("key", "k"), ("value", "v")))
    rows += ((r"attention\.output\.dense$", "attention.o_proj"),)
    if c.kind == "vit":
        rows += ((r"encoder\.layer\.", "layers."), (r"intermediate\.dense$", "mlp.fc1"), (r"output\.dense$", "mlp.fc2"))
    return rows
