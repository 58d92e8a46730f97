"""Decoding and prefill of one random-weight 109.5 M Llama on a CPU, beside `transformers` and llama.cpp.

    python -m benchmarks.decode                   # about three minutes; llama.cpp needs `make bench-peers` once
    python -m benchmarks.decode --only int4       # one precision; nothing is recorded

One shape for all: width 768, 12 layers, 12 heads, SwiGLU 2,048, vocabulary 32,000; prompts of 64 tokens (16 at batch
16), then more. Each worker alternates rounds: read bandwidth (a sum over 256 MB), then some decoded tokens; it reports
medians. Ours and transformers' are timed inside `generate`, from the first new token to the last; `step` is the network
alone (features and head), as llama.cpp's figure is `llama_decode` alone. The roofline is the bytes of all weights but
the embedding table over the bandwidth of the same worker. llama.cpp's weights are random, too: Q8_0 and Q4_0 have 32
columns a scale, as ours here (8.5 and 4.5 bits a weight).
"""
import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import PEERS, record, worker

WIDTH, LAYERS, HEADS, HIDDEN, VOCAB, CONTEXT = 768, 12, 12, 2048, 32_000, 1024
PREFILL, ROUNDS, BATCHES = 512, 5, (1, 16)
PROMPT = {1: 64, 16: 16}                # tokens before the decoded ones, by batch
STEPS = {1: 24, 16: 6}                  # decoded tokens a row and round
KINDS = ("fp32", "bf16", "int8", "int4")
LLAMACPP = PEERS / "llamacpp" / "env" / "bin" / "python"
FTYPES = {"fp32": 0, "bf16": 32, "int8": 7, "int4": 2}         # llama.h: ALL_F32, MOSTLY_BF16, MOSTLY_Q8_0, MOSTLY_Q4_0
MATRICES = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN) + WIDTH * VOCAB
BITS = {"fp32": 32, "bf16": 16, "int8": 8.5, "int4": 4.5}


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bandwidth(block: Any) -> float:
    """Bytes/s of reading `block` (an array with a multithreaded sum): the better of two sums."""
    return block.nbytes / min(seconds(block.sum), seconds(block.sum))


def alternated(block: Any, works: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each work's answers and of the bandwidth over ROUNDS rounds, the works taking turns."""
    found: dict[str, list[float]] = {name: [] for name in ("bandwidth", *works)}
    for n in range(ROUNDS + 1):
        rate = bandwidth(block)
        answers = {"bandwidth": rate, **{name: work() for name, work in works.items()}}
        if n:                                                  # the first round warms up
            for name, value in answers.items():
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def report(facts: dict[str, float], kind: str) -> dict[str, float]:
    """The share of the roofline of each figure at batch 1, beside the figures."""
    ceiling = facts["bandwidth"] / (MATRICES * BITS[kind] / 8)
    shares = {f"{name}_share_of_roofline": facts[name] / ceiling for name in ("decode_1", "step_1") if name in facts}
    return {**facts, "roofline_tokens_per_second": ceiling, **shares}


def ours(kind: str) -> dict[str, float]:
    """meristem: `generate`, and the network alone within `decoding`."""
    import numpy as np
    import torch

    from meristem.core import machine
    from meristem.generate.autoregressive import generate
    from meristem.models import llama
    from meristem.nn import kernel
    from meristem.nn.decode import decoding
    from meristem.nn.quantise import quantise
    machine.set_threads()
    print(kernel.why(), file=sys.stderr)
    torch.manual_seed(0)
    model = llama.Model(llama.Config(vocab=VOCAB, dim=WIDTH, layers=LAYERS, heads=HEADS, hidden=HIDDEN,
                                     context=CONTEXT)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    if kind in ("int8", "int4"):
        quantise(model, int(kind[3:]), 32)
    if kind != "fp32":
        for p in model.parameters():
            p.data = p.data.bfloat16() if p.is_floating_point() else p.data
    prompt = np.random.default_rng(0).integers(0, VOCAB, CONTEXT)

    def whole(batch: int) -> float:
        marks: list[float] = []
        generate(model, [prompt[:PROMPT[batch]]] * batch, length=1 + STEPS[batch],
                 on_token=lambda row, token: marks.append(time.perf_counter()))
        return batch * STEPS[batch] / (marks[-1] - marks[batch - 1])

    @torch.no_grad()
    def step(batch: int) -> float:
        tokens, before = torch.from_numpy(prompt[:batch, None]), PROMPT[batch]
        with decoding(model):
            cache = model.caches(batch, before + STEPS[batch])          # nothing read into it: as fast as a real one
            start = time.perf_counter()
            for n in range(STEPS[batch]):
                model(tokens, positions=torch.full((batch, 1), before + n), cache=cache)
            return batch * STEPS[batch] / (time.perf_counter() - start)

    @torch.no_grad()
    def prefill() -> float:
        with decoding(model):
            cache, places = model.caches(1, PREFILL), torch.arange(PREFILL)[None]
            return PREFILL / seconds(lambda: model.head(model.features(places, positions=places, cache=cache)[:, -1]))

    works = {f"decode_{b}": (lambda b=b: whole(b)) for b in BATCHES}
    works |= {f"step_{b}": (lambda b=b: step(b)) for b in BATCHES}
    return report(alternated(torch.ones(1 << 26), {**works, "prefill": prefill}), kind)


def transformers(kind: str, cache: str = "dynamic") -> dict[str, float]:
    """`transformers`: LlamaForCausalLM.generate with its dynamic cache, or its static one, which it compiles."""
    import torch
    import transformers as hf

    from meristem.core import machine
    machine.set_threads()
    torch.manual_seed(0)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
    model = hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS, eos_token_id=None,
        num_attention_heads=HEADS, max_position_embeddings=CONTEXT)).to(dtype).eval()
    prompt = torch.randint(0, VOCAB, (1, CONTEXT))
    options = {"cache_implementation": "static"} if cache == "static" else {}
    marks: list[float] = []

    class Marks(hf.StoppingCriteria):
        def __call__(self, ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            marks.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

    def whole(batch: int) -> float:
        marks.clear()
        model.generate(prompt[:, :PROMPT[batch]].repeat(batch, 1), max_new_tokens=1 + STEPS[batch], do_sample=False,
                       pad_token_id=0, stopping_criteria=hf.StoppingCriteriaList([Marks()]), **options)
        return batch * STEPS[batch] / (marks[-1] - marks[0])

    @torch.no_grad()
    def prefill() -> float:
        tokens = torch.randint(0, VOCAB, (1, PREFILL))
        return PREFILL / seconds(lambda: model(tokens, use_cache=True, logits_to_keep=1))

    works = {f"decode_{b}": (lambda b=b: whole(b)) for b in (BATCHES if cache == "dynamic" else BATCHES[:1])}
    if cache == "dynamic":
        works["prefill"] = prefill
    return report(alternated(torch.ones(1 << 26), works), kind)


def llamacpp(kind: str) -> dict[str, float]:
    """llama.cpp through llama-cpp-python, in its own environment: `llama_decode` alone, greedy choice not counted."""
    import ctypes
    import os
    import tempfile

    import llama_cpp as cpp
    import numpy as np
    threads = len(os.sched_getaffinity(0))
    quiet = cpp.llama_log_callback(lambda level, text, data: None)
    cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "plain.gguf", Path(folder) / "packed.gguf"
        gguf_of(plain)
        if kind != "fp32":
            choice = cpp.llama_model_quantize_default_params()
            choice.ftype, choice.pure, choice.nthread = FTYPES[kind], True, threads
            assert cpp.llama_model_quantize(str(plain).encode(), str(packed).encode(), ctypes.byref(choice)) == 0
        path = plain if kind == "fp32" else packed
        model = cpp.llama_model_load_from_file(str(path).encode(), cpp.llama_model_default_params())
    assert model

    def context(rows: int) -> Any:
        choice = cpp.llama_context_default_params()
        choice.n_ctx, choice.n_batch, choice.n_ubatch, choice.n_seq_max = 1024 * max(1, rows // 4), 2048, 512, rows
        choice.n_threads = choice.n_threads_batch = threads
        return cpp.llama_init_from_model(model, choice)

    def decode(ctx: Any, tokens: list[int], positions: list[int], rows: list[int]) -> float:
        batch = cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, (token, place, row) in enumerate(zip(tokens, positions, rows, strict=True)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, place, 1, row
            batch.logits[i] = i == len(tokens) - 1 or len(tokens) <= 16

        def run() -> None:
            assert cpp.llama_decode(ctx, batch) == 0
            cpp.llama_synchronize(ctx)
        took = seconds(run)
        cpp.llama_batch_free(batch)
        return took

    contexts = {b: context(b) for b in BATCHES}

    def step(batch: int) -> float:
        ctx, rows, before = contexts[batch], list(range(batch)), PROMPT[batch]
        cpp.llama_memory_clear(cpp.llama_get_memory(ctx), True)
        for row in rows:
            decode(ctx, list(range(1, before + 1)), list(range(before)), [row] * before)
        took = sum(decode(ctx, [5] * batch, [before + n] * batch, rows) for n in range(STEPS[batch]))
        return batch * STEPS[batch] / took

    def prefill() -> float:
        ctx = contexts[1]
        cpp.llama_memory_clear(cpp.llama_get_memory(ctx), True)
        return PREFILL / decode(ctx, list(range(PREFILL)), list(range(PREFILL)), [0] * PREFILL)

    works = {f"step_{b}": (lambda b=b: step(b)) for b in BATCHES}
    facts = alternated(np.ones(1 << 10, dtype=np.float32), {**works, "prefill": prefill})
    return {name: value for name, value in facts.items() if name != "bandwidth"}        # numpy's sum has one thread


def gguf_of(path: Path) -> None:
    """A random-weight Llama of the benchmark's shape without a vocabulary, fp32."""
    import gguf
    import numpy as np
    random = np.random.default_rng(0)
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_context_length(CONTEXT)
    out.add_embedding_length(WIDTH)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(HIDDEN)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(WIDTH // HEADS)
    out.add_vocab_size(VOCAB)
    out.add_tokenizer_model("no_vocab")
    shapes = {"token_embd": (VOCAB, WIDTH), "output_norm": (WIDTH,), "output": (VOCAB, WIDTH)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{part}": (WIDTH, WIDTH) for part in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{i}.attn_norm": (WIDTH,), f"blk.{i}.ffn_norm": (WIDTH,), f"blk.{i}.ffn_down": (WIDTH, HIDDEN),
                   f"blk.{i}.ffn_gate": (HIDDEN, WIDTH), f"blk.{i}.ffn_up": (HIDDEN, WIDTH)}
    for name, shape in shapes.items():
        weight = np.ones(shape) if len(shape) == 1 else random.normal(0, 0.02, shape)
        out.add_tensor(f"{name}.weight", weight.astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Rows of the table in docs/benchmarks.md: our figure, then a peer's and our multiple of it."""
    of = {(r["who"], *r["setting"]): r for r in runs}
    lines = ["| precision | batch 1: generate, network alone (share of roofline) | transformers | llama.cpp "
             "| batch 16 | transformers | llama.cpp | prefill | transformers | llama.cpp |", "| --- " * 10 + "|"]

    def beside(mine: float, peer: dict[str, Any] | None, key: str) -> str:
        return f"{peer[key]:,.0f} ({mine / peer[key]:.2f}x)" if peer and key in peer else "-"

    for kind in KINDS:
        if not (a := of.get(("ours", kind))):
            continue
        hf, cpp = of.get(("transformers", kind)), of.get(("llamacpp", kind))
        row = [kind, f"{a['decode_1']:,.0f}, {a['step_1']:,.0f} ({a['step_1_share_of_roofline']:.0%})",
               beside(a["decode_1"], hf, "decode_1"), beside(a["step_1"], cpp, "step_1"),
               f"{a['decode_16']:,.0f}, {a['step_16']:,.0f}", beside(a["decode_16"], hf, "decode_16"),
               beside(a["step_16"], cpp, "step_16"), f"{a['prefill']:,.0f}", beside(a["prefill"], hf, "prefill"),
               beside(a["prefill"], cpp, "prefill")]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def main() -> None:
    """Each precision: ours, transformers where it has it, llama.cpp; then one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--static", action="store_true", help="transformers with its compiled static cache, too")
    parser.add_argument("--worker", nargs="+")
    a = parser.parse_args()
    if a.worker:
        who, *setting = a.worker
        result = {"ours": ours, "transformers": transformers, "llamacpp": llamacpp}[who](*setting)
        print(json.dumps({"who": who, "setting": setting, **result}))
        return
    runs = []
    for kind in [a.only] if a.only else KINDS:
        runs.append(worker("benchmarks.decode", "ours", kind))
        if kind in ("fp32", "bf16"):
            runs.append(worker("benchmarks.decode", "transformers", kind))
        if kind == "bf16" and a.static:
            runs.append(worker("benchmarks.decode", "transformers", kind, "static"))
        if LLAMACPP.exists():
            runs.append(worker("benchmarks.decode", "llamacpp", kind, python=str(LLAMACPP)))
        else:
            print("llama.cpp is left out: run make bench-peers first", file=sys.stderr)
    print("\n".join(table(runs)), file=sys.stderr)
    if not a.only:
        record("decode", {"parameters": MATRICES + WIDTH * VOCAB, "runs": runs})


if __name__ == "__main__":
    main()
