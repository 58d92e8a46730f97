"""CLIP and SigLIP: one encoder for pictures and one for texts, whose vectors lie together when the two belong together.

Radford et al. 2021, https://arxiv.org/abs/2103.00020 (section 2.4; table 20); Zhai et al. 2023,
https://arxiv.org/abs/2303.15343 (SigLIP: a bias beside the scale, two-way text, pooling by attention). `Config.kind` is
which of the two, `Config.part` which towers exist: a text tower alone conditions Stable Diffusion. With `frames` the
pictures are films: each frame is told its number, and a film's vector is the mean of its frames' (Luo et al. 2021,
https://arxiv.org/abs/2104.08860, section 3.3, pools them so; the number lets the mean tell left from right). In Python:

    model = Model(SIZES["clip-vit-b32"])
    model.logits(*model(images, tokens))                       # [images, texts]
    model.text(tokens)                                         # one tower's own vectors

A text's vector is that of its end token (CLIP) or of its last place (SigLIP, padded to the full length).
"""
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.names import GENERATION, HARMLESS, FieldMap, FieldMaps, Group, Kind, NameMap, NameMaps
from meristem.nn.attention import Attention, CrossAttention, Reach, watched
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import MLP, Activation
from meristem.nn.norm import LayerNorm
from meristem.nn.patch import Patches, resample

STRIDE = 16                             # places: a text tower reads whole strides of its context, up to the last end


@dataclass(frozen=True)
class Tower:
    """The shape of one encoder."""

    dim: int = 512
    layers: int = 12
    heads: int = 8
    hidden: int = 0                     # 0: 4 dim

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")


@dataclass(frozen=True)
class Config:
    """Both towers; `project` is the width of the space they share (SigLIP: that of the towers)."""

    kind: Literal["clip", "siglip"] = "clip"
    part: Literal["both", "text", "image"] = "both"
    vocab: int = 49408
    context: int = 77                   # places of a text
    text: Tower = field(default_factory=Tower)
    vision: Tower = field(default_factory=lambda: Tower(dim=768, heads=12))
    image: int = 224
    patch: int = 32
    channels: int = 3
    project: int = 512
    activation: Activation = "quick_gelu"
    eps: float = 0.0                    # 0: 1e-5 for CLIP, 1e-6 for SigLIP
    frames: int = 1                     # more: films, whose vector is the mean of its frames'
    end: int = 49407                    # the id at which a text is read (CLIP): its first place

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", self.eps or {"clip": 1e-5, "siglip": 1e-6}[self.kind])
        if self.image % self.patch:
            raise ValueError(f"image ({self.image}) must be a multiple of patch ({self.patch})")
        if self.part == "both" and self.kind == "siglip" and self.project != self.vision.dim:
            raise ValueError(f"SigLIP projects texts to the width of the vision tower ({self.vision.dim}), "
                             f"not to {self.project}")

    @property
    def causal(self) -> bool:
        """Whether a text token sees only those before it."""
        return self.kind == "clip"

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image // self.patch


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, tower: Tower, c: Config, causal: bool):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(tower.dim, c.eps), LayerNorm(tower.dim, c.eps)
        self.attn = Attention(tower.dim, tower.heads, bias=True, reach=Reach(causal=causal))
        self.mlp = MLP(tower.dim, tower.hidden, c.activation)

    def forward(self, x: Float[Tensor, "B T D"], segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.norm1(x), segments=segments)
        return x + self.mlp(self.norm2(x))


class Text(nn.Module):
    """Token ids -> a vector a text."""

    def __init__(self, c: Config):
        super().__init__()
        self.config, t = c, c.text
        self.embed, self.position = Embedding(c.vocab, t.dim), Embedding(c.context, t.dim)
        self.blocks = nn.ModuleList(Block(t, c, c.causal) for _ in range(t.layers))
        self.norm = LayerNorm(t.dim, c.eps)

    def features(self, tokens: Int[Tensor, "B T"],
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The normalised vectors of every place: what conditions a diffusion model."""
        x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x, segments)
        return self.norm(x)

    def forward(self, tokens: Int[Tensor, "B T"],
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B D"]:
        """The vector at the first end token (CLIP; the last place where there is none), or at the last (SigLIP)."""
        if not self.config.causal:
            return self.features(tokens, segments)[:, -1]
        ends = tokens == self.config.end
        at, read = torch.where(ends.any(1), ends.int().argmax(1), tokens.shape[1] - 1), tokens.shape[1]
        if not at.is_meta:                                     # the rest is padding that nobody looks back from
            read = min(read, (int(at.max()) // STRIDE + 1) * STRIDE)
        x = self.features(tokens[:, :read], None if segments is None else segments[:, :read])
        return x[torch.arange(len(x), device=x.device), at]


class Pool(nn.Module):
    """SigLIP's pooling: one learned query attends to every patch, then an MLP (section A, "MAP head")."""

    def __init__(self, c: Config):
        super().__init__()
        v = c.vision
        self.probe = nn.Parameter(0.02 * torch.randn(1, 1, v.dim))
        self.attn = CrossAttention(v.dim, v.heads, bias=True)
        self.norm, self.mlp = LayerNorm(v.dim, c.eps), MLP(v.dim, v.hidden, c.activation)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        """[B, N, D] -> [B, D]."""
        y = self.attn(self.probe.to(x.dtype).expand(len(x), -1, -1), self.attn.keys(x))
        return (y + self.mlp(self.norm(y)))[:, 0]


class Vision(nn.Module):
    """Images -> a vector an image: the class token's (CLIP), or pooled by attention (SigLIP)."""

    def __init__(self, c: Config):
        super().__init__()
        self.config, v, clip = c, c.vision, c.kind == "clip"
        self.patches = Patches(c.channels, v.dim, c.patch, bias=not clip)
        self.cls = nn.Parameter(0.02 * torch.randn(v.dim)) if clip else None
        self.position = Embedding(c.grid**2 + clip, v.dim)
        self.time = Embedding(c.frames, v.dim) if c.frames > 1 else None
        self.before = LayerNorm(v.dim, c.eps) if clip else nn.Identity()
        self.blocks = nn.ModuleList(Block(v, c, causal=False) for _ in range(v.layers))
        self.norm = LayerNorm(v.dim, c.eps)
        self.head = None if clip else Pool(c)

    def features(self, images: Float[Tensor, "B C H W"], layer: int = -1,
                 at: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B N D"]:
        """The vectors of every place after a layer (0: before the first); CLIP normalises only the one it pools.

        `at` is the number of a frame in its film, where the model sees films.
        """
        c, x, table = self.config, self.patches(images), self.position.weight
        if self.cls is not None:
            x = torch.cat([self.cls.to(x.dtype).expand(len(x), 1, -1), x], 1)
        first = int(self.cls is not None)
        grid = resample(table[first:], images.shape[2] // c.patch, images.shape[3] // c.patch)
        x = x + torch.cat([table[:first], grid]).to(x.dtype)
        if self.time is not None and at is not None:
            x = x + self.time(at)[:, None].to(x.dtype)
        x = self.before(x)
        for block in self.blocks[:layer if layer >= 0 else len(self.blocks) + 1 + layer]:
            x = block(x)
        return x

    def forward(self, images: Float[Tensor, "B *F C H W"]) -> Float[Tensor, "B D"]:
        """[B, C, H, W], or films [B, F, C, H, W] -> [B, D]."""
        if images.ndim == 5:
            number = torch.arange(images.shape[1], device=images.device).repeat(len(images))
            return self.pooled(self.features(images.flatten(0, 1), at=number)).unflatten(0, images.shape[:2]).mean(1)
        return self.pooled(self.features(images))

    def pooled(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        """All places -> [B, D]."""
        return self.norm(x[:, 0]) if self.head is None else self.head(self.norm(x))


class Model(nn.Module):
    """Both towers and the space they share."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.text = Text(c) if c.part != "image" else None
        self.vision = Vision(c) if c.part != "text" else None
        both, clip = c.part == "both", c.kind == "clip"
        self.text_map = Linear(c.text.dim, c.project, bias=not clip) if self.text and (both or not clip) else None
        self.image_map = Linear(c.vision.dim, c.project, bias=False) if both and clip else None
        # CLIP begins at 1 / 0.07 (section 2.5), SigLIP at 10 with a bias of -10 (section 3.2)
        self.scale = nn.Parameter(torch.tensor(2.6592) if clip else torch.tensor([2.302585])) if both else None
        self.shift = nn.Parameter(torch.tensor([-10.0])) if both and not clip else None
        self.initialise()

    def initialise(self) -> None:
        """Tables Normal(0, 0.02) and 0.01, matrices by width, outputs smaller with depth (CLIP's code, section 2.5)."""
        for tower in (self.text, self.vision):
            if tower is None:
                continue
            shape = self.config.text if tower is self.text else self.config.vision
            nn.init.normal_(tower.position.weight, std=0.01)
            if isinstance(tower, Text):
                nn.init.normal_(tower.embed.weight, std=0.02)
            elif tower.time is not None:
                nn.init.normal_(tower.time.weight, std=0.02)
            for module in tower.modules():
                if isinstance(module, Linear):
                    nn.init.normal_(module.weight, std=shape.dim**-0.5)
                    nn.init.zeros_(module.bias)
            for block in tower.blocks:
                assert isinstance(block, Block)
                for out in (block.attn.o, block.mlp.down):
                    nn.init.normal_(out.weight, std=(2 * shape.layers * shape.dim) ** -0.5)

    def embed_texts(self, tokens: Int[Tensor, "B T"],
                    segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B E"]:
        """Vectors of length 1."""
        assert self.text is not None and self.text_map is not None, "this model has no text space"
        return F.normalize(self.text_map(self.text(tokens, segments)).float(), dim=-1)

    def embed_images(self, images: Float[Tensor, "B *F C H W"]) -> Float[Tensor, "B E"]:
        """Vectors of length 1."""
        assert self.vision is not None, "this model has no vision tower"
        x = self.vision(images)
        return F.normalize((x if self.image_map is None else self.image_map(x)).float(), dim=-1)

    def looks(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B heads Y X"]:
        """How much each head of the class token (SigLIP: of all places, on average) looks at every patch in the last
        layer."""
        assert self.vision is not None, "this model has no vision tower"
        shares = watched(self.vision.blocks[-1].attn, lambda: self.embed_images(images))         # type: ignore[arg-type]
        seen = shares.mean(2) if self.vision.cls is None else shares[:, :, 0, 1:]
        return seen.unflatten(-1, (images.shape[2] // self.config.patch, -1))

    def logits(self, images: Float[Tensor, "B E"], texts: Float[Tensor, "M E"]) -> Float[Tensor, "B M"]:
        """How well vectors of images and of texts belong together: scaled cosines, in SigLIP shifted."""
        assert self.scale is not None, "a tower alone compares nothing"
        logits = self.scale.exp() * images @ texts.T
        return logits if self.shift is None else logits + self.shift

    def forward(self, images: Float[Tensor, "B *F C H W"] | None = None, tokens: Int[Tensor, "M T"] | None = None,
                segments: Int[Tensor, "M T"] | None = None) -> tuple[Tensor, Tensor]:
        """Vectors of length 1 of the images [B, E] and of the texts [M, E]; compare them with `logits`."""
        assert images is not None and tokens is not None, "give images and tokens, or ask one tower"
        return self.embed_images(images), self.embed_texts(tokens, segments)


SO400M = Tower(dim=1152, layers=27, heads=16, hidden=4304)
SIGLIP_BASE = Tower(dim=768, heads=12)
SIZES = {
    "clip-vit-b32": Config(),                                           # CLIP table 20
    "clip-vit-b16": Config(patch=16),
    "clip-vit-l14": Config(patch=14, text=Tower(dim=768, heads=12), vision=Tower(dim=1024, layers=24, heads=16),
                           project=768),
    "siglip-b16": Config(kind="siglip", vocab=32000, context=64, text=SIGLIP_BASE, vision=SIGLIP_BASE, patch=16,
                         project=768, activation="gelu_pytorch_tanh"),
    "siglip-so400m": Config(kind="siglip", vocab=32000, context=16, text=SO400M, vision=SO400M, patch=14, project=1152,
                            activation="gelu_pytorch_tanh"),
}

BLOCK = tuple((f"{{tower}}.blocks.{{i}}.{ours}.{{x}}", f"{{tower}}_model.encoder.layers.{{i}}.{theirs}.{{x}}")
              for ours, theirs in (("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("attn.q", "self_attn.q_proj"),
                                   ("attn.k", "self_attn.k_proj"), ("attn.v", "self_attn.v_proj"),
                                   ("attn.o", "self_attn.out_proj"), ("mlp.up", "mlp.fc1"), ("mlp.down", "mlp.fc2")))
ROWS = (
    *BLOCK,
    ("text.embed.weight", "text_model.embeddings.token_embedding.weight"),
    ("{tower}.position.weight", "{tower}_model.embeddings.position_embedding.weight"),
    ("text.norm.{x}", "text_model.final_layer_norm.{x}"),
    ("vision.patches.{x}", "vision_model.embeddings.patch_embedding.{x}"),
    ("vision.cls", "vision_model.embeddings.class_embedding"),
    ("vision.time.weight", "vision_model.embeddings.frame_embedding.weight"),          # ours alone
    ("vision.before.{x}", "vision_model.pre_layrnorm.{x}"),            # spelled so since 2021
    ("vision.norm.{x}", "vision_model.post_layernorm.{x}"),
    ("vision.head.probe", "vision_model.head.probe"),
    ("vision.head.attn.(q,k,v).weight", "vision_model.head.attention.in_proj_weight"),
    ("vision.head.attn.(q,k,v).bias", "vision_model.head.attention.in_proj_bias"),
    ("vision.head.attn.o.{x}", "vision_model.head.attention.out_proj.{x}"),
    ("vision.head.norm.{x}", "vision_model.head.layernorm.{x}"),
    ("vision.head.mlp.up.{x}", "vision_model.head.mlp.fc1.{x}"),
    ("vision.head.mlp.down.{x}", "vision_model.head.mlp.fc2.{x}"),
    ("image_map.weight", "visual_projection.weight"),
    ("scale", "logit_scale"),
    ("shift", "logit_bias"),
)


@functools.cache
def names(kind: str, part: str) -> NameMap:
    """The tensor names of one kind; a tower saved alone may lack its prefix."""
    project = "text_projection.{x}" if kind == "clip" else "text_model.head.{x}"
    return NameMap(*ROWS, ("text_map.{x}", project), ignore=("{tower}_model.embeddings.position_ids",),
                   prefix={"text": "text_model.", "image": "vision_model.", "both": ""}[part])


HF = NameMaps(lambda c: names(c.kind, c.part))

SHAPE = {"dim": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
         "hidden": "intermediate_size"}
SHARED = {"activation": "hidden_act", "eps": "layer_norm_eps"}
OWN = {"text": {"vocab": "vocab_size", "context": "max_position_embeddings", "end": "eos_token_id"},
       "vision": {"image": "image_size", "patch": "patch_size", "channels": "num_channels"}}
ABSENT = {                                                              # what their absence means there
    ("clip", "text"): (512, 12, 8, 2048, "quick_gelu", 1e-5, 49408, 77, 49407),
    ("clip", "vision"): (768, 12, 12, 3072, "quick_gelu", 1e-5, 224, 32, 3),
    ("siglip", "text"): (768, 12, 12, 3072, "gelu_pytorch_tanh", 1e-6, 32000, 64, 49407),
    ("siglip", "vision"): (768, 12, 12, 3072, "gelu_pytorch_tanh", 1e-6, 224, 16, 3),
}
ELSEWHERE = ("projection_dim", "projection_size", "initializer_factor", "vision_use_head", "logit_scale_init_value")


def _read(part: str, tower: str, whole: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """Our fields from the keys of one tower, which stand in `text_config` and `vision_config` when both exist."""
    prefix = f"{tower}_config." if part == "both" else ""
    given = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix) and v is not None}
    theirs = {**SHAPE, **SHARED, **OWN[tower]}
    absent = dict(zip(theirs, ABSENT[kind.ours["kind"], tower], strict=True))
    known = [*theirs.values(), *ELSEWHERE, *GENERATION, *HARMLESS]
    for key, value in given.items() if part == "both" else ():
        if not any(fnmatchcase(key.split(".")[0], k) for k in known) and value not in (False, [], {}, ""):
            raise ValueError(f"{prefix}{key} = {value!r} is a setting this family does not know")
    if given.get("vision_use_head", True) is not True:
        raise ValueError("vision_use_head = False is not supported (only True)")
    found = {ours: given.get(key, absent[ours]) for ours, key in theirs.items()}
    if tower == "text" and kind.ours["kind"] == "clip" and found["end"] == 2:
        found["end"] = found["vocab"] - 1                      # configs before 2023: the text is read at the highest id
    fields = {tower: {ours: found.pop(ours) for ours in SHAPE}, **found}
    if kind.ours["kind"] == "siglip":
        fields["project"] = given.get("projection_size", fields[tower]["dim"])
    elif part == "both":
        fields["project"] = whole.get("projection_dim", 512)
    return fields


def _read_both(whole: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    text, vision = (_read("both", tower, whole, kind) for tower in ("text", "vision"))
    for key, spelled in {**SHARED, **({"project": "projection_size"} if kind.ours["kind"] == "siglip" else {})}.items():
        if text[key] != vision[key]:
            raise ValueError(f"text_config.{spelled} = {text[key]!r} and vision_config's {vision[key]!r} differ")
    return text | vision


def _write(part: str, tower: str, config: Config, kind: Kind) -> dict[str, Any]:
    """The keys of one tower."""
    prefix = f"{tower}_config." if part == "both" else ""
    shape = getattr(config, tower)
    keys = {theirs: getattr(shape, ours) for ours, theirs in SHAPE.items()}
    keys |= {theirs: getattr(config, ours) for ours, theirs in {**SHARED, **OWN[tower]}.items()}
    if config.kind == "siglip" and tower == "text":
        keys["projection_size"] = config.project
    if part == "both":
        keys["model_type"] = f"{config.kind}_{tower}_model"
    return {prefix + key: value for key, value in keys.items()}


def _map(kind: str, name: str) -> tuple[FieldMap, ...]:
    """Both towers, the text tower and the vision tower of one kind."""
    both = Group(("text_config.*", "vision_config.*", "projection_dim", *ELSEWHERE), _read_both,
                 lambda c, k: {**_write("both", "text", c, k), **_write("both", "vision", c, k),
                               **({"projection_dim": c.project} if c.kind == "clip" else {})})
    one = {part: Group((*SHAPE.values(), *SHARED.values(), *OWN[tower].values(), *ELSEWHERE),
                       functools.partial(_read, part, tower), functools.partial(_write, part, tower))
           for part, tower in (("text", "text"), ("image", "vision"))}
    said = {"both": ("Model", kind), "text": ("TextModel", f"{kind}_text_model"),
            "image": ("VisionModel", f"{kind}_vision_model")}
    still = tuple(FieldMap(Kind(name + said[part][0], said[part][1], {"kind": kind, "part": part, "frames": 1}),
                           rows=(), fixed={}, groups=(group,)) for part, group in {"both": both, **one}.items())
    films = FieldMap(Kind(f"Film{name}Model", f"meristem_film_{kind}", {"kind": kind, "part": "both"}),        # ours
                     rows=(("frames", "num_frames"),), fixed={}, groups=(both,))
    return (*still, films)


HF_CONFIG = FieldMaps(*_map("clip", "CLIP"), *_map("siglip", "Siglip"))
