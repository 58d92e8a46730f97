"""Training tokens/s and memory above the weights of LoRA and QLoRA, beside `peft` on `transformers`.

    python -m benchmarks.lora_rate                # a Llama of 109.5 M parameters, rank 16 on every matrix of a block
    python -m benchmarks.lora_rate --tiny         # does every worker run? Two steps; nothing is recorded

Four rows of 512 tokens, AdamW on A and B, clipping at 1. Ours computes in bf16 and keeps the frozen matrices so. peft
is judged by its best setting: fp32, autocast, all in bf16, with sdpa or eager attention, plain or compiled; 4-bit only
where `bitsandbytes` is installed. The peak of the bf16 product is measured before and after each block of steps. FLOPs
of a step: forward, and for the backward pass of frozen matrices only what reaches the input: 4 a weight and token, 12 x
width x length a token and layer for attention. Memory is the process's peak less its weights. Result: `lora_rate.json`.
"""
import argparse
import importlib.util
import json
import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.common import record, worker
from benchmarks.shapes import TINY, Shape
from benchmarks.training_rate import timed

RANK, ALPHA = 16, 32.0
SHAPE = Shape("llama", 12, 768, 12, 2048, 32_000, 512, 4, warm=2, steps=8, blocks=2)
PEERS = ("fp32-sdpa", "autocast-sdpa", "bf16-sdpa", "bf16-eager", "bf16-eager-compile", "bf16-sdpa-compile")
THEIRS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Adapted(Shape):
    """The shape, whose step costs a third less: frozen matrices have no gradient."""

    @property
    def flops(self) -> float:
        """FLOPs of a step."""
        head, width = self.width * self.vocab, self.width
        return self.rows * self.context * (4 * (self.matrices + head) + 12 * self.layers * width * self.context)


def report(shape: Shape, step: Callable[[], None], module: torch.nn.Module) -> dict[str, Any]:
    """Rate, share of peak, and memory beside the weights."""
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    found = timed(shape, step)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return {**found, "weights": weights, "peak_rss": peak, "above": peak - weights, "trainable": trained}


def ours(shape: Shape, method: str, compiled: str = "compile") -> dict[str, Any]:
    """meristem's trainer around a frozen base: bf16 products, fp32 A and B."""
    from meristem.adapt import lora, qlora
    from meristem.core import machine
    from meristem.core.run import Train
    from meristem.nn.linear import compute_in
    from meristem.train.adapted import lean
    from meristem.train.trainer import Trainer, compile_regions
    machine.tune_allocator()
    machine.set_threads()
    from meristem.models.llama import Config, Model
    from meristem.objectives.next_token import NextToken
    objective = NextToken(Model(Config(vocab=shape.vocab, context=shape.context, dim=shape.width, layers=shape.layers,
                                       heads=shape.heads, groups=shape.heads, hidden=shape.hidden, tied=True)))
    batch = {"tokens": shape.ids(shape.context + 1), "weight": torch.ones(shape.rows, shape.context)}
    if method == "qlora":
        qlora.attach(objective.model, qlora.Config(RANK, ALPHA), 0)
    else:
        lora.apply(objective.model, RANK, ALPHA)
        lean(objective.model, torch.bfloat16)
    compute_in(objective, torch.bfloat16)
    if compiled == "compile":
        compile_regions(objective)
    trainer = Trainer(objective, lambda step: [batch],
                      Train(steps=shape.steps, batch=shape.rows, context=shape.context, guard=False))
    return report(shape, lambda: trainer.update([batch]) and None, objective)


def peft(shape: Shape, setting: str) -> dict[str, Any]:
    """`peft` on the same shape; `setting` is precision-attention[-compile], or 4bit-attention."""
    import transformers
    from peft import LoraConfig, get_peft_model
    precision, attention, *more = setting.split("-")
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, max_position_embeddings=shape.context,
        attn_implementation=attention, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config)
    if precision == "4bit":
        from transformers import BitsAndBytesConfig
        from transformers.integrations import replace_with_bnb_linear
        settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                      bnb_4bit_compute_dtype=torch.bfloat16)
        model = replace_with_bnb_linear(model, quantization_config=settings)
    if precision in ("bf16", "4bit"):
        model = model.bfloat16()
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=THEIRS, task_type="CAUSAL_LM"))
    fast = torch.compile(model) if more else model
    trained = [p for p in model.parameters() if p.requires_grad]
    optim = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = shape.ids(shape.context)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            loss = fast(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)

    return report(shape, step, model)


def compare(tiny: bool) -> None:
    """Ours before, between and after the peer's settings; ours is the median of its runs."""
    size = ["--tiny"] if tiny else []
    mine = ("ours", "lora", *(["eager"] if tiny else []))
    runs = [worker("benchmarks.lora_rate", *mine, *size)]
    for place, setting in enumerate(PEERS):
        runs.append(worker("benchmarks.lora_rate", "peft", setting, *size))
        if place % 2:
            runs.append(worker("benchmarks.lora_rate", *mine, *size))
    runs.append(worker("benchmarks.lora_rate", "ours", "qlora", *(["eager"] if tiny else []), *size))
    if importlib.util.find_spec("bitsandbytes"):
        runs.append(worker("benchmarks.lora_rate", "peft", "4bit-sdpa", *size))
    else:
        print("4-bit peft is left out: bitsandbytes is not installed", file=sys.stderr)
    lora = [r for r in runs if (r["who"], r["setting"][0]) == ("ours", "lora")]
    theirs = [r for r in runs if r["who"] == "peft" and not r["setting"][0].startswith("4bit")]
    rate = statistics.median(r["tokens_per_second"] for r in lora)
    best = max(theirs, key=lambda r: r["tokens_per_second"])
    result = {"ratio": rate / best["tokens_per_second"], "share_of_peak": statistics.median(
        r["share_of_peak"] for r in lora), "best_peer": best["setting"][0],
        "memory_ratio": statistics.median(r["above"] for r in lora) / min(r["above"] for r in theirs)}
    if not tiny:
        record("lora_rate", {**result, "runs": runs})
    print(json.dumps(result))


def main() -> None:
    """All workers in turn, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="two steps of a tiny network in every worker")
    parser.add_argument("--worker", nargs="+")
    a = parser.parse_args()
    if not a.worker:
        compare(a.tiny)
        return
    who, *setting = a.worker
    shape = Adapted(**vars(replace(SHAPE, **TINY) if a.tiny else SHAPE))
    print(json.dumps({"who": who, "setting": setting, **{"ours": ours, "peft": peft}[who](shape, *setting)}))


if __name__ == "__main__":
    main()
