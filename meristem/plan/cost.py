"""What a model costs, exactly, from its layers on the meta device: parameters, FLOPs a token, bytes.

    module = on_meta("llama", Part("llama", {"dim": 256, "layers": 4, "heads": 4, "vocab": 4096}))
    cost = Cost.of(module, context=256)
    cost.parameters, cost.training_flops, cost.memory(tokens=4096)

A matrix product of a [T, I] by an [I, O] matrix is 2 I O FLOPs a token; backward is twice forward. Attention's two
products over a context of T are 2 * 2 * T * heads * head_dim a token when the whole square is counted, as PaLM
(Chowdhery et al. 2022, appendix B) and nanoGPT do, and half of that when only the causal triangle is; softmax, norms
and rotations are below 1 % and left out, as everywhere in the literature. Of a mixture of experts a token meets the
router and `top_k` experts: those count as its FLOPs and as `active`, while memory counts every expert.
"""
from dataclasses import dataclass

import torch
from torch import nn

from meristem.core import registry
from meristem.core.config import Part, build
from meristem.nn import moe
from meristem.nn.attention import CHUNK, Attention

LOGIT_BYTES = 2 * 2 + 3 * 4
RUNTIME = 480 * 10**6                    # Python, torch and its compiler, imported
BACKWARD = 2                            # a matrix product's gradient is two products of the same size


@dataclass(frozen=True)
class Cost:
    """Counts for one module at one context length; FLOPs are a token's, in the forward pass."""

    parameters: int                     # every tensor once, tied ones too
    embedding: int                      # of which tables that are only looked up in: no product ever touches them
    linear_flops: int
    attention_flops: int                # whole square
    context: int
    width: int                          # largest input of a linear layer's narrow side: the residual stream
    activation_bytes: int               # kept for the backward pass, a token, bf16 compute
    vocab: int
    matrices: int                       # parameters inside the network's matrix products (Muon's share)
    idle: int                           # of which in experts that a token is not sent to

    @classmethod
    def of(cls, module: nn.Module, context: int) -> "Cost":
        """Walk `module` (any device, the meta device costs nothing) by layer type."""
        linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
        tables = [m for m in module.modules() if isinstance(m, nn.Embedding)]
        attentions = [m for m in module.modules() if isinstance(m, Attention)]
        sparse = [(m, m.experts.gate.shape) for m in moe.layers(module)]                   # experts, their width, D
        used = {id(m.weight) for m in linears}
        tabled = {id(m.weight) for m in tables}
        width = max((m.embedding_dim for m in tables), default=0)
        vocab = tables[0].num_embeddings if tables else 0      # later tables are of positions, types or distances
        attended = sum(a.heads * a.head_dim for a in attentions)
        head = {id(m.weight) for m in linears if m.out_features == vocab}
        # Kept for backward: each product's input and output in bf16, two fp32 norms a block, and attention's scores,
        # masked scores and probabilities (4 + 4 + 2 bytes) over the causal triangle in whole chunks. Eager code.
        triangle = context * (1 + min(1.0, CHUNK / context)) / 2
        kept = sum(2 * (m.in_features + m.out_features) for m in linears if id(m.weight) not in head)
        kept += sum(round(10 * a.heads * triangle) + 2 * 4 * width for a in attentions)
        kept += sum(m.top_k * 2 * 3 * (dim + hidden) for m, (_, hidden, dim) in sparse)
        return cls(
            parameters=sum(p.numel() for p in module.parameters()),
            embedding=sum(m.weight.numel() for m in tables if id(m.weight) not in used),
            linear_flops=sum(2 * m.in_features * m.out_features for m in linears)
            + sum(2 * 3 * m.top_k * hidden * dim for m, (_, hidden, dim) in sparse),
            attention_flops=2 * 2 * context * attended, context=context, width=width, activation_bytes=kept,
            vocab=vocab,
            matrices=sum(m.weight.numel() for m in linears if id(m.weight) not in tabled | head)
            + sum(3 * shape.numel() for _, shape in sparse),
            idle=sum(3 * (count - m.top_k) * hidden * dim for m, (count, hidden, dim) in sparse))

    @property
    def active(self) -> int:
        """Parameters that a token's matrix products use: the N of a scaling law (an untied lookup table is not in it,
        nor are experts that the token is not sent to; published "active" counts have the table in)."""
        return self.parameters - self.embedding - self.idle

    @property
    def forward_flops(self) -> float:
        """FLOPs a token forward, attention counted over the causal half: what our kernels really do."""
        return self.linear_flops + self.attention_flops / 2

    @property
    def training_flops(self) -> float:
        """FLOPs a token forward and backward, causal half."""
        return (1 + BACKWARD) * self.forward_flops

    @property
    def training_flops_full(self) -> float:
        """The same with the whole attention square, as PaLM's and nanoGPT's utilisation figures count."""
        return (1 + BACKWARD) * (self.linear_flops + self.attention_flops)

    def memory(self, tokens: int, optimizer: str = "adamw") -> dict[str, int]:
        """Bytes by use while training `tokens` tokens a forward pass: fp32 weights, gradients and moments, bf16 copies.

        AdamW keeps two moments, Muon one for the matrices. Logits are held twice in bf16 and three times in fp32 at the
        end of the forward pass. Measured peaks of four shapes lie 0 to 7 % above the sum without the snapshot.
        """
        moments = 2 * self.parameters - (self.matrices if optimizer == "muon" else 0)
        return {"weights": 4 * self.parameters, "gradients": 4 * self.parameters, "moments": 4 * moments,
                "casts": 2 * (self.parameters - self.embedding), "activations": tokens * self.activation_bytes,
                "logits": tokens * self.vocab * LOGIT_BYTES,
                "snapshot": 4 * (self.parameters + moments), "runtime": RUNTIME}


def on_meta(part: Part) -> nn.Module:
    """A family's module with its `Part`'s fields, on the meta device: shapes without memory, in milliseconds."""
    family = registry.load("models", part.name)
    with torch.device("meta"):
        return family.Model(build(family.Config, part))


def training_flops_per_token(module: nn.Module, context: int) -> float:
    """FLOPs a token of training with the whole attention square (PaLM appendix B), for shares of peak that compare with
    everyone's; we compute the causal half only, so at long contexts the share flatters us as it does them."""
    return Cost.of(module, context).training_flops_full


def palm_flops(parameters: int, layers: int, heads: int, head_dim: int, context: int) -> int:
    """FLOPs a token of training by PaLM's formula, 6 N + 12 L H Q T (appendix B); N without looked-up positions."""
    return 6 * parameters + 12 * layers * heads * head_dim * context


def decoder_flops(layers: int, width: int, vocab: int, context: int, hidden: int | None = None) -> int:
    """Forward FLOPs of one sequence through a GPT-2-shaped decoder, whole attention square, two-matrix MLP
    (nanoGPT)."""
    hidden = 4 * width if hidden is None else hidden
    block = 2 * context * (4 * width * width + 2 * width * hidden) + 2 * 2 * context * context * width
    return layers * block + 2 * context * width * vocab
