"""Serving one random-weight 109.5 M Llama on a CPU, beside `transformers serve` and llama.cpp's server.

    python -m benchmarks.serving                  # about 15 minutes on a machine that does nothing else
    python -m benchmarks.serving --only ours adapters          # some workers; nothing is recorded
    python -m benchmarks.serving --tiny           # a toy shape and a few requests: proves that it works
    python -m benchmarks.serving --recorded --price 0.10       # what 1,000 tokens cost at the recorded rates

Needs `make bench-peers`, and in .bench/llamacpp/env what its server needs: fastapi uvicorn sse-starlette
starlette-context pydantic-settings.
One shape (benchmarks.decode), one tokenizer, bf16, prompts of 64 words, 48 tokens an answer, streamed chats. Clients
send one request after another; the first round warms up. Per server and number of clients: requests/s, tokens/s, time
to the first token and between tokens (p50, p99), as a client sees them. llama.cpp's Python server answers one request
at a time. `prefix`: the first token of prompts that share 1,000 words, cold and warm. `adapters`: tokens/s of 256 texts
in one batch that use 1 to 256 LoRA adapters of rank 8, over the base's own (`Engine` without HTTP). Targets: 3 times
transformers' tokens/s at 32 clients, llama.cpp's at 1; 256 adapters at half of the base's rate.
"""
import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import PEERS, RESULTS, record, worker

SERVERS = ("ours", "transformers", "llamacpp")
KINDS = (*SERVERS, "prefix", "adapters")
PATIENCE = 180.0                        # seconds a server may take to come up


@dataclass(frozen=True)
class Load:
    """How much is asked."""

    clients: tuple[int, ...] = (1, 8, 32)
    seconds: float = 25.0               # of each number of clients
    words: int = 64
    length: int = 48
    shared: int = 1000                  # words that prompts share
    adapters: tuple[int, ...] = (0, 1, 16, 64, 256)
    texts: int = 256                    # of the adapters' batch
    width: int = 768
    layers: int = 12
    vocab: int = 32_000
    context: int = 2048


TINY = Load((1, 4), 1.5, 8, 6, 64, (0, 2, 4), 4, 64, 2, 600, 512)


def folder_of(load: Load, where: Path) -> Path:
    """The model folder: random weights, a byte-level tokenizer with a chat template."""
    import torch

    from meristem.codecs import bpe, chat
    from meristem.hub import hf
    from meristem.models import llama
    codec = bpe.fit(sources(), min(4096, load.vocab), special=chat.CHATML_TOKENS)
    torch.manual_seed(0)
    module = llama.Model(llama.Config(vocab=load.vocab, dim=load.width, layers=load.layers, heads=load.width // 64,
                                      hidden=load.width * 8 // 3, context=load.context)).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.02 * torch.randn_like(p))
        module.head.weight[codec.vocab:] = 0                   # ids without a text are as good as never drawn
        module.head.weight[:codec.vocab].mul_(20)
    hf.save(where, "llama", module.config, module.bfloat16(), codec, None, chat.usual(codec))
    return where


def sources() -> Iterator[str]:
    """Some texts of this machine's standard library."""
    for path in sorted(Path(os.__file__).parent.glob("*.py"))[:40]:
        yield path.read_text(encoding="utf-8", errors="replace")


def words(rng: random.Random, count: int) -> str:
    """A prompt that no other one begins like."""
    pool = ("import", "return", "class", "def", "self", "value", "name", "path", "text", "line", "index", "result",
            "error", "count", "item", "list", "open", "read", "write", "close", "start", "stop", "first", "last")
    return " ".join(rng.choice(pool) for _ in range(count))


@contextmanager
def serving(kind: str, folder: Path, scratch: Path, more: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """A server in a process of its own: its address and the name of the model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name, env = folder.name, {**os.environ, "HF_HUB_OFFLINE": "1"}
    if kind == "ours":
        command = [sys.executable, "-m", "meristem", "serve", str(folder), "--port", str(port), *more]
    elif kind == "transformers":
        name = str(folder)
        command = [str(Path(sys.executable).parent / "transformers"), "serve", "--port", str(port), "--device", "cpu",
                   "--dtype", "bfloat16", "--host", "127.0.0.1", "--log-level", "error", "--continuous-batching"]
        command += ["--cb-num-blocks", "256", "--cb-max-batch-tokens", "512"]
    else:
        path = scratch / "model.gguf"
        python = str(PEERS / "llamacpp/env/bin/python")
        subprocess.run([python, "-m", "benchmarks.serving_gguf", str(folder), str(path)], check=True)
        command = [str(PEERS / "llamacpp/env/bin/python"), "-m", "llama_cpp.server", "--model", str(path), "--port",
                   str(port), "--chat_format", "chatml", "--n_ctx", "2048", "--n_threads",
                   str(len(os.sched_getaffinity(0))), "--host", "127.0.0.1", "--verbose", "False",
                   "--interrupt_requests", "False"]
    with open(scratch / f"{kind}.log", "wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit((scratch / f"{kind}.log").read_text()[-2000:])
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", name
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


async def one(client: Any, url: str, name: str, prompt: str, length: int) -> tuple[float, list[float], int]:
    """Seconds to the first token, those between pieces, and how many tokens an answer had."""
    body = {"model": name, "messages": [{"role": "user", "content": prompt}], "max_tokens": length, "stream": True,
            "temperature": 1.0, "stream_options": {"include_usage": True}}
    start, marks, written = time.perf_counter(), [], 0
    async with client.stream("POST", f"{url}/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"{answer.status_code}: {(await answer.aread())[:300]!r}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            tree = json.loads(line[6:])
            written = (tree.get("usage") or {}).get("completion_tokens", written)
            if any((c.get("delta") or {}).get("content") for c in tree.get("choices") or ()):
                marks.append(time.perf_counter())
    gaps = [b - a for a, b in zip(marks, marks[1:], strict=False)]
    return (marks[0] if marks else time.perf_counter()) - start, gaps, written or len(marks)


async def loaded(url: str, name: str, clients: int, load: Load) -> dict[str, float]:
    """What `clients` see who ask one thing after another for some seconds."""
    import httpx2
    firsts, gaps, tokens, requests = list[float](), list[float](), 0, 0
    async with httpx2.AsyncClient(timeout=PATIENCE, limits=httpx2.Limits(max_connections=clients)) as client:
        await asyncio.gather(*(one(client, url, name, words(random.Random(-i), load.words), 4) for i in range(clients)))
        start = time.perf_counter()

        async def asking(number: int) -> None:
            nonlocal tokens, requests
            rng = random.Random(number)
            while time.perf_counter() - start < load.seconds:
                first, between, written = await one(client, url, name, words(rng, load.words), load.length)
                firsts.append(first)
                gaps.extend(between)
                tokens, requests = tokens + written, requests + 1
        await asyncio.gather(*(asking(i) for i in range(clients)))
        took = time.perf_counter() - start
    return {"requests_per_second": requests / took, "tokens_per_second": tokens / took, "requests": requests,
            **{f"first_token_{n}": v for n, v in ends(firsts).items()},
            **{f"between_tokens_{n}": v for n, v in ends(gaps).items()}}


def ends(values: list[float]) -> dict[str, float]:
    """p50 and p99, seconds."""
    if len(values) < 2:
        return {"p50": values[0] if values else 0.0, "p99": values[0] if values else 0.0}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98]}


async def prefixes(url: str, name: str, load: Load) -> dict[str, float]:
    """Time to the first token of long prompts: all different, and all with the same beginning."""
    import httpx2
    cold, warm = list[float](), list[float]()
    async with httpx2.AsyncClient(timeout=PATIENCE) as client:
        shared = words(random.Random(10**6), load.shared)
        await one(client, url, name, shared, 2)
        for n in range(6):
            other = words(random.Random(n), load.shared)
            cold.append((await one(client, url, name, other, 2))[0])
            warm.append((await one(client, url, name, f"{shared} {words(random.Random(100 + n), 8)}", 2))[0])
    return {"cold_first_token": statistics.median(cold), "warm_first_token": statistics.median(warm),
            "gain": statistics.median(cold) / statistics.median(warm)}


def adapters(load: Load, folder: Path, scratch: Path) -> dict[str, float]:
    """Tokens/s of a batch whose texts use so many different adapters; 0: the base."""
    import torch

    from meristem.adapt import files, lora
    from meristem.generate.sampling import Sampling
    from meristem.hub import hf
    from meristem.serve.jobs import Ask
    from meristem.serve.loading import Options, load_text
    from meristem.serve.settings import Settings
    shelf, base = scratch / "adapters", hf.load(folder)
    identity = hf.identity(base.family, base.module)
    module = lora.apply(base.module, rank=8)
    for n in range(max(load.adapters)):
        with torch.no_grad():
            for key, p in module.named_parameters():
                if key.endswith((".a", ".b")):
                    p.normal_(0, 0.02)
        files.save(shelf / f"a{n}", module, base.family, identity)
    out = {}
    for count in load.adapters:
        settings = Settings(rows=load.texts, chunk=2048, queue=2 * load.texts, memory=2 << 30)
        model = load_text(folder, Options(settings, adapters=shelf, places=max(load.adapters)))
        engine, rng = model.engine, random.Random(0)
        with engine.ready():
            for i in range(load.texts):
                prompt = [rng.randrange(5, model.codec.vocab) for _ in range(8)]
                engine.submit(Ask(prompt=prompt, sampling=Sampling(length=load.length, seed=i),
                                  adapter=f"a{i % count}" if count else ""))
            while any(row.reading for row in engine.rows) or not engine.rows:
                engine.step()
            start, before = time.perf_counter(), engine.counts.written
            for _ in range(load.length // 2):
                engine.step()
            out[f"tokens_per_second_{count}"] = (engine.counts.written - before) / (time.perf_counter() - start)
    plain = out["tokens_per_second_0"]
    return {**out, **{f"share_of_base_{n}": out[f"tokens_per_second_{n}"] / plain for n in load.adapters if n}}


def work(kind: str, load: Load) -> dict[str, Any]:
    """One worker."""
    from meristem.core import machine
    machine.set_threads()
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch)
        folder = folder_of(load, where / "model100m")
        if kind == "adapters":
            return adapters(load, folder, where)
        with serving("ours" if kind == "prefix" else kind, folder, where) as (url, name):
            if kind == "prefix":
                return asyncio.run(prefixes(url, name, load))
            return {str(n): asyncio.run(loaded(url, name, n, load)) for n in load.clients}


def costs(found: dict[str, Any], price: float) -> dict[str, Any]:
    """Seconds, dollars, joules (with their band) and grams of CO2e of 1,000 tokens, by server and clients.

    The machine is the result's: its processor, the threads that it has, and this machine's memory.
    """
    from meristem.plan.answers import per_thousand
    table: dict[str, Any] = {}
    for server in SERVERS:
        for clients, row in found[server].items():
            cost = per_thousand(row["tokens_per_second"], price=price, threads=found["cores"], cpu=found["processor"])
            table.setdefault(server, {})[clients] = {
                "seconds": round(cost.seconds, 3), "dollars": cost.dollars, "joules": round(cost.energy.joules, 2),
                "low": round(cost.energy.low, 2), "high": round(cost.energy.high, 2),
                "grams": round(cost.energy.grams, 5)}
    return table


def main() -> None:
    """Run the workers one after another and record what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=KINDS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--recorded", action="store_true", help="measure nothing, price the last result")
    parser.add_argument("--price", type=float, default=0.0, help="of the machine, dollars an hour")
    parser.add_argument("--worker")
    given = parser.parse_args()
    if given.recorded:
        print(json.dumps(costs(json.loads((RESULTS / "serving.json").read_text()), given.price)))
        return
    load = TINY if given.tiny else Load()
    load = replace(load, seconds=given.seconds) if given.seconds else load
    if given.worker:
        print(json.dumps(work(given.worker, load)))
        return
    more = [*(["--tiny"] if given.tiny else []), *(["--seconds", str(given.seconds)] if given.seconds else [])]
    kinds = given.only or (("ours", "prefix", "adapters") if given.tiny else KINDS)
    found = {kind: worker("benchmarks.serving", kind, *more) for kind in kinds}
    if not given.only and not given.tiny:
        most, least = str(max(load.clients)), str(min(load.clients))

        def rate(kind: str, clients: str) -> float:
            return float(found[kind][clients]["tokens_per_second"])
        found["ratios"] = {f"over_transformers_{most}": rate("ours", most) / rate("transformers", most),
                           f"over_llamacpp_{least}": rate("ours", least) / rate("llamacpp", least)}
        record("serving", found)


if __name__ == "__main__":
    main()
