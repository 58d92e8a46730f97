"""Log-likelihood requests a second: meristem beside `lm_eval`'s Hugging Face backend, same weights, same token ids.

    python -m benchmarks.scoring                  # lm_eval needs `make bench-peers` once (its own environment)

Three kinds of item, with lengths like those of well-known benchmarks: `cloze`, a prompt of 60 to 120 tokens with one
answer of 1 to 3 (LAMBADA); `choice`, such a prompt with four endings of 10 to 30 (HellaSwag); `fewshot`, the same
after worked examples, 300 to 400 tokens of prompt. Ids are random and seeded. Two random-weight Llamas: `100m` (width
768, 12 layers, 32,000 tokens) and `small` (width 384, 6 layers, 4,096 tokens), both in fp32 and in bf16 weights and
arithmetic. Both sides start from ids in one environment and one process a side; lm_eval is judged by its best batch
size. Its figures in bf16 come from a bf16 log-softmax, so numbers are compared in fp32, and in bf16 each side's
distance from fp32 is recorded.
"""
import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import PEERS, RESULTS, record, worker

PYTHON = PEERS / "lm_eval" / "bin" / "python"
SHAPES: dict[str, dict[str, int]] = {
    "100m": {"vocab": 32_000, "dim": 768, "layers": 12, "heads": 12, "hidden": 2048, "context": 512},
    "small": {"vocab": 4_096, "dim": 384, "layers": 6, "heads": 6, "hidden": 1024, "context": 512}}
ITEMS = {"100m": {"choice": 10, "cloze": 40, "fewshot": 5}, "small": {"choice": 50, "cloze": 200, "fewshot": 20}}
BATCHES = (4, 16)                       # of lm_eval; 64 was slower
KEYS = ("size", "dtype", "kind")
Pair = tuple[np.ndarray, np.ndarray]


def items(kind: str, count: int, vocab: int) -> list[Pair]:
    """(prompt ids, answer ids) of `count` questions, the answers of one question next to each other."""
    rng = np.random.default_rng(0)
    few, low, high = (1, 1, 4) if kind == "cloze" else (4, 10, 31)
    least, most = (300, 401) if kind == "fewshot" else (60, 121)
    out = []
    for _ in range(count):
        prompt = rng.integers(1, vocab, rng.integers(least, most))
        out += [(prompt, rng.integers(1, vocab, rng.integers(low, high))) for _ in range(few)]
    return out


def make(folder: Path, size: str, dtype: str) -> None:
    """A random model in the Hugging Face layout with a small tokenizer beside it."""
    from meristem.codecs import bpe
    from meristem.hub import hf
    from meristem.models.llama import Config, Model
    torch.manual_seed(0)
    module = Model(Config(**SHAPES[size]))                     # type: ignore[arg-type]
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.02 * torch.randn(p.shape))
    codec = bpe.fit(["some text to have a tokenizer"], 300)
    hf.save(folder, "llama", module.config, module.to(getattr(torch, dtype)), codec)


def ours(folder: Path, pairs: list[Pair], batch: int) -> Any:
    """A function that scores the pairs."""
    from meristem.generate.answers import answers
    from meristem.hub import hf
    module = hf.load(folder).module
    return lambda: [(float(a.logprobs.sum(dtype=np.float64)), bool(a.likeliest.all())) for a in answers(module, pairs)]


def theirs(folder: Path, pairs: list[Pair], batch: int) -> Any:
    """The same by lm_eval."""
    import logging

    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer
    logging.disable(logging.WARNING)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    judge = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=batch, device="cpu")
    requests = [((str(i), ""), p.tolist(), a.tolist()) for i, (p, a) in enumerate(pairs)]
    return lambda: judge._loglikelihood_tokens(requests, disable_tqdm=True)


def work(engine: str, size: str, dtype: str, kind: str, folder: Path) -> dict[str, Any]:
    """Requests a second (the faster of two passes after a warm one on a few items) and the numbers."""
    pairs = items(kind, ITEMS[size][kind], SHAPES[size]["vocab"])
    best: dict[str, Any] = {"requests_per_second": 0.0}
    for batch in BATCHES if engine == "lm_eval" else (0,):
        build = theirs if engine == "lm_eval" else ours
        build(folder, pairs[:8], batch)()
        run, seconds = build(folder, pairs, batch), float("inf")
        for _ in range(2):
            start = time.perf_counter()
            found = run()
            seconds = min(seconds, time.perf_counter() - start)
        if len(pairs) / seconds > best["requests_per_second"]:
            best = {"requests_per_second": len(pairs) / seconds, "batch": batch, "sums": [float(s) for s, _ in found],
                    "greedy": [bool(g) for _, g in found]}
    return {"engine": engine, "size": size, "dtype": dtype, "kind": kind, "requests": len(pairs), **best}


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a setting: both rates, their ratio, and how far the numbers lie apart."""
    by = {(r["engine"], r["size"], r["dtype"], r["kind"]): r for r in rows}
    out = []
    for (engine, size, dtype, kind), ours in by.items():
        other = by.get(("lm_eval", size, dtype, kind))
        if engine != "meristem" or other is None:
            continue
        exact = by.get(("meristem", size, "float32", kind))     # None where fp32 was not measured in this run
        gap = [abs(a - b) for a, b in zip(ours["sums"], other["sums"], strict=True)]
        out.append({"size": size, "dtype": dtype, "kind": kind, "requests": ours["requests"],
                    "meristem": round(ours["requests_per_second"], 2),
                    "lm_eval": round(other["requests_per_second"], 2),
                    "lm_eval_batch": other["batch"],
                    "ratio": round(ours["requests_per_second"] / other["requests_per_second"], 2),
                    "largest_difference": max(gap),
                    "largest_relative": max(g / abs(b) for g, b in zip(gap, other["sums"], strict=True)),
                    "greedy_differs": sum(a != b for a, b in zip(ours["greedy"], other["greedy"], strict=True)),
                    **{f"{name}_from_fp32": max(abs(a - b) for a, b in zip(r["sums"], exact["sums"], strict=True))
                       for name, r in (("meristem", ours), ("lm_eval", other)) if exact and dtype != "float32"}})
    return out


def main() -> None:
    """Every setting in turn, or one worker of one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", nargs=5, default=None)
    parser.add_argument("--sizes", default="small,100m")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--kinds", default="cloze,choice,fewshot")
    words = parser.parse_args()
    if words.worker:
        engine, size, dtype, kind, folder = words.worker
        print(json.dumps(work(engine, size, dtype, kind, Path(folder))))
        return
    if not PYTHON.exists():
        sys.exit("lm_eval is not installed; run: make bench-peers")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in words.sizes.split(","):
            for dtype in words.dtypes.split(","):
                make(where := Path(folder) / f"{size}-{dtype}", size, dtype)
                for kind in words.kinds.split(","):
                    for engine in ("meristem", "lm_eval"):
                        rows.append(worker("benchmarks.scoring", engine, size, dtype, kind, str(where),
                                           python=str(PYTHON)))
    made = compare(rows)
    if (RESULTS / "scoring.json").is_file():                   # settings measured before and not now are kept
        done = {tuple(row[key] for key in KEYS) for row in made}
        old = json.loads((RESULTS / "scoring.json").read_text())["rows"]
        made = [row for row in old if tuple(row[key] for key in KEYS) not in done] + made
    record("scoring", {"rows": made, "threads": torch.get_num_threads(), "torch": torch.__version__})


if __name__ == "__main__":
    main()
