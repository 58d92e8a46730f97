"""The shapes of `benchmarks.training_rate`: each in meristem, in `transformers`, and in `litgpt` where it has it.

Names are family-size: llama, gpt2, bert and t5 at about 10 and 160 million parameters. Numbers of the batch are random.
FLOPs of a step are 6 a weight and token (a head where it is asked: 15 % of BERT's places), and 12 x width x length a
token and layer for attention (PaLM, appendix B), the whole square also where only a triangle is computed.
"""
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

MASKED = 0.15                           # share of places that BERT predicts
TARGET = 4                              # T5: a target is a quarter of its source (span corruption: 114 of 512)


@dataclass(frozen=True)
class Shape:
    """A network and its batch; every family with a head of its own and no dropout."""

    family: str
    layers: int
    width: int
    heads: int
    hidden: int
    vocab: int
    context: int
    rows: int
    warm: int = 3
    steps: int = 24
    blocks: int = 6

    @property
    def matrices(self) -> int:
        """Weights that a token is multiplied with, without the head."""
        inner, mlp = self.width * self.width, (3 if self.family == "llama" else 2) * self.width * self.hidden
        return self.layers * ((4 * inner + mlp) + ((8 * inner + mlp) if self.family == "t5" else 0))

    @property
    def tokens(self) -> int:
        """Tokens of a step, T5's targets among them."""
        return self.rows * (self.context + (self.context // TARGET if self.family == "t5" else 0))

    @property
    def flops(self) -> float:
        """FLOPs of a step."""
        source, width = self.context, self.width
        head = width * self.vocab * (MASKED if self.family == "bert" else 1)
        if self.family != "t5":
            return self.rows * source * (6 * (self.matrices + head) + 12 * self.layers * width * source)
        target, mlp, inner = source // TARGET, 2 * width * self.hidden, width * width
        read = source * self.layers * (6 * (4 * inner + mlp) + 12 * width * source)
        write = target * (self.layers * (6 * (6 * inner + mlp) + 12 * width * (target + source)) + 6 * head)
        return self.rows * (read + write + source * self.layers * 6 * 2 * inner)       # the last: keys that cross

    def module(self) -> tuple[Any, dict[str, Tensor]]:
        """Our objective and its batch."""
        from meristem.core import registry
        family = registry.load("models", self.family)
        config = {"vocab": self.vocab, "context": self.context, "dim": self.width, "layers": self.layers,
                  "heads": self.heads, "hidden": self.hidden}
        if self.family == "gpt2":
            config["tied"] = False
        elif self.family == "bert":
            config |= {"head": "lm", "dropout": 0.0}
        elif self.family == "t5":
            config |= {"head_dim": self.width // self.heads, "dropout": 0.0}
        model = family.Model(family.Config(**config))
        batch = {"tokens": self.ids(self.context + 1), "weight": torch.ones(self.rows, self.context)}
        if self.family == "t5":
            from meristem.objectives.seq2seq import Seq2Seq
            target = self.context // TARGET
            return Seq2Seq(model), {"source": self.ids(self.context), "tokens": self.ids(target + 1),
                                    "weight": torch.ones(self.rows, target)}
        if self.family == "bert":
            from meristem.codecs import wordpiece
            from meristem.objectives.masked import Masked
            codec = wordpiece.fit([__doc__ or ""], 200)
            return Masked(model, codec=codec, rate=MASKED), {**batch, "tokens": batch["tokens"] % codec.vocab}
        from meristem.objectives.next_token import NextToken
        return NextToken(model), batch

    def transformers(self, attention: str) -> tuple[Any, dict[str, Tensor]]:
        """The same of `transformers`, and a batch of its Trainer."""
        import transformers as hf
        common = {"vocab_size": self.vocab, "attn_implementation": attention}
        ids = self.ids(self.context)
        if self.family == "t5":
            model = hf.T5ForConditionalGeneration(hf.T5Config(
                d_model=self.width, d_kv=self.width // self.heads, d_ff=self.hidden, num_layers=self.layers,
                num_heads=self.heads, dropout_rate=0.0, decoder_start_token_id=0, use_cache=False, **common))
            return model, {"input_ids": ids, "labels": self.ids(self.context // TARGET)}
        if self.family == "gpt2":
            model = hf.GPT2LMHeadModel(hf.GPT2Config(
                n_embd=self.width, n_layer=self.layers, n_head=self.heads, n_inner=self.hidden, resid_pdrop=0.0,
                n_positions=self.context, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False, use_cache=False,
                bos_token_id=0, eos_token_id=0, **common))
            return model, {"input_ids": ids, "labels": ids}
        common |= {"hidden_size": self.width, "intermediate_size": self.hidden, "num_hidden_layers": self.layers,
                   "num_attention_heads": self.heads, "max_position_embeddings": self.context}
        if self.family == "bert":
            model = hf.BertForMaskedLM(hf.BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                                                     **common))
            chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < MASKED
            return model, {"input_ids": ids, "labels": ids.masked_fill(~chosen, -100)}
        return hf.LlamaForCausalLM(hf.LlamaConfig(use_cache=False, **common)), {"input_ids": ids, "labels": ids}

    def litgpt(self) -> Any:
        """The same of `litgpt`; its GPT-2 has no learned positions (0.5 % of the weights, no matrix product)."""
        from litgpt.config import Config
        from litgpt.model import GPT
        of = {"llama": {"rotary_percentage": 1.0, "bias": False, "norm_class_name": "RMSNorm",
                        "mlp_class_name": "LLaMAMLP"},
              "gpt2": {"rotary_percentage": 0.0, "bias": True, "norm_class_name": "LayerNorm",
                       "mlp_class_name": "GptNeoxMLP"}}[self.family]
        return GPT(Config(block_size=self.context, vocab_size=self.vocab, padded_vocab_size=self.vocab,
                          n_layer=self.layers, n_head=self.heads, n_embd=self.width, parallel_residual=False,
                          intermediate_size=self.hidden, **of))

    def ids(self, length: int) -> Tensor:
        """Random ids, [rows, length]."""
        return torch.randint(0, self.vocab, (self.rows, length), generator=torch.Generator().manual_seed(0))


SMALL = Shape("llama", layers=6, width=384, heads=6, hidden=1024, vocab=65, context=256, rows=16)
BIG = Shape("llama", layers=12, width=768, heads=12, hidden=2048, vocab=50_257, context=512, rows=4, warm=2, steps=6,
            blocks=3)
SHAPES = {
    "llama-10m": SMALL,                                        # 10.7 M
    "gpt2-10m": replace(SMALL, family="gpt2", hidden=1536),    # 10.8 M
    "bert-10m": replace(SMALL, family="bert", hidden=1536, vocab=1024),                   # 11.3 M
    "t5-10m": replace(SMALL, family="t5", width=256, heads=4, hidden=1024, vocab=1024),   # 11.3 M
    "llama-160m": BIG,                                         # 162 M
    "gpt2-160m": replace(BIG, family="gpt2", hidden=3072),     # 163 M
    "bert-160m": replace(BIG, family="bert", layers=10, width=1024, heads=16, hidden=4096, vocab=30_522),     # 159 M
    "t5-160m": replace(BIG, family="t5", layers=10, hidden=2048, vocab=32_128)}           # 159 M
TINY = {"layers": 1, "width": 64, "heads": 2, "hidden": 128, "vocab": 256, "context": 32, "rows": 2, "warm": 1,
        "steps": 2, "blocks": 1}
