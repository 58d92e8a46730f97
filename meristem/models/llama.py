"""LLaMA and its relatives: decoders with rotary positions, RMSNorm, SwiGLU and grouped-query attention.

LLaMA: Touvron et al. 2023, https://arxiv.org/abs/2302.13971 (table 2); Llama 2, https://arxiv.org/abs/2307.09288
(table 1); Llama 3, https://arxiv.org/abs/2407.21783 (table 3). With a few fields more the same file is
  Mistral   `window`: each layer sees the last 4,096 positions, https://arxiv.org/abs/2310.06825
  Qwen2     `bias`: queries, keys and values have biases, https://arxiv.org/abs/2407.10671
  Qwen3     `qk_norm`: queries and keys are normalised per head, https://arxiv.org/abs/2505.09388
  SmolLM3   `nope`: layers without rotary positions, https://arxiv.org/abs/2501.18795
`scaling` stretches the rotary positions (`nn.position.Scaling`). Train one with `meristem pretrain llama
data.corpus=FOLDER model.window=128`; in Python: `Model(Config(vocab=4096, dim=256, layers=4, heads=4))`.
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meristem.core.names import FieldMap, Group, Kind, NameMap
from meristem.nn.attention import Attention, Cache, Reach
from meristem.nn.decode import Fusible
from meristem.nn.linear import Embedding, Linear
from meristem.nn.mlp import GatedMLP
from meristem.nn.norm import RMSNorm
from meristem.nn.position import SCALING, UNSCALED, Scaling, rotary


@dataclass(frozen=True)
class Config:
    """A Llama's shape; 0 means derived: groups = heads, head_dim = dim / heads, hidden = 8/3 dim, rounded up to 64s."""

    vocab: int = 32000
    context: int = 4096
    dim: int = 4096
    layers: int = 32
    heads: int = 32
    groups: int = 0
    head_dim: int = 0
    hidden: int = 0
    theta: float = 10_000.0
    eps: float = 1e-5
    tied: bool = False
    qk_norm: bool = False
    scaling: Scaling = UNSCALED         # its `original` becomes the context where it is 0
    window: int = 0                     # positions a query sees, its own included; 0 = all before it
    windowed: tuple[int, ...] = ()      # the layers that have the window; () = all
    nope: tuple[int, ...] = ()          # the layers without rotary positions
    bias: bool = False                  # of queries, keys and values
    out_bias: bool = False              # of attention's output
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "groups", self.groups or self.heads)
        set_(self, "head_dim", self.head_dim or self.dim // self.heads)
        set_(self, "hidden", self.hidden or 64 * math.ceil(8 * self.dim / 3 / 64))
        if self.heads % self.groups:
            raise ValueError(f"heads ({self.heads}) must be a multiple of groups ({self.groups})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary positions")
        if self.scaling.kind in ("dynamic", "yarn", "llama3") and not self.scaling.original:
            set_(self, "scaling", replace(self.scaling, original=self.context))
        if self.window < 0 or self.windowed and not self.window:
            raise ValueError(f"window ({self.window}) must be positive where layers have it")
        for name in ("windowed", "nope"):
            which = tuple(sorted(set(getattr(self, name))))
            if which and not 0 <= which[0] <= which[-1] < self.layers:
                raise ValueError(f"{name} names layer {which[-1]} of {self.layers}")
            set_(self, name, which)
        if len(self.windowed) == self.layers:
            set_(self, "windowed", ())

    def windows(self) -> list[int]:
        """The window of each layer, 0 where it sees everything."""
        return [self.window if not self.windowed or i in self.windowed else 0 for i in range(self.layers)]


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, c: Config, layer: int):
        super().__init__()
        self.norm1 = RMSNorm(c.dim, c.eps)
        self.attn = Attention(c.dim, c.heads, groups=c.groups, head_dim=c.head_dim, bias=c.bias, out_bias=c.out_bias,
                              qk_norm=c.qk_norm, eps=c.eps, reach=Reach(window=c.windows()[layer]))
        self.norm2 = RMSNorm(c.dim, c.eps)
        self.mlp = GatedMLP(c.dim, c.hidden, c.mlp_bias)
        self.turned = layer not in c.nope

    def forward(self, x: Float[Tensor, "B T D"], rope: Float[Tensor, "2 *R T K"],
                positions: Int[Tensor, "B T"] | None = None, cache: Cache | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.norm1(x), rope if self.turned else None, positions, cache, segments)
        return x + self.mlp(self.norm2(x))


class Model(Fusible):
    """Token ids -> logits of the next token."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.embed = Embedding(c.vocab, c.dim)
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c.layers))
        self.norm = RMSNorm(c.dim, c.eps)
        self.head = Linear(c.dim, c.vocab, bias=False)
        if c.tied:
            self.head.weight = self.embed.weight
        self.initialise()

    def initialise(self) -> None:
        """Normal(0, 0.02); zero in biases and in the two layers that write into the residual stream.

        Blocks then start as the identity: Zhang, Dauphin & Ma 2019, https://arxiv.org/abs/1901.09321; 350 steps of Muon
        on characters end at 1.634 nats instead of 1.652 (docs/log.md).
        """
        for name, p in self.named_parameters():
            if name.endswith(("attn.o.weight", "mlp.down.weight", "bias")):
                nn.init.zeros_(p)
            elif p.ndim > 1:
                nn.init.normal_(p, std=0.02)

    def features(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                 cache: list[Cache] | None = None,
                 segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The last layer's normalised output, before the head; see `nn.attention` for `positions` and `segments`."""
        c, x = self.config, self.embed(tokens)
        if cache and positions is not None and self.native is not None and self.native.fits(x, cache):
            return self.native(x, lambda at: rotary(at, c.head_dim, c.theta, c.scaling), positions, cache,
                               fixed=c.scaling.kind != "dynamic")              # the same in one call, while generating
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        rope = rotary(at, c.head_dim, c.theta, c.scaling)
        for i, block in enumerate(self.blocks):
            x = block(x, rope, positions, cache[i] if cache else None, segments)
        return self.norm(x)

    def forward(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"] | None = None,
                cache: list[Cache] | None = None,
                segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V] in the compute type."""
        return self.head(self.features(tokens, positions, cache, segments))

    def caches(self, batch: int, length: int) -> list[Cache]:
        """Empty key/value buffers for `batch` rows of at most `length` positions, one a layer."""
        c, dtype = self.config, self.embed.compute or self.embed.weight.dtype
        return [Cache(batch, c.groups, length, c.head_dim, dtype) for _ in self.blocks]


def _llama3(**shape: Any) -> Config:
    """Llama 3 table 3: 8 key/value heads, theta 500,000, 128,256 ids (128,000 and the reserved ones)."""
    return Config(**{"vocab": 128_256, "context": 8192, "groups": 8, "theta": 500_000.0, **shape})


def _llama31(factor: float = 8.0, **shape: Any) -> Config:
    """The same at a context of 131,072: llama-models, models/llama3/reference_impl/model.py, apply_scaling."""
    return _llama3(context=131_072, scaling=Scaling("llama3", factor, original=8192), **shape)


def _qwen(**shape: Any) -> Config:
    return Config(**{"vocab": 151_936, "theta": 1e6, "eps": 1e-6, **shape})


def _smollm(**shape: Any) -> Config:
    return Config(**{"vocab": 49_152, "context": 2048, "tied": True, **shape})


SIZES = {
    # LLaMA table 2
    "llama-7b": Config(context=2048, hidden=11008, eps=1e-6),
    "llama-13b": Config(context=2048, dim=5120, layers=40, heads=40, hidden=13824, eps=1e-6),
    "llama-33b": Config(context=2048, dim=6656, layers=60, heads=52, hidden=17920, eps=1e-6),
    "llama-65b": Config(context=2048, dim=8192, layers=80, heads=64, hidden=22016, eps=1e-6),
    # Llama 2 table 1
    "llama2-7b": Config(hidden=11008),
    "llama2-13b": Config(dim=5120, layers=40, heads=40, hidden=13824),
    "llama2-70b": Config(dim=8192, layers=80, heads=64, groups=8, hidden=28672),
    # Llama 3 table 3; the model cards of 3.1, 3.2 (1B and 3B share the embedding) and 3.3 (3.1's 70B again)
    "llama3-8b": _llama3(hidden=14336),
    "llama3-70b": _llama3(dim=8192, layers=80, heads=64, hidden=28672),
    "llama3.1-8b": _llama31(hidden=14336),
    "llama3.1-70b": _llama31(dim=8192, layers=80, heads=64, hidden=28672),
    "llama3.1-405b": _llama31(dim=16384, layers=126, heads=128, hidden=53248),
    "llama3.2-1b": _llama31(32.0, dim=2048, layers=16, heads=32, hidden=8192, tied=True),
    "llama3.2-3b": _llama31(32.0, dim=3072, layers=28, heads=24, hidden=8192, tied=True),
    # Mistral 7B table 1
    "mistral-7b": Config(context=32_768, groups=8, hidden=14336, window=4096),
    # Qwen2 table 1; its 7B and 72B have 152,064 ids
    "qwen2-0.5b": _qwen(context=131_072, dim=896, layers=24, heads=14, groups=2, hidden=4864, tied=True, bias=True),
    "qwen2-1.5b": _qwen(context=131_072, dim=1536, layers=28, heads=12, groups=2, hidden=8960, tied=True, bias=True),
    "qwen2-7b": _qwen(vocab=152_064, context=131_072, dim=3584, layers=28, heads=28, groups=4, hidden=18_944,
                      bias=True),
    "qwen2-72b": _qwen(vocab=152_064, context=131_072, dim=8192, layers=80, heads=64, groups=8, hidden=29_568, eps=1e-5,
                       bias=True),
    # Qwen3 table 1, widths from the models' config.json
    "qwen3-0.6b": _qwen(context=40_960, dim=1024, layers=28, heads=16, groups=8, head_dim=128, hidden=3072, tied=True,
                        qk_norm=True),
    "qwen3-1.7b": _qwen(context=40_960, dim=2048, layers=28, heads=16, groups=8, hidden=6144, tied=True, qk_norm=True),
    "qwen3-4b": _qwen(context=40_960, dim=2560, layers=36, heads=32, groups=8, head_dim=128, hidden=9728, tied=True,
                      qk_norm=True),
    "qwen3-8b": _qwen(context=40_960, layers=36, groups=8, hidden=12_288, qk_norm=True),
    "qwen3-14b": _qwen(context=40_960, dim=5120, layers=40, heads=40, groups=8, hidden=17_408, qk_norm=True),
    "qwen3-32b": _qwen(context=40_960, dim=5120, layers=64, heads=64, groups=8, head_dim=128, hidden=25_600,
                       qk_norm=True),
    # The model cards of SmolLM, SmolLM2 (the same shapes, 8,192 positions) and SmolLM3
    "smollm-135m": _smollm(dim=576, layers=30, heads=9, groups=3, hidden=1536),
    "smollm-360m": _smollm(dim=960, layers=32, heads=15, groups=5, hidden=2560),
    "smollm-1.7b": _smollm(dim=2048, layers=24, heads=32, hidden=8192),
    "smollm2-135m": _smollm(context=8192, dim=576, layers=30, heads=9, groups=3, hidden=1536, theta=100_000.0),
    "smollm2-360m": _smollm(context=8192, dim=960, layers=32, heads=15, groups=5, hidden=2560, theta=100_000.0),
    "smollm2-1.7b": _smollm(context=8192, dim=2048, layers=24, heads=32, hidden=8192, theta=130_000.0),
    "smollm3-3b": Config(128_256, 65_536, 2048, 36, 16, 4, hidden=11008, theta=5e6, eps=1e-6, tied=True,
                         nope=tuple(range(3, 36, 4))),
}

HF = NameMap(
    ("embed.weight", "model.embed_tokens.weight"),
    ("blocks.{i}.norm1.weight", "model.layers.{i}.input_layernorm.weight"),
    ("blocks.{i}.attn.q.{w}", "model.layers.{i}.self_attn.q_proj.{w}"),             # {w}: weight or bias
    ("blocks.{i}.attn.k.{w}", "model.layers.{i}.self_attn.k_proj.{w}"),
    ("blocks.{i}.attn.v.{w}", "model.layers.{i}.self_attn.v_proj.{w}"),
    ("blocks.{i}.attn.o.{w}", "model.layers.{i}.self_attn.o_proj.{w}"),
    ("blocks.{i}.attn.q_norm.weight", "model.layers.{i}.self_attn.q_norm.weight"),
    ("blocks.{i}.attn.k_norm.weight", "model.layers.{i}.self_attn.k_norm.weight"),
    ("blocks.{i}.norm2.weight", "model.layers.{i}.post_attention_layernorm.weight"),
    ("blocks.{i}.mlp.gate.{w}", "model.layers.{i}.mlp.gate_proj.{w}"),
    ("blocks.{i}.mlp.up.{w}", "model.layers.{i}.mlp.up_proj.{w}"),
    ("blocks.{i}.mlp.down.{w}", "model.layers.{i}.mlp.down_proj.{w}"),
    ("norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
    ignore=("model.layers.{i}.self_attn.rotary_emb.inv_freq",),        # a buffer that transformers < 4.32 saved
)



def _read_layers(theirs: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """Which layers have a window and which no rotation; every kind spells it differently."""
    layers, window, types = theirs["num_hidden_layers"], theirs.get("sliding_window"), theirs.get("layer_types")
    nope: list[int] = []
    if not isinstance(layers, int):
        raise ValueError(f"num_hidden_layers = {layers!r} is no number of layers")
    if kind.model_type == "llama" and window:
        raise ValueError(f"sliding_window = {window} means nothing to a LlamaForCausalLM")
    if kind.model_type == "mistral":
        window = theirs.get("sliding_window", 4096) or 0
        types = types or ["sliding_attention" if window else "full_attention"] * layers
    elif not theirs.get("use_sliding_window"):
        window = 0
    elif kind.model_type.startswith("qwen"):
        window, full = theirs.get("sliding_window", 4096) or 0, theirs.get("max_window_layers", 28)
        types = types or ["sliding_attention" if window and i >= full else "full_attention" for i in range(layers)]
    if kind.model_type == "smollm3":
        every = theirs.get("no_rope_layer_interval") or 4
        turned = theirs.get("no_rope_layers") or [(i + 1) % every for i in range(layers)]
        if len(turned) < layers:
            raise ValueError(f"no_rope_layers = {turned!r} does not say for each of {layers} layers whether it turns")
        nope = [i for i in range(layers) if not turned[i]]
        types = types or ["sliding_attention" if window and i in nope else "full_attention" for i in range(layers)]
    types = types or ["full_attention"] * layers
    if len(types) < layers or set(types) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"layer_types = {types!r} does not name full_attention or sliding_attention for each layer")
    windowed = [i for i in range(layers) if types[i] == "sliding_attention"]
    if windowed and not window or (kind.model_type == "mistral" and 0 < len(windowed) < layers):
        raise ValueError(f"layer_types = {types!r} and the window of {window or 0} disagree")
    return {"window": window if windowed else 0, "windowed": windowed, "nope": nope}


def _write_layers(c: Config, kind: Kind) -> dict[str, Any]:
    if kind.model_type == "llama":
        return {}
    if kind.model_type == "mistral":
        return {"sliding_window": c.window}
    keys: dict[str, Any] = {}
    if c.window:
        types = ["sliding_attention" if window else "full_attention" for window in c.windows()]
        keys = {"use_sliding_window": True, "sliding_window": c.window, "layer_types": types}
        if kind.model_type.startswith("qwen"):
            keys["max_window_layers"] = types.index("sliding_attention")   # transformers < 4.53 knows a first one only
    if kind.model_type == "smollm3":
        # its default padding id, 128,004, would lie outside a smaller vocabulary
        keys |= {"no_rope_layers": [int(i not in c.nope) for i in range(c.layers)], "pad_token_id": None}
    return keys


def _read_biases(theirs: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    if kind.model_type in ("mistral", "qwen2"):
        want = kind.ours["bias"]
        if theirs.get("attention_bias", want) not in (want, None) or theirs.get("mlp_bias"):
            raise ValueError(f"attention_bias and mlp_bias mean nothing to a {kind.architecture}")
        return {}
    attention, mlp = bool(theirs.get("attention_bias")), bool(theirs.get("mlp_bias"))
    return {"bias": attention, "out_bias": attention, "mlp_bias": mlp}


def _write_biases(c: Config, kind: Kind) -> dict[str, Any]:
    if kind.model_type in ("mistral", "qwen2"):
        return {}
    return {"attention_bias": c.bias} | ({"mlp_bias": c.mlp_bias} if kind.model_type != "qwen3" else {})


LAYERS = Group(("sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "no_rope_layer*"),
               _read_layers, _write_layers)
BIASES = Group(("attention_bias", "mlp_bias"), _read_biases, _write_biases)

HF_CONFIG = FieldMap(
    Kind("LlamaForCausalLM", "llama", {"qk_norm": False, "window": 0, "nope": ()},
         when=lambda c: c.bias == c.out_bias),
    # without a window: read only, written as the equal Llama
    Kind("MistralForCausalLM", "mistral",
         {"qk_norm": False, "windowed": (), "nope": (), "bias": False, "out_bias": False, "mlp_bias": False},
         absent={"num_key_value_heads": 8, "sliding_window": 4096}),
    Kind("Qwen2ForCausalLM", "qwen2",
         {"qk_norm": False, "nope": (), "bias": True, "out_bias": False, "mlp_bias": False}),
    Kind("Qwen3ForCausalLM", "qwen3", {"qk_norm": True, "nope": (), "mlp_bias": False}, absent={"head_dim": 128},
         when=lambda c: c.bias == c.out_bias),
    # every fourth layer without rotation and one embedding are its defaults
    Kind("SmolLM3ForCausalLM", "smollm3", {"qk_norm": False}, when=lambda c: c.bias == c.out_bias,
         absent={"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_parameters.rope_theta": 2e6}),
    rows=(
        ("vocab", "vocab_size"),
        ("context", "max_position_embeddings"),
        ("dim", "hidden_size"),
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("groups", "num_key_value_heads", 0),
        ("head_dim", "head_dim", 0),
        ("hidden", "intermediate_size"),
        ("theta", "rope_parameters.rope_theta|rope_theta", 10_000.0),   # transformers 5 | 4
        ("eps", "rms_norm_eps", 1e-6),
        ("tied", "tie_word_embeddings", False),
    ),
    fixed={"hidden_act": "silu", "rope_parameters.partial_rotary_factor|partial_rotary_factor": 1.0},
    write=("hidden_act",),
    groups=(SCALING, LAYERS, BIASES),
)
