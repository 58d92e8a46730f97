"""Segment Anything: a picture and prompts (points, boxes, an earlier mask) to masks, each with its expected quality.

Kirillov et al. 2023, https://arxiv.org/abs/2304.02643 (section 3; appendix A: the three parts). The encoder is a ViT
whose attention sees windows, in a few layers the whole picture, with decomposed relative positions (Li et al. 2021,
https://arxiv.org/abs/2112.01526, section 4.1). Prompts and the mask decoder are light: a picture is encoded once and
asked often. In Python:

    model = Model(Config(image=64, patch=4, dim=128, layers=4, heads=4, width=64)).eval()
    seen = model.encode(images)                                # [B, D, G, G]
    masks, quality = model.decode(seen, *prompts(points, signs))           # logits [B, P, 4, 4G, 4G], IoU [B, P, 4]

Mask 0 is the answer to a clear prompt, masks 1 to 3 are those that an ambiguous one (a single click) may mean.
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.names import GENERATION, HARMLESS, FieldMap, Group, Kind, NameMap
from meristem.nn.attention import Attention, CrossAttention, Reach, attend
from meristem.nn.conv import Conv, Grow, Stem, pixels, sequence
from meristem.nn.linear import Linear
from meristem.nn.mlp import MLP, Activation
from meristem.nn.norm import LayerNorm
from meristem.nn.patch import Patches
from meristem.nn.segment import PADDING


@dataclass(frozen=True)
class Config:
    """The encoder's shape as a ViT's; `width` is that of the picture's vectors, the prompts and the decoder."""

    image: int = 1024
    patch: int = 16
    channels: int = 3
    dim: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 0                     # 0: 4 dim
    window: int = 14                    # patches a side of an attention window; 0: every layer sees the whole picture
    whole: tuple[int, ...] = (2, 5, 8, 11)                     # layers that do so in any case
    activation: Activation = "gelu"
    width: int = 256
    turns: int = 2                      # layers of the decoder: prompts look at the picture, the picture at them
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    shrink: int = 2                     # width over that of the attention between prompts and picture
    choices: int = 3                    # masks for an ambiguous prompt
    quality_layers: int = 3
    quality_hidden: int = 256
    draft: int = 16                     # channels of an earlier mask before it has `width`

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        for whole, part in (("image", "patch"), ("dim", "heads"), ("width", "decoder_heads"), ("width", "shrink"),
                            ("width", "8"), ("draft", "4")):
            n, by = getattr(self, whole), int(part) if part.isdigit() else getattr(self, part)
            if n % by:
                raise ValueError(f"{whole} ({n}) must be a multiple of {'' if part.isdigit() else part + ' '}({by})")
        if self.quality_layers < 2:
            raise ValueError(f"quality_layers is {self.quality_layers}; at least 2 are needed")

    @property
    def grid(self) -> int:
        """Patches along a side; masks have four times as many pixels."""
        return self.image // self.patch


class GridAttention(Attention):
    """Attention on a square grid, whose scores know how far apart two places are, down and across."""

    def __init__(self, c: Config, side: int):
        super().__init__(c.dim, c.heads, bias=True, reach=Reach(causal=False))
        self.side = side
        self.down, self.across = (nn.Parameter(torch.zeros(2 * side - 1, self.head_dim)) for _ in range(2))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:      # type: ignore[override]
        """The grid row by row, [B, T, D] -> [B, T, D]."""
        q, k, v = self.project(x, None, None)
        at = torch.arange(self.side, device=x.device)
        apart = at[:, None] - at + self.side - 1
        grid = q.unflatten(1, (self.side, self.side))          # [B, Y, X, H, K]
        down = torch.einsum("byxhk,yik->bhyxi", grid, self.down[apart].to(q.dtype))
        across = torch.einsum("byxhk,xik->bhyxi", grid, self.across[apart].to(q.dtype))
        bias = (down[..., :, None] + across[..., None, :]).flatten(4).flatten(2, 3)
        return self.o(attend(q, k, v, self.reach, scale=self.scale, bias=bias).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), within windows of `window` places a side or over all of them, then x + mlp(norm(x))."""

    def __init__(self, c: Config, window: int):
        super().__init__()
        self.window = window
        self.norm1, self.norm2 = LayerNorm(c.dim, 1e-6), LayerNorm(c.dim, 1e-6)
        self.attn = GridAttention(c, window or c.grid)
        self.mlp = MLP(c.dim, c.hidden, c.activation)

    def forward(self, x: Float[Tensor, "B Y X D"]) -> Float[Tensor, "B Y X D"]:
        """One layer; a grid that is no multiple of the window is padded by zeros, which attention sees."""
        rows, columns = x.shape[1:3]
        w, y = self.window or rows, self.norm1(x)
        y = F.pad(y, (0, 0, 0, -columns % w, 0, -rows % w))
        high, wide = y.shape[1] // w, y.shape[2] // w
        y = y.unflatten(2, (wide, w)).unflatten(1, (high, w)).transpose(2, 3)    # [B, high, wide, w, w, D]
        y = self.attn(y.flatten(0, 2).flatten(1, 2)).unflatten(1, (w, w)).unflatten(0, (-1, high, wide))
        y = y.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :rows, :columns]
        x = x + y
        return x + self.mlp(self.norm2(x))


class ChannelNorm(LayerNorm):
    """Layer normalisation of the channels of [B, C, H, W]."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """[B, C, H, W] -> the same."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Encoder(nn.Module):
    """Pictures -> vectors on a grid [B, width, G, G]."""

    def __init__(self, c: Config):
        super().__init__()
        self.patches = Patches(c.channels, c.dim, c.patch)
        self.position = nn.Parameter(torch.zeros(1, c.grid, c.grid, c.dim))
        self.blocks = nn.ModuleList(Block(c, 0 if i in c.whole else c.window) for i in range(c.layers))
        self.conv1, self.norm1 = Conv(c.dim, c.width, 1, bias=False), ChannelNorm(c.width, 1e-6)
        self.conv2, self.norm2 = Conv(c.width, c.width, 3, padding=1, bias=False), ChannelNorm(c.width, 1e-6)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D G G"]:
        """[B, C, image, image] -> [B, width, G, G]."""
        x = self.patches(images).unflatten(1, self.position.shape[1:3])
        x = x + self.position.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm2(self.conv2(self.norm1(self.conv1(x.movedim(-1, 1)))))


class Prompts(nn.Module):
    """Points as tokens: where (random Fourier features) plus what they say; an earlier mask as vectors on the grid."""

    def __init__(self, c: Config):
        super().__init__()
        self.image = c.image
        self.register_buffer("waves", torch.randn(2, c.width // 2))
        self.says = nn.Parameter(torch.randn(4, 1, c.width))
        self.nothing, self.no_draft = (nn.Parameter(torch.randn(1, c.width)) for _ in range(2))
        self.conv1, self.norm1 = Stem(1, c.draft // 4, 2, stride=2), ChannelNorm(c.draft // 4, 1e-6)
        self.conv2, self.norm2 = Conv(c.draft // 4, c.draft, 2, stride=2), ChannelNorm(c.draft, 1e-6)
        self.conv3 = Conv(c.draft, c.width, 1)

    def place(self, share: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N D"]:
        """Vectors of places, x and y in shares of the picture's side; fp32, or neighbours would look the same."""
        turns = 2 * math.pi * ((2 * share.float() - 1) @ self.get_buffer("waves").float())
        return torch.cat([turns.sin(), turns.cos()], -1)

    def tokens(self, points: Float[Tensor, "B P N 2"], signs: Int[Tensor, "B P N"]) -> Float[Tensor, "B P N D"]:
        """A token a point; points are in pixels of the picture, from the middle of the first."""
        where = self.place((points + 0.5) / self.image) + self.says[signs.clamp(min=0), 0]
        return torch.where(signs[..., None] >= 0, where, self.nothing)

    def drafts(self, masks: Float[Tensor, "N 1 h w"]) -> Float[Tensor, "N D G G"]:
        """Vectors of earlier masks (logits)."""
        x = F.gelu(self.norm1(self.conv1(masks)))
        return self.conv3(F.gelu(self.norm2(self.conv2(x))))


class Turn(nn.Module):
    """One layer of the decoder: tokens see each other, then the picture, think, and the picture sees the tokens."""

    def __init__(self, c: Config, first: bool):
        super().__init__()
        self.first = first
        head = c.width // c.shrink // c.decoder_heads
        self.own = CrossAttention(c.width, c.decoder_heads, bias=True)
        self.to_image, self.to_tokens = (CrossAttention(c.width, c.decoder_heads, head_dim=head, bias=True)
                                         for _ in range(2))
        self.mlp = MLP(c.width, c.decoder_hidden, "relu")
        self.norm1, self.norm2, self.norm3, self.norm4 = (LayerNorm(c.width, 1e-6) for _ in range(4))

    def forward(self, x: Float[Tensor, "N T D"], y: Float[Tensor, "N S D"], who: Float[Tensor, "N T D"],
                where: Float[Tensor, "S D"], there: Bool[Tensor, "N 1 T"]) -> tuple[Tensor, Tensor]:
        """Tokens x that were `who`, the picture y at places `where`; tokens that are not `there` are not seen."""
        x = self.norm1(look(self.own, x, x, x, there) if self.first else x + look(self.own, x + who, x + who, x, there))
        x = self.norm2(x + look(self.to_image, x + who, y + where, y))
        x = self.norm3(x + self.mlp(x))
        return x, self.norm4(y + look(self.to_tokens, y + where, x + who, x, there))


class Layers(nn.Module):
    """Linear layers with relu between them."""

    def __init__(self, dim: int, hidden: int, out: int, layers: int):
        super().__init__()
        self.first, self.last = Linear(dim, hidden), Linear(hidden, out)
        self.middle = nn.ModuleList(Linear(hidden, hidden) for _ in range(layers - 2))

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """[..., dim] -> [..., out]."""
        x = F.relu(self.first(x))
        for layer in self.middle:
            x = F.relu(layer(x))
        return self.last(x)


class Decoder(nn.Module):
    """Tokens and the picture -> masks and how good each is: every mask is a token's product with grown vectors."""

    def __init__(self, c: Config):
        super().__init__()
        self.quality = nn.Parameter(torch.randn(1, c.width))
        self.masks = nn.Parameter(torch.randn(1 + c.choices, c.width))
        self.turns = nn.ModuleList(Turn(c, i == 0) for i in range(c.turns))
        self.last = CrossAttention(c.width, c.decoder_heads, head_dim=c.width // c.shrink // c.decoder_heads, bias=True)
        self.norm = LayerNorm(c.width, 1e-5)
        self.grow1, self.grow_norm = Grow(c.width, c.width // 4), ChannelNorm(c.width // 4, 1e-6)
        self.grow2 = Grow(c.width // 4, c.width // 8)
        self.mappers = nn.ModuleList(Layers(c.width, c.width, c.width // 8, 3) for _ in range(1 + c.choices))
        self.head = Layers(c.width, c.quality_hidden, 1 + c.choices, c.quality_layers)

    def forward(self, image: Float[Tensor, "N D G G"], where: Float[Tensor, "S D"], prompts: Float[Tensor, "N T D"],
                there: Bool[Tensor, "N T"]) -> tuple[Float[Tensor, "N M h w"], Float[Tensor, "N M"]]:
        """One prompt a row: mask logits [N, 1 + choices, 4 G, 4 G] and their expected IoU [N, 1 + choices]."""
        own = torch.cat([self.quality, self.masks]).to(image.dtype).expand(len(image), -1, -1)
        who, count = torch.cat([own, prompts], 1), own.shape[1]
        there = F.pad(there, (count, 0), value=True)[:, None]
        x, y = who, sequence(image)
        for turn in self.turns:
            x, y = turn(x, y, who, where, there)
        x = self.norm(x + look(self.last, x + who, y + where, y))
        grown = F.gelu(self.grow2(F.gelu(self.grow_norm(self.grow1(pixels(y, image))))))
        weights = torch.stack([mapper(x[:, 1 + i]) for i, mapper in enumerate(self.mappers)], 1)
        masks = (weights @ grown.flatten(2)).unflatten(2, grown.shape[2:])
        return masks, self.head(x[:, 0])


class Model(nn.Module):
    """Pictures and prompts -> mask logits and expected qualities."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.encoder, self.prompts, self.decoder = Encoder(c), Prompts(c), Decoder(c)
        self.initialise()

    def initialise(self) -> None:
        """The encoder as a ViT; in the decoder a key begins as the query of the same vector.

        So a prompt looks at its own place from the first step: with two random maps a small model answered every prompt
        with nothing for its first 300 steps.
        """
        for name, module in self.named_modules():
            if isinstance(module, Linear) and name.startswith("encoder"):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            if isinstance(module, CrossAttention):
                nn.init.orthogonal_(module.q.weight)
                module.k.weight.data.copy_(module.q.weight.data)
        for table in (self.prompts.says, self.prompts.nothing, self.prompts.no_draft, self.decoder.quality,
                      self.decoder.masks):
            nn.init.normal_(table, std=0.1)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D G G"]:
        """What the decoder sees of pictures."""
        return self.encoder(images)

    def decode(self, seen: Float[Tensor, "B D G G"], points: Float[Tensor, "B P N 2"], signs: Int[Tensor, "B P N"],
               drafts: Float[Tensor, "B #P h w"] | None = None,
               drafted: Bool[Tensor, "B P"] | None = None) -> tuple[Float[Tensor, "B P M h w"], Float[Tensor, "B P M"]]:
        """P prompts of N points a picture; `drafts` are logits of earlier masks [4 G, 4 G], `drafted` who has one."""
        (rows, count), side = points.shape[:2], self.config.grid
        tokens = self.prompts.tokens(points, signs).to(seen.dtype)
        extra = self.prompts.no_draft[:, :, None, None].to(seen.dtype)
        if drafts is not None:
            given = self.prompts.drafts(drafts.flatten(0, 1)[:, None]).to(seen.dtype).unflatten(0, drafts.shape[:2])
            extra = given if drafted is None else torch.where(drafted[..., None, None, None], given, extra)
        image = (seen[:, None] + extra).expand(-1, count, -1, -1, -1).flatten(0, 1)
        at = (torch.arange(side, device=seen.device) + 0.5) / side
        where = self.prompts.place(torch.stack([at.expand(side, -1), at[:, None].expand(-1, side)], -1))
        masks, quality = self.decoder(image, where.flatten(0, 1).to(seen.dtype), tokens.flatten(0, 1),
                                      (signs != PADDING).flatten(0, 1))
        return masks.unflatten(0, (rows, count)), quality.unflatten(0, (rows, count))

    def forward(self, images: Float[Tensor, "B C H W"], points: Float[Tensor, "B P N 2"], signs: Int[Tensor, "B P N"],
                drafts: Float[Tensor, "B #P h w"] | None = None,
                drafted: Bool[Tensor, "B P"] | None = None) -> tuple[Float[Tensor, "B P M h w"],
                                                                     Float[Tensor, "B P M"]]:
        """`encode`, then `decode`."""
        return self.decode(self.encode(images), points, signs, drafts, drafted)


def look(attention: CrossAttention, x: Float[Tensor, "N T D"], key: Float[Tensor, "N S D"],
         value: Float[Tensor, "N S D"], seen: Bool[Tensor, "N #T S"] | None = None) -> Float[Tensor, "N T D"]:
    """Attention whose keys and values come from two sequences: with their places and without."""
    k, v = (f(z).unflatten(-1, (-1, attention.head_dim)) for f, z in ((attention.k, key), (attention.v, value)))
    return attention(x, (k, v), seen)


SIZES = {
    "sam-vit-b": Config(),                                              # segment-anything's build_sam.py
    "sam-vit-l": Config(dim=1024, layers=24, heads=16, whole=(5, 11, 17, 23)),
    "sam-vit-h": Config(dim=1280, layers=32, heads=16, whole=(7, 15, 23, 31)),
}

TURN = tuple((f"decoder.turns.{{i}}.{ours}.{{x}}", f"mask_decoder.transformer.layers.{{i}}.{theirs}.{{x}}")
             for ours, theirs in (("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("norm3", "layer_norm3"),
                                  ("norm4", "layer_norm4"), ("mlp.up", "mlp.lin1"), ("mlp.down", "mlp.lin2")))
LOOKS = tuple((f"{ours}.{a}.{{x}}", f"mask_decoder.transformer.{theirs}.{b}.{{x}}")
              for ours, theirs in (("decoder.turns.{i}.own", "layers.{i}.self_attn"),
                                   ("decoder.turns.{i}.to_image", "layers.{i}.cross_attn_token_to_image"),
                                   ("decoder.turns.{i}.to_tokens", "layers.{i}.cross_attn_image_to_token"),
                                   ("decoder.last", "final_attn_token_to_image"))
              for a, b in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "out_proj")))
PERCEPTRONS = tuple((f"{ours}.{a}.{{x}}", f"{theirs}.{b}.{{x}}")
                    for ours, theirs in (("decoder.mappers.{i}", "mask_decoder.output_hypernetworks_mlps.{i}"),
                                         ("decoder.head", "mask_decoder.iou_prediction_head"))
                    for a, b in (("first", "proj_in"), ("middle.{j}", "layers.{j}"), ("last", "proj_out")))
HF = NameMap(
    ("encoder.patches.{x}", "vision_encoder.patch_embed.projection.{x}"),
    ("encoder.position", "vision_encoder.pos_embed"),
    ("encoder.blocks.{i}.norm1.{x}", "vision_encoder.layers.{i}.layer_norm1.{x}"),
    ("encoder.blocks.{i}.norm2.{x}", "vision_encoder.layers.{i}.layer_norm2.{x}"),
    ("encoder.blocks.{i}.attn.(q,k,v).weight", "vision_encoder.layers.{i}.attn.qkv.weight"),
    ("encoder.blocks.{i}.attn.(q,k,v).bias", "vision_encoder.layers.{i}.attn.qkv.bias"),
    ("encoder.blocks.{i}.attn.o.{x}", "vision_encoder.layers.{i}.attn.proj.{x}"),
    ("encoder.blocks.{i}.attn.down", "vision_encoder.layers.{i}.attn.rel_pos_h"),
    ("encoder.blocks.{i}.attn.across", "vision_encoder.layers.{i}.attn.rel_pos_w"),
    ("encoder.blocks.{i}.mlp.up.{x}", "vision_encoder.layers.{i}.mlp.lin1.{x}"),
    ("encoder.blocks.{i}.mlp.down.{x}", "vision_encoder.layers.{i}.mlp.lin2.{x}"),
    ("encoder.conv{n}.{x}", "vision_encoder.neck.conv{n}.{x}"),
    ("encoder.norm{n}.{x}", "vision_encoder.neck.layer_norm{n}.{x}"),
    ("prompts.waves", "shared_image_embedding.positional_embedding"),
    ("prompts.says", "prompt_encoder.point_embed.{e}.weight"),
    ("prompts.nothing", "prompt_encoder.not_a_point_embed.weight"),
    ("prompts.no_draft", "prompt_encoder.no_mask_embed.weight"),
    ("prompts.conv{n}.{x}", "prompt_encoder.mask_embed.conv{n}.{x}"),
    ("prompts.norm{n}.{x}", "prompt_encoder.mask_embed.layer_norm{n}.{x}"),
    ("decoder.quality", "mask_decoder.iou_token.weight"),
    ("decoder.masks", "mask_decoder.mask_tokens.weight"),
    *TURN, *LOOKS, *PERCEPTRONS,
    ("decoder.norm.{x}", "mask_decoder.transformer.layer_norm_final_attn.{x}"),
    ("decoder.grow1.{x}", "mask_decoder.upscale_conv1.{x}"),
    ("decoder.grow2.{x}", "mask_decoder.upscale_conv2.{x}"),
    ("decoder.grow_norm.{x}", "mask_decoder.upscale_layer_norm.{x}"),
    ignore=("prompt_encoder.shared_embedding.positional_embedding",))  # the same table again

PARTS: dict[str, dict[str, tuple[str, Any]]] = {                       # our field -> their key, absent value
    "vision_config": {"image": ("image_size", 1024), "patch": ("patch_size", 16), "channels": ("num_channels", 3),
                      "dim": ("hidden_size", 768), "layers": ("num_hidden_layers", 12),
                      "heads": ("num_attention_heads", 12), "window": ("window_size", 14),
                      "whole": ("global_attn_indexes", (2, 5, 8, 11)), "activation": ("hidden_act", "gelu"),
                      "width": ("output_channels", 256)},
    "prompt_encoder_config": {"image": ("image_size", 1024), "patch": ("patch_size", 16),
                              "width": ("hidden_size", 256), "draft": ("mask_input_channels", 16)},
    "mask_decoder_config": {"width": ("hidden_size", 256), "turns": ("num_hidden_layers", 2),
                            "decoder_heads": ("num_attention_heads", 8), "decoder_hidden": ("mlp_dim", 2048),
                            "shrink": ("attention_downsample_rate", 2), "choices": ("num_multimask_outputs", 3),
                            "quality_layers": ("iou_head_depth", 3), "quality_hidden": ("iou_head_hidden_dim", 256)}}
FIXED: dict[str, dict[str, Any]] = {
    "vision_config": {"qkv_bias": True, "use_abs_pos": True, "use_rel_pos": True, "layer_norm_eps": 1e-6},
    "prompt_encoder_config": {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_point_embeddings": 4},
    "mask_decoder_config": {"hidden_act": "relu", "layer_norm_eps": 1e-6}}
DERIVED = ("mlp_dim", "mlp_ratio", "num_pos_feats", "scale", "image_embedding_size", "tie_word_embeddings")


def _read(whole: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """Our fields from three configs, which must agree on what they share."""
    found: dict[str, Any] = {}
    for part, fields in PARTS.items():
        given = {k.removeprefix(f"{part}."): v for k, v in whole.items() if k.startswith(f"{part}.") and v is not None}
        for key, value in FIXED[part].items():
            if given.pop(key, value) != value:
                raise ValueError(f"{part}.{key} = {whole[f'{part}.{key}']!r} is not supported (only {value!r})")
        for ours, (key, absent) in fields.items():
            value = given.get(key, absent)
            if found.setdefault(ours, value) != value:
                raise ValueError(f"{part}.{key} = {value!r} disagrees with the other parts' {found[ours]!r}")
        known = [key for key, _ in fields.values()]
        for key, value in given.items():
            fine = any(fnmatchcase(key.split(".")[0], name) for name in (*known, *DERIVED, *GENERATION, *HARMLESS))
            if not fine and value not in (False, [], {}, ""):
                raise ValueError(f"{part}.{key} = {value!r} is a setting this family does not know")
    features = whole.get("vision_config.num_pos_feats", found["width"] // 2)
    if features != found["width"] // 2:
        raise ValueError(f"vision_config.num_pos_feats = {features!r} is not half of output_channels")
    ratio = whole.get("vision_config.mlp_ratio") or 4.0
    return {**found, "whole": list(found["whole"]),
            "hidden": whole.get("vision_config.mlp_dim") or int(found["dim"] * ratio)}


def _write(config: Config, kind: Kind) -> dict[str, Any]:
    keys = {f"{part}.{key}": getattr(config, ours) for part, fields in PARTS.items()
            for ours, (key, _) in fields.items()}
    return {**keys, "vision_config.mlp_dim": config.hidden, "vision_config.num_pos_feats": config.width // 2,
            "vision_config.mlp_ratio": config.hidden / config.dim}


HF_CONFIG = FieldMap(Kind("SamModel", "sam"), rows=(), fixed={}, groups=(
    Group((*(f"{part}.*" for part in PARTS), "tie_word_embeddings"), _read, _write),))
