"""wav2vec 2.0 and HuBERT: encoders of raw sound that learn without labels, with heads for letters and for classes.

Baevski et al. 2020, https://arxiv.org/abs/2006.11477 (section 2; table 6); Hsu et al. 2021,
https://arxiv.org/abs/2106.07447 (the same network, other targets). Seven convolutions make one vector of 320 samples; a
wide convolution over time tells places. `Config.kind` is which of the two, `Config.head` what stands on top:
"contrast" (wav2vec 2.0: hidden places against codewords), "clusters" (HuBERT: the cluster of each hidden place), "ctc"
(letters; `end` is the blank), "audio" (classes of sounds), "none". Objectives: speech_contrast, masked_clusters, ctc.

    model = Model(SIZES["wav2vec2-base"]); model(samples, heard)           # samples: mean 0, deviation 1
"""
import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.names import FieldMap, FieldMaps, Kind, NameMap, NameMaps
from meristem.nn.attention import Attention, Reach
from meristem.nn.conv import GroupNorm
from meristem.nn.linear import Linear
from meristem.nn.mlp import MLP
from meristem.nn.norm import LayerNorm
from meristem.nn.sound import Conv, Positional, Stem


@dataclass(frozen=True)
class Config:
    """An encoder's shape; `hidden` 0 means 4 dim. `samples` is the length of the sounds that it is trained on."""

    kind: Literal["wav2vec2", "hubert"] = "wav2vec2"
    head: Literal["none", "contrast", "clusters", "ctc", "audio"] = "none"
    vocab: int = 32
    rate: int = 16_000
    samples: int = 250_000
    dims: tuple[int, ...] = (512,) * 7              # of the convolutions
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    bias: bool = False                  # of the convolutions
    norm: Literal["group", "layer"] = "group"       # the first convolution's channels, or every one's places
    before: bool = False                # blocks normalise before their branches, not after them
    dim: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 0
    reach: int = 128                    # taps of the convolution that tells places
    groups: int = 16                    # and its groups
    books: int = 2                      # contrast: codebooks,
    codes: int = 320                    # codewords of each,
    code_dim: int = 256                 # their width together,
    project: int = 256                  # and that of the space of comparison; audio: width before the classes
    clusters: int = 100
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    hides: float = 0.05                 # 0: it has no vector for hidden places
    end: int = 0                        # the blank of ctc
    eps: float = 1e-5
    std: float = 0.02
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        if not len(self.dims) == len(self.strides) == len(self.kernels) > 0:
            raise ValueError("dims, strides and kernels list one number for each convolution")
        if self.dim % self.heads or self.dim % self.groups or self.code_dim % self.books:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads}) and groups ({self.groups}), "
                             f"code_dim ({self.code_dim}) of books ({self.books})")
        if {"contrast": "wav2vec2", "clusters": "hubert"}.get(self.head, self.kind) != self.kind:
            raise ValueError(f"{self.kind} has no head {self.head}")

    def frames(self, samples: Any) -> Any:
        """How many vectors come of so many samples (a number or a tensor of them)."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples


class Layer(nn.Module):
    """A convolution, a norm where it has one, GELU."""

    def __init__(self, c: Config, number: int):
        super().__init__()
        kind, inputs = (Conv, c.dims[number - 1]) if number else (Stem, 1)
        self.conv = kind(inputs, c.dims[number], c.kernels[number], c.strides[number], bias=c.bias)
        width = c.dims[number]
        self.norm = LayerNorm(width) if c.norm == "layer" else GroupNorm(width, width, 1e-5) if not number else None

    def forward(self, x: Float[Tensor, "B I N"]) -> Float[Tensor, "B O M"]:
        """[B, in, N] -> [B, out, N / stride]."""
        x = self.conv(x)
        if isinstance(self.norm, LayerNorm):
            x = self.norm(x.mT).mT
        elif self.norm is not None:
            x = self.norm(x)
        return F.gelu(x)


class Block(nn.Module):
    """norm(x + attention(x)), norm(x + mlp(x)); with `before` x + attention(norm(x)), x + mlp(norm(x))."""

    def __init__(self, c: Config):
        super().__init__()
        self.before, self.drop = c.before, nn.Dropout(c.dropout)
        self.attn = Attention(c.dim, c.heads, bias=True, reach=Reach(causal=False))
        self.norm1, self.norm2 = LayerNorm(c.dim, c.eps), LayerNorm(c.dim, c.eps)
        self.mlp = MLP(c.dim, c.hidden)

    def forward(self, x: Float[Tensor, "B T D"], segments: Int[Tensor, "B T"] | None) -> Float[Tensor, "B T D"]:
        """One layer, [B, T, D] -> [B, T, D]."""
        if self.before:
            x = x + self.drop(self.attn(self.norm1(x), segments=segments))
            return x + self.drop(self.mlp(self.norm2(x)))
        x = self.norm1(x + self.drop(self.attn(x, segments=segments)))
        return self.norm2(x + self.drop(self.mlp(x)))


class Codebooks(nn.Module):
    """The nearest codeword of each book, drawn with Gumbel noise while training (section 2)."""

    def __init__(self, c: Config):
        super().__init__()
        self.books, self.codes, self.temperature = c.books, c.codes, 2.0
        self.words = nn.Parameter(torch.rand(1, c.books * c.codes, c.code_dim // c.books))
        self.choose = Linear(c.dims[-1], c.books * c.codes)

    def forward(self, x: Float[Tensor, "B T E"]) -> tuple[Tensor, Tensor]:
        """Codewords [B, T, code_dim] and the soft shares of all words [B, T, books, codes]."""
        logits = self.choose(x).unflatten(-1, (self.books, self.codes)).float()
        if self.training:
            picked = F.gumbel_softmax(logits, tau=self.temperature, hard=True)
        else:
            picked = F.one_hot(logits.argmax(-1), self.codes).float()
        words = self.words.float().view(self.books, self.codes, -1)
        return torch.einsum("btgv,gvd->btgd", picked, words).flatten(2).to(x.dtype), logits.softmax(-1)


class Model(nn.Module):
    """Samples -> what the head gives; `features` and `pool` are what stands below any head."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.layers = nn.ModuleList(Layer(c, number) for number in range(len(c.dims)))
        self.enter_norm, self.enter = LayerNorm(c.dims[-1], c.eps), Linear(c.dims[-1], c.dim)
        self.hide = nn.Parameter(torch.rand(c.dim)) if c.hides else None
        self.place = Positional(c.dim, c.reach, c.groups)
        self.norm, self.drop = LayerNorm(c.dim, c.eps), nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        contrast = c.head == "contrast"
        self.quantiser = Codebooks(c) if contrast else None
        self.from_words = Linear(c.code_dim, c.project) if contrast else None
        self.project = Linear(c.dim, c.project) if contrast or c.head == "audio" else None
        outputs = {"ctc": c.vocab, "clusters": c.clusters, "audio": len(c.labels)}
        self.head = Linear(c.project if c.head == "audio" else c.dim, outputs[c.head]) if c.head in outputs else None
        self.initialise()

    def initialise(self) -> None:
        """Matrices Normal(0, std), convolutions as He et al. 2015, biases 0; codewords choose with deviation 1."""
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.normal_(module.weight, std=self.config.std)
                nn.init.zeros_(module.bias)
            elif isinstance(module, Conv):
                nn.init.kaiming_normal_(module.weight)
        if self.quantiser is not None:
            nn.init.normal_(self.quantiser.choose.weight, std=1.0)

    def heard(self, source: Float[Tensor, "B N"]) -> Float[Tensor, "B T E"]:
        """The convolutions' output, normalised: what is hidden, and what codewords are chosen for."""
        x = source[:, None]
        for layer in self.layers:
            x = layer(x)
        return self.enter_norm(x.mT)

    def features(self, source: Float[Tensor, "B N"], heard: Int[Tensor, "B"] | None = None,
                 hidden: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """The last layer's vectors; `heard` counts the samples that are no padding, `hidden` places are not shown."""
        return self.context(self.heard(source), heard, hidden)

    def context(self, given: Float[Tensor, "B T E"], heard: Int[Tensor, "B"] | None,
                hidden: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B T D"]:
        """What the blocks make of the convolutions' output."""
        x, segments = self.enter(given), None
        if hidden is not None:
            assert self.hide is not None, "this model has no vector for hidden places (config.hides = 0)"
            x = torch.where(hidden[..., None], self.hide.to(x.dtype), x)
        if heard is not None:
            real = self.real(heard, x.shape[1])
            x, segments = x * real[..., None], (~real).long()
        x = x + self.place(x)
        x = self.drop(x if self.config.before else self.norm(x))
        for block in self.blocks:
            x = block(x, segments)
        return self.norm(x) if self.config.before else x

    def real(self, heard: Int[Tensor, "B"], length: int) -> Bool[Tensor, "B T"]:
        """Which places are no padding, at least the first."""
        return torch.arange(length, device=heard.device) < self.config.frames(heard).clamp(min=1)[:, None]

    def pool(self, features: Float[Tensor, "B T D"], heard: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B D"]:
        """The mean over the places that are no padding."""
        if heard is None:
            return features.mean(1)
        real = self.real(heard, features.shape[1])[..., None]
        return (features * real).sum(1) / real.sum(1)

    def forward(self, source: Float[Tensor, "B N"], heard: Int[Tensor, "B"] | None = None,
                hidden: Bool[Tensor, "B T"] | None = None) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Features [B, T, D], logits [B, T, V] ("ctc", "clusters") or [B, L] ("audio").

        "contrast": vectors of the places [B, T, P], of their codewords [B, T, P], and the shares of all codewords.
        """
        given = self.heard(source)
        x = self.context(given, heard, hidden)
        if self.quantiser is not None and self.project is not None and self.from_words is not None:
            words, shares = self.quantiser(given)
            return self.project(x), self.from_words(words), shares
        if self.head is None:
            return x
        return self.head(x if self.project is None else self.pool(self.project(x), heard))


LARGE = {"dim": 1024, "layers": 24, "heads": 16}
SIZES = {                                                       # wav2vec 2.0 section 4.2; HuBERT table 1
    "wav2vec2-base": Config(head="contrast"),
    "wav2vec2-large": Config(head="contrast", code_dim=768, project=768, **LARGE),          # type: ignore[arg-type]
    "hubert-base": Config(kind="hubert"),
    "hubert-large": Config(kind="hubert", norm="layer", before=True, bias=True, **LARGE),   # type: ignore[arg-type]
}

LAYER = (("attn.q", "attention.q_proj"), ("attn.k", "attention.k_proj"), ("attn.v", "attention.v_proj"),
         ("attn.o", "attention.out_proj"), ("norm1", "layer_norm"), ("norm2", "final_layer_norm"),
         ("mlp.up", "feed_forward.intermediate_dense"), ("mlp.down", "feed_forward.output_dense"))


@functools.cache
def names(kind: str, head: str) -> NameMap:
    """The tensor names of one kind with one head."""
    body, place = "" if head == "none" else f"{kind}.", "encoder.pos_conv_embed.conv"
    tops = {"ctc": (("head.{x}", "lm_head.{x}"),), "clusters": (("head.{x}", "cluster_head.{x}"),), "none": (),
            "audio": (("project.{x}", "projector.{x}"), ("head.{x}", "classifier.{x}")),
            "contrast": (("quantiser.words", "quantizer.codevectors"), ("project.{x}", "project_hid.{x}"),
                         ("quantiser.choose.{x}", "quantizer.weight_proj.{x}"), ("from_words.{x}", "project_q.{x}"))}
    return NameMap(
        ("layers.{i}.conv.{x}", f"{body}feature_extractor.conv_layers.{{i}}.conv.{{x}}"),
        ("layers.{i}.norm.{x}", f"{body}feature_extractor.conv_layers.{{i}}.layer_norm.{{x}}"),
        ("enter_norm.{x}", f"{body}feature_projection.layer_norm.{{x}}"),
        ("enter.{x}", f"{body}feature_projection.projection.{{x}}"), ("hide", f"{body}masked_spec_embed"),
        ("place.length", f"{body}{place}.parametrizations.weight.original0"),
        ("place.direction", f"{body}{place}.parametrizations.weight.original1"), ("place.bias", f"{body}{place}.bias"),
        ("norm.{x}", f"{body}encoder.layer_norm.{{x}}"),
        *((f"blocks.{{i}}.{ours}.{{x}}", f"{body}encoder.layers.{{i}}.{theirs}.{{x}}") for ours, theirs in LAYER),
        *tops[head], old=((f"{place}.weight_g", f"{place}.parametrizations.weight.original0"),
                          (f"{place}.weight_v", f"{place}.parametrizations.weight.original1")))


HF = NameMaps(lambda config: names(config.kind, config.head))

ROWS = (("vocab", "vocab_size", 32), ("rate", "sampling_rate", 16_000), ("samples", "training_samples", 250_000),
        ("dims", "conv_dim", [512] * 7), ("strides", "conv_stride", [5, 2, 2, 2, 2, 2, 2]),
        ("kernels", "conv_kernel", [10, 3, 3, 3, 3, 2, 2]), ("bias", "conv_bias", False),
        ("norm", "feat_extract_norm", "group"), ("before", "do_stable_layer_norm", False), ("dim", "hidden_size", 768),
        ("layers", "num_hidden_layers", 12), ("heads", "num_attention_heads", 12),
        ("hidden", "intermediate_size", 3072),
        ("reach", "num_conv_pos_embeddings", 128), ("groups", "num_conv_pos_embedding_groups", 16),
        ("hides", "mask_time_prob", 0.05), ("end", "pad_token_id", 0), ("eps", "layer_norm_eps", 1e-5),
        ("std", "initializer_range", 0.02), ("dropout", "hidden_dropout", 0.1))
FIXED = {"hidden_act": "gelu", "feat_extract_activation": "gelu", "use_weighted_layer_sum": False, "add_adapter": False,
         "adapter_attn_dim": None, "feat_proj_layer_norm": True, "conv_pos_batch_norm": False}
TRAINING = ("apply_spec_augment", "mask_", "layerdrop", "num_negatives", "contrastive_", "diversity_", "ctc_", "tdnn_",
            "xvector_", "adapter_", "num_adapter_layers", "output_hidden_size", "num_feat_extract_layers", "gradient_",
            "freeze_", "tokenizer_class", "feat_extract_dropout")


class _Fields(FieldMap):
    """What only training or another head reads stands in their config; it changes nothing that is computed here."""

    def restore(self, tree: Any, source: str = "config.json") -> dict[str, Any]:
        """config.json -> our config's fields."""
        other = {"classifier_proj_size", "proj_codevector_dim"} - {row[1] for row in self.rows}
        kept = {k: v for k, v in tree.items() if k not in other and not k.startswith(TRAINING)}
        kept |= {k: tree[k] for k in ("mask_time_prob", "adapter_attn_dim") if tree.get(k) is not None}
        return super().restore(kept, source)


BOOKS = (("books", "num_codevector_groups", 2), ("codes", "num_codevectors_per_group", 320),
         ("code_dim", "codevector_dim", 256))
HF_CONFIG = FieldMaps(
    _Fields(Kind("Wav2Vec2ForPreTraining", "wav2vec2", {"kind": "wav2vec2", "head": "contrast"}),
            rows=(*ROWS, *BOOKS, ("project", "proj_codevector_dim", 256)),
            fixed=FIXED),
    _Fields(Kind("Wav2Vec2Model", "wav2vec2", {"kind": "wav2vec2", "head": "none"}),
            Kind("Wav2Vec2ForCTC", "wav2vec2", {"kind": "wav2vec2", "head": "ctc"}),
            Kind("Wav2Vec2ForSequenceClassification", "wav2vec2", {"kind": "wav2vec2", "head": "audio"}),
            rows=(*ROWS, *BOOKS, ("project", "classifier_proj_size", 256)),
            fixed=FIXED, labels="labels"),
    _Fields(Kind("HubertModel", "hubert", {"kind": "hubert", "head": "none"}),
            Kind("HubertForCTC", "hubert", {"kind": "hubert", "head": "ctc"}),
            Kind("HubertForSequenceClassification", "hubert", {"kind": "hubert", "head": "audio"}),
            Kind("HubertForMaskedClusters", "hubert", {"kind": "hubert", "head": "clusters"}),       # ours
            rows=(*ROWS, ("project", "classifier_proj_size", 256), ("clusters", "num_clusters", 100)), fixed=FIXED,
            labels="labels"))
