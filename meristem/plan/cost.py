"""What a model costs, exactly, from its layers on the meta device: parameters, FLOPs a token, bytes.

    module = on_meta("llama", Part("llama", {"dim": 256, "layers": 4, "heads": 4, "vocab": 4096}))
    cost = Cost.of(module, context=256)
    cost.parameters, cost.training_flops, cost.memory(tokens=4096)

A matrix product of a [T, I] by an [I, O] matrix is 2 I O FLOPs a token; backward is twice forward. Attention's two
products over a context of T are 2 * 2 * T * heads * head_dim a token when the whole square is counted, as PaLM
(Chowdhery et al. 2022, appendix B) and nanoGPT do, and half of that when only the causal triangle is; a window or a
chunk counts with what it lets a query see. Softmax, norms and rotations are below 1 % and left out, as everywhere in
the literature. Of a mixture of experts a token meets the router and `top_k` experts: those count as its FLOPs and as
`active`, while memory counts every expert. Of an encoder-decoder a token meets one stack, the encoder's with the keys
of cross attention or the decoder's, so that its cost is the mean over both sides of a pair (Raffel et al. 2020, section
3.2.2: an encoder-decoder of 2 P parameters costs what a decoder of P does).
"""
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meristem.core import registry
from meristem.core.config import Part, build
from meristem.nn import moe
from meristem.nn.attention import CHUNK, Attention, CrossAttention, Reach

# What compiled blocks keep, fitted to the peaks of twelve runs (docs/planning.md): a logit in bf16 and twice in fp32 at
# the end of the forward pass, a score of attention in fp32 and twice in bf16, the save of step 0 beside the first step
# one and a half times. Eager code keeps up to a third more.
LOGIT_BYTES, SCORE_BYTES, SNAPSHOTS = 2 + 2 * 4, 4 + 2 * 2, 1.5
RUNTIME = 480 * 10**6                    # Python, torch and its compiler, imported
BACKWARD = 2                            # a matrix product's gradient is two products of the same size


@dataclass(frozen=True)
class Cost:
    """Counts for one module at one context length; FLOPs are a token's, in the forward pass: the mean over a row."""

    parameters: int                     # every tensor once, tied ones too
    embedding: int                      # of which tables that are only looked up in: no product ever touches them
    linear_flops: int
    attention_flops: int                # whole square, or what window and chunk leave of it
    seen_flops: float                   # of which a mask lets a query see: half, but in two-way and cross attention
    context: int
    width: int                          # largest input of a linear layer's narrow side: the residual stream
    activation_bytes: int               # kept for the backward pass, a token, bf16 compute
    vocab: int
    matrices: int                       # parameters inside the network's matrix products (Muon's share)
    idle: int                           # of which in experts that a token is not sent to
    factored: int                       # rows and columns of all matrices, and vectors: Adafactor's state

    @classmethod
    def of(cls, module: nn.Module, context: int, source: int = 0, asked: int = 0) -> "Cost":
        """Walk `module` (any device, the meta device costs nothing) by layer type.

        `source`: tokens that an encoder reads before a decoder writes `context` of them; 0 means as many. `asked`:
        places a row at which the vocabulary is asked, as by masked prediction; 0 means all.
        """
        linears = {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}
        tables = [m for m in module.modules() if isinstance(m, nn.Embedding)]
        attentions = {name: m for name, m in module.named_modules() if isinstance(m, Attention)}
        crosses = [m for m in module.modules() if isinstance(m, CrossAttention)]
        sparse = [(m, m.experts.gate.shape) for m in moe.layers(module)]                   # experts, their width, D
        used = {id(m.weight) for m in linears.values()}
        tabled = {id(m.weight) for m in tables}
        width = max((m.embedding_dim for m in tables), default=0)
        vocab = tables[0].num_embeddings if tables else 0      # later tables are of positions, types or distances
        head = {id(m.weight) for m in linears.values() if m.out_features == vocab}
        read = reader(module)
        source = (source or context) if read else 0
        row = context + source                                 # everything below is summed over it, then divided

        def length(name: str) -> int:
            """How many of a row's tokens a layer meets."""
            return source if name.startswith(read) else context

        def products(name: str, m: nn.Linear) -> int:
            places = asked or context if id(m.weight) in head else length(name)
            return 2 * places * m.in_features * m.out_features
        # Kept for backward: of each product half of its input and output in bf16 (an output is the next one's input,
        # and queries, keys and values share theirs), a norm's input a block, attention's scores over the keys that a
        # chunk of queries reaches.
        kept = sum(length(name) * (m.in_features + m.out_features) for name, m in linears.items()
                   if id(m.weight) not in head)
        kept += sum(length(name) * (round(SCORE_BYTES * a.heads * stored(a.reach, length(name))) + 4 * width)
                    for name, a in attentions.items())
        kept += sum(context * (SCORE_BYTES * m.heads * source + 2 * width) for m in crosses)
        kept += sum(context * m.top_k * 3 * (dim + hidden) for m, (_, hidden, dim) in sparse)
        pairs = [(4 * a.heads * a.head_dim, *seen(a.reach, length(name))) for name, a in attentions.items()]
        pairs += [(4 * m.heads * m.head_dim, context * source, float(context * source)) for m in crosses]
        return cls(
            parameters=sum(p.numel() for p in module.parameters()),
            embedding=sum(m.weight.numel() for m in tables if id(m.weight) not in used),
            linear_flops=(sum(products(name, m) for name, m in linears.items())
                          + sum(2 * 3 * context * m.top_k * hidden * dim for m, (_, hidden, dim) in sparse)) // row,
            attention_flops=sum(each * square for each, square, _ in pairs) // row,
            seen_flops=sum(each * left for each, _, left in pairs) / row,
            context=context, width=width, activation_bytes=kept // row, vocab=vocab,
            matrices=sum(m.weight.numel() for m in linears.values() if id(m.weight) not in tabled | head)
            + sum(3 * shape.numel() for _, shape in sparse),
            idle=sum(3 * (count - m.top_k) * hidden * dim for m, (count, hidden, dim) in sparse),
            factored=sum(p.numel() // p.shape[-1] + p.numel() // p.shape[-2] if p.ndim > 1 else p.numel()
                         for p in module.parameters()))

    @property
    def active(self) -> int:
        """Parameters that a token's matrix products use: the N of a scaling law (an untied lookup table is not in it,
        nor are experts that the token is not sent to; published "active" counts have the table in)."""
        return self.parameters - self.embedding - self.idle

    @property
    def forward_flops(self) -> float:
        """FLOPs a token forward, attention over what its mask lets it see (causal: half): what our kernels do."""
        return self.linear_flops + self.seen_flops

    @property
    def training_flops(self) -> float:
        """FLOPs a token forward and backward, causal attention counted half."""
        return (1 + BACKWARD) * self.forward_flops

    @property
    def training_flops_full(self) -> float:
        """The same with the whole attention square, as PaLM's and nanoGPT's utilisation figures count."""
        return (1 + BACKWARD) * (self.linear_flops + self.attention_flops)

    def memory(self, tokens: int, optimizer: str = "adamw", ema: bool = False) -> dict[str, int]:
        """Bytes by use while training `tokens` tokens a forward pass: fp32 weights, gradients and moments, bf16 copies.

        AdamW and schedule-free keep two numbers a parameter, Muon one for the matrices, Adafactor rows and columns; an
        average of the weights (`ema`) is one more. Its copies at a validation fit where gradients and activations were.
        `snapshot` is the copy that a save writes while training goes on, and its buffers.
        """
        moments = self.factored if optimizer == "adafactor" else 2 * self.parameters
        moments += (self.parameters if ema else 0) - (self.matrices if optimizer == "muon" else 0)
        return {"weights": 4 * self.parameters, "gradients": 4 * self.parameters, "moments": 4 * moments,
                "casts": 2 * (self.parameters - self.embedding), "activations": tokens * self.activation_bytes,
                "logits": tokens * self.vocab * LOGIT_BYTES,
                "snapshot": round(SNAPSHOTS * 4 * (self.parameters + moments)), "runtime": RUNTIME}


def flops_of(module: nn.Module, given: Mapping[str, Tensor]) -> int:
    """FLOPs of one forward pass on these inputs, matrix products and convolutions counted while they run."""
    from torch.utils.flop_counter import FlopCounterMode  # 0.3 s that a plan of text does not pay

    training = module.training
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"), torch.no_grad():
        module.eval()(**given)
    module.train(training)
    return counter.get_total_flops()


def reader(module: nn.Module) -> tuple[str, ...]:
    """How the names of layers begin that meet the source: the encoder's, keys and values of cross attention; or ()."""
    crosses = [name for name, m in module.named_modules() if isinstance(m, CrossAttention)]
    return ("encoder.", *(f"{name}.{which}" for name in crosses for which in "kv")) if crosses else ()


def seen(reach: Reach, length: int) -> tuple[int, float]:
    """Pairs of a query and a key in a row of `length`: within window and chunk, and what a causal mask leaves of them.

    Triangles count half of their square, as everywhere; exact would be (n + 1) / 2n.
    """
    size = min(reach.chunk or length, length)
    square, left = 0, 0.0
    for count, n in ((length // size, size), (1, length % size)):
        window = min(reach.window or n, n)
        square += count * n * window
        left += count * (n * window - window * window / 2 if reach.causal else n * window)
    return square, left


def stored(reach: Reach, length: int) -> float:
    """Keys a query, on the average, whose scores are kept for the backward pass: whole chunks of queries reach them."""
    size = min(reach.chunk or length, length)
    reached = size * (1 + min(1.0, CHUNK / size)) / 2 if reach.causal else size
    return min(reached, reach.window + CHUNK) if reach.window else reached


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
