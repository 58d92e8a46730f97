"""Training tokens/s and share of the measured bf16 peak: a 10.7 M-parameter Llama beside `transformers` and `litgpt`.

    python -m benchmarks.training_rate            # litgpt needs `make bench-peers` once (its own environment)

One shape for all: 6 layers, width 384, 6 heads of 64, SwiGLU 1,024, context 256, 16 rows a step, vocabulary 65, AdamW
with clipping at 1. Each peer runs in several settings and is judged by its best. FLOPs a token are 6 N + 12 layers x
width x context (PaLM, appendix B), N without the embedding table; the peak is measured before and after each block of
four steps, and the larger one counts.
"""
import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.common import PEERS, peak_bf16, record, worker

LAYERS, WIDTH, HEADS, HIDDEN, CONTEXT, ROWS, VOCAB = 6, 384, 6, 1024, 256, 16, 65
STEPS, WARM, BLOCKS = 24, 3, 6
SETTINGS = {"transformers": ["bf16-sdpa", "bf16-sdpa-compile", "bf16-eager-compile", "true-sdpa", "true-eager-compile"],
            "litgpt": ["true", "true-compile"]}
LITGPT = PEERS / "litgpt" / "bin" / "python"


def timed(step: Callable[[], None]) -> dict[str, float]:
    """Steps after WARM ones in blocks, the peak measured around each: a shared machine changes its speed by the minute.

    Returns the median seconds of a step as a rate, and the median over the blocks of their share of the larger peak.
    """
    for _ in range(WARM):
        step()
    blocks, seconds, peak = [], [], peak_bf16()
    for _ in range(BLOCKS):
        block = []
        for _ in range(STEPS // BLOCKS):
            start = time.perf_counter()
            step()
            block.append(time.perf_counter() - start)
        before, peak = peak, peak_bf16()
        blocks.append(report(statistics.median(block), max(before, peak)))
        seconds += block
    share = statistics.median(block["share_of_peak"] for block in blocks)
    return {**report(statistics.median(seconds), max(b["peak"] for b in blocks)), "share_of_peak": share}


def report(seconds: float, peak: float) -> dict[str, float]:
    """Rate and share of peak from the seconds of one step."""
    matrices = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN) + WIDTH * VOCAB
    flops = 6 * matrices + 12 * LAYERS * WIDTH * CONTEXT
    rate = ROWS * CONTEXT / seconds
    return {"tokens_per_second": rate, "share_of_peak": rate * flops / peak, "peak": peak}


def rows() -> torch.Tensor:
    """One batch of random ids, [ROWS, CONTEXT + 1]."""
    return torch.randint(0, VOCAB, (ROWS, CONTEXT + 1), generator=torch.Generator().manual_seed(0))


def ours() -> dict[str, float]:
    """meristem's trainer: compiled regions, bf16 arithmetic on fp32 weights, fused AdamW."""
    from meristem.core import machine
    from meristem.core.run import Train
    from meristem.models import llama
    from meristem.nn.linear import compute_in
    from meristem.objectives.next_token import NextToken
    from meristem.train.trainer import Trainer, compile_regions
    machine.tune_allocator()
    machine.set_threads()
    shape = llama.Config(vocab=VOCAB, context=CONTEXT, dim=WIDTH, layers=LAYERS, heads=HEADS, hidden=HIDDEN)
    objective = NextToken(compute_in(llama.Model(shape), torch.bfloat16))
    compile_regions(objective)
    batch = {"tokens": rows(), "weight": torch.ones(ROWS, CONTEXT)}
    trainer = Trainer(objective, lambda step: [batch], Train(steps=STEPS, batch=ROWS, context=CONTEXT))
    return timed(lambda: trainer.update([batch]) and None)


def transformers(setting: str) -> dict[str, float]:
    """The `transformers` Trainer on LlamaForCausalLM of the same shape; `setting` is precision-attention[-compile]."""
    import tempfile

    import transformers as hf
    precision, attention, *more = setting.split("-")
    model = hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=CONTEXT, use_cache=False, attn_implementation=attention))
    if precision == "true":
        model = model.bfloat16()
    ids = rows()[:, :-1]
    marks: list[float] = []

    class Marks(hf.TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            marks.append(time.perf_counter())

    data = [{"input_ids": row, "labels": row} for row in ids.repeat(STEPS + WARM, 1)]
    with tempfile.TemporaryDirectory() as out:
        arguments = hf.TrainingArguments(
            out, per_device_train_batch_size=ROWS, max_steps=STEPS + WARM, bf16=precision == "bf16",
            torch_compile=bool(more), optim="adamw_torch_fused", max_grad_norm=1.0, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, use_cpu=True)
        peak = peak_bf16()
        hf.Trainer(model, arguments, train_dataset=data, callbacks=[Marks()]).train()
    steps = [b - a for a, b in zip(marks[WARM - 1:], marks[WARM:], strict=False)]
    return report(statistics.median(steps), max(peak, peak_bf16()))


def litgpt(setting: str) -> dict[str, float]:
    """litgpt's GPT in bf16-true with fused AdamW; `setting` is true[-compile]."""
    from litgpt.config import Config
    from litgpt.model import GPT
    model = GPT(Config(block_size=CONTEXT, vocab_size=VOCAB, padded_vocab_size=VOCAB, n_layer=LAYERS, n_head=HEADS,
                       n_embd=WIDTH, rotary_percentage=1.0, parallel_residual=False, bias=False,
                       norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=HIDDEN)).bfloat16()
    fast = torch.compile(model) if setting.endswith("compile") else model
    optim = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = rows()

    def step() -> None:
        logits = fast(ids[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)

    return timed(step)


def main() -> None:
    """Ours, then each peer in each of its settings, then ours again; ours is the median of its runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", nargs="+")
    a = parser.parse_args()
    if a.worker:
        who, *setting = a.worker
        result = {"ours": ours, "transformers": transformers, "litgpt": litgpt}[who](*setting)
        print(json.dumps({"who": who, "setting": setting, **result}))
        return
    runs = [worker("benchmarks.training_rate", "ours")]
    for who, settings in SETTINGS.items():
        python = str(LITGPT) if who == "litgpt" else sys.executable
        if not Path(python).exists():
            print(f"{who} is left out: run make bench-peers first", file=sys.stderr)
            continue
        runs += [worker("benchmarks.training_rate", who, s, python=python) for s in settings]
        runs.append(worker("benchmarks.training_rate", "ours"))
    mine = {key: statistics.median(r[key] for r in runs if r["who"] == "ours")
            for key in ("tokens_per_second", "share_of_peak")}
    rates = {who: [r["tokens_per_second"] for r in runs if r["who"] == who] for who in SETTINGS}
    best = {who: max(each) for who, each in rates.items() if each}
    record("training_rate", {"ours": mine, "peers_best": best, "runs": runs,
                             "ratio": {who: mine["tokens_per_second"] / rate for who, rate in best.items()}})


if __name__ == "__main__":
    main()
