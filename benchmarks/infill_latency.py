"""How long an editor waits: 16 tokens between two texts, one request at a time, p50 and p99.

    python -m benchmarks.infill_latency                        # half a minute; on a machine that does nothing else
    python -m benchmarks.infill_latency --requests 20 --kinds bf16         # nothing is recorded

A Llama of 11.3 M random weights (width 384, 6 layers, vocabulary 4,096, context 512; time does not depend on what the
weights are) is asked for lines of this machine's standard library, each with up to 800 characters before it and 400
after it: what `Model.infill` does, from text to text, tokenising included. Precisions take turns, request by request. A
request whose answer ended before 16 tokens is not counted. Target: p50 at most 150 ms on two cores.
"""
import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

LENGTH, REQUESTS, WARM, TARGET = 16, 120, 5, 0.150
BEFORE, AFTER = 800, 400                # characters
KINDS = ("fp32", "bf16", "int8")
SHAPE = {"dim": 384, "layers": 6, "heads": 6, "groups": 3, "hidden": 1024, "context": 512, "tied": True}


def places(count: int) -> list[tuple[str, str]]:
    """What stands before and after lines of the standard library, drawn with a seed."""
    from meristem.corpus import find
    files = sorted(find.standard_library()[0].glob("*.py"))
    rng, found = random.Random(0), list[tuple[str, str]]()
    while len(found) < count:
        text = files[rng.randrange(len(files))].read_text(encoding="utf-8", errors="replace")
        ends = [n for n, letter in enumerate(text) if letter == "\n"]
        if len(ends) > 60:
            at = rng.randrange(30, len(ends) - 30)
            found.append((text[max(0, ends[at] - BEFORE):ends[at] + 1], text[ends[at + 1]:ends[at + 1] + AFTER]))
    return found


def subject(kind: str) -> Any:
    """A model in one precision, and what it counts as written."""
    import torch

    from meristem.api import Model
    from meristem.codecs import bpe
    from meristem.corpus import find
    from meristem.generate.infill import STARCODER
    from meristem.models import llama
    from meristem.nn.quantise import quantise
    codec = bpe.fit((p.read_text(encoding="utf-8", errors="replace")
                     for p in sorted(find.standard_library()[0].glob("*.py"))[:60]), 4096, special=STARCODER)
    torch.manual_seed(0)
    module = llama.Model(llama.Config(vocab=codec.vocab, **SHAPE)).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.02 * torch.randn_like(p))                 # a new model's blocks begin as the identity
    if kind.startswith("int"):
        quantise(module, int(kind[3:]), 32)
    if kind != "fp32":
        for p in module.parameters():
            p.data = p.data.bfloat16() if p.is_floating_point() else p.data
    return Model(module, codec, "llama", module.config, Path())


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--kinds", default=",".join(KINDS))
    words = parser.parse_args()
    from benchmarks.common import record
    from meristem.core import machine
    from meristem.generate.sampling import Sampling
    machine.set_threads()
    models = {kind: subject(kind) for kind in words.kinds.split(",")}
    took: dict[str, list[float]] = {kind: [] for kind in models}
    tokens, short = list[int](), 0
    how = Sampling(length=LENGTH)
    for n, (before, after) in enumerate(places(words.requests + WARM)):
        for kind, model in models.items():
            start = time.perf_counter()
            made = model.complete([before], how, suffix=after)[0]
            seconds = time.perf_counter() - start
            if n >= WARM and len(made.tokens) == LENGTH:
                took[kind].append(seconds)
            short += len(made.tokens) < LENGTH
        tokens.append(len(model.codec.encode(before)) + len(model.codec.encode(after)))
    one = next(iter(models.values())).module
    facts = {kind: {"requests": len(some), "p50_ms": 1e3 * quantile(some, 0.5), "p99_ms": 1e3 * quantile(some, 0.99),
                    "reached": quantile(some, 0.5) <= TARGET} for kind, some in took.items()}
    result = {"threads": machine.threads(), "parameters": sum(p.numel() for p in one.parameters()),
              "tokens_around": sorted(tokens)[len(tokens) // 2], "length": LENGTH, "short": short, **facts}
    if words.requests == REQUESTS and words.kinds == ",".join(KINDS):
        record("infill_latency", result)
    else:
        print(result, file=sys.stderr)


def quantile(values: list[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    main()
