"""Does the server hold: mixed load, broken requests, clients that leave, kill -9, a restart; nothing may leak or mix.

    python -m benchmarks.serving_soak --minutes 30
    python -m benchmarks.serving_soak --minutes 0.5 --tiny     # proves that it works; nothing is recorded

A tiny chat model in float32 behind `meristem serve` in a process of its own. Twelve clients ask for completions, chats,
streams, scores, embeddings, schemas and copies, at random from SEEDS requests with fixed seeds; 5 % of the requests are
malformed, 5 % are abandoned after their first piece. Every answer must equal the one that the same request got at
first, alone. Halfway the server is killed with -9 and started again: clients see a refused or broken connection, ask
again, and must get the same answer; one that never comes in PATIENCE seconds is lost. At the end: no page in use, no
5xx, latency p50 and p99, and resident memory within 5 %: the median of the last tenth of the second server's time
beside that of the tenth after its warm-up (a fifth of its time). `memory` is its course, in MB, for whoever looks for a
leak.
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
from pathlib import Path
from typing import Any

from benchmarks.common import record
from benchmarks.serving import TINY, ends, folder_of

CLIENTS, SEEDS, MALFORMED, ABANDONED, GROWTH, PATIENCE, LOOKS = 12, 60, 0.05, 0.05, 1.05, 120.0, 100
SHOWN = 12                              # wrong answers that are printed
BROKEN: tuple[tuple[str, Any], ...] = (
    ("/v1/completions", b"{"), ("/v1/completions", b'{"prompt": "x", "max_tokens": -1}'),
    ("/v1/completions", b'{"prompt": "x", "nonsense": 1}'), ("/v1/chat/completions", b'{"messages": []}'),
    ("/v1/completions", b'{"prompt": "x", "regex": "("}'), ("/v1/embeddings", b'{"input": []}'),
    ("/v1/completions", b'{"model": "other", "prompt": "x"}'), ("/nothing", b"{}"),
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x"}], "chat_template": "x"}'))


def asked(number: int) -> tuple[str, dict[str, Any]]:
    """Request `number` of SEEDS: always the same."""
    rng = random.Random(number)
    text = " ".join(rng.choice(("import", "return", "class", "self", "value")) for _ in range(rng.randint(1, 60)))
    shared: dict[str, Any] = {"max_tokens": rng.randint(1, 40), "seed": number, "temperature": rng.choice([0, 0.7, 1])}
    kind = number % 6
    if kind == 0:
        return "/v1/embeddings", {"input": text}
    if kind == 1:
        return "/score", {"input": text}
    if kind == 2:
        return "/v1/completions", {"prompt": text, **shared, "n": rng.randint(1, 3), "logprobs": 2}
    messages = [{"role": "user", "content": text}]
    if kind == 3:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [True, False, None]}}}
        return "/v1/chat/completions", {"messages": messages, **shared, "response_format": form}
    return "/v1/chat/completions", {"messages": messages, **shared, "stream": kind == 4}


def essence(path: str, raw: str) -> str:
    """What of an answer must be the same each time: no ids, no dates, scores to five digits."""
    if raw.startswith("data: "):
        pieces = [json.loads(line[6:]) for line in raw.split("\n") if line.startswith("data: {")]
        if any("error" in p for p in pieces):
            return f"error {pieces}"
        return "".join(c["delta"].get("content") or "" for p in pieces for c in p["choices"])
    tree = json.loads(raw)
    if path == "/v1/embeddings":
        return str([round(x, 4) for x in tree["data"][0]["embedding"]])
    if path == "/score":
        return str([round(x, 4) for x in tree["data"][0]["logprobs"]])
    return str([c.get("text", c.get("message", {}).get("content")) for c in tree["choices"]])


class Soak:
    """The server's process and what was seen of it."""

    def __init__(self, folder: Path, log: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.log, self.url = folder, log, f"http://127.0.0.1:{self.port}"
        self.want: dict[int, str] = {}
        self.examples: list[tuple[int, str, str]] = []         # wrong answers: which request, what was wanted and got
        self.seconds: list[float] = []
        self.counts = dict.fromkeys(("asked", "malformed", "abandoned", "refused", "again", "wrong", "failed",
                                       "lost"), 0)
        self.process = self.started()

    def started(self) -> "subprocess.Popen[bytes]":
        """The server, answering."""
        with open(self.log, "ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "meristem", "serve", str(self.folder), "--port",
                                        str(self.port), "--rows", "8", "--queue", "32", "--dtype", "float32"],
                                       stdout=log, stderr=log)
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            time.sleep(0.1)
        raise SystemExit(self.log.read_text()[-2000:])

    def resident(self) -> int:
        """Bytes of the server in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def once(self, client: Any, number: int) -> str:
        """The essence of an answer, however often the connection breaks or the queue is full."""
        import httpx2
        path, body = asked(number)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            start = time.perf_counter()
            try:
                answer = await client.post(self.url + path, json=body)
                raw = answer.text
                if answer.status_code == 429:
                    self.counts["refused"] += 1
                    await asyncio.sleep(0.2)
                    continue
                if answer.status_code != 200:
                    self.counts["failed"] += 1
                    return f"status {answer.status_code}"
                if body.get("stream") and "[DONE]" not in raw:
                    raise ConnectionError
            except (httpx2.TransportError, ConnectionError):   # refused or cut: the server was killed
                self.counts["again"] += 1
                await asyncio.sleep(0.2)
                continue
            self.seconds.append(time.perf_counter() - start)
            return essence(path, raw)
        self.counts["lost"] += 1
        return "nothing"

    async def client(self, client: Any, seed: int, until: float) -> None:
        """One client."""
        import httpx2
        rng = random.Random(seed)
        while time.monotonic() < until:
            self.counts["asked"] += 1
            way = rng.random()
            number = rng.randrange(SEEDS)
            try:
                if way < MALFORMED:
                    path, raw = rng.choice(BROKEN)
                    answer = await client.post(self.url + path, content=raw)
                    self.counts["malformed"] += 1
                    self.counts["failed"] += not 400 <= answer.status_code < 500
                    continue
                if way < MALFORMED + ABANDONED:
                    body = {"prompt": "x", "max_tokens": 100, "stream": True, "logit_bias": {"0": -100}}
                    async with client.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
                        async for _ in answer.aiter_text():
                            break
                    self.counts["abandoned"] += 1
                    continue
            except httpx2.TransportError:                      # the server was killed
                await asyncio.sleep(0.2)
                continue
            got = await self.once(client, number)
            if got != self.want[number]:
                self.counts["wrong"] += 1
                self.examples.append((number, self.want[number], got))


async def run(soak: Soak, minutes: float) -> dict[str, Any]:
    """The whole soak."""
    import httpx2
    async with httpx2.AsyncClient(timeout=120, limits=httpx2.Limits(max_connections=2 * CLIENTS)) as client:
        for number in range(SEEDS):
            soak.want[number] = await soak.once(client, number)
        soak.seconds.clear()
        start, half = time.monotonic(), minutes * 30
        clients = [asyncio.create_task(soak.client(client, i, start + 2 * half)) for i in range(CLIENTS)]
        await asyncio.sleep(half)
        soak.process.send_signal(signal.SIGKILL)
        soak.process.wait()
        soak.process = await asyncio.to_thread(soak.started)
        course, since = list[int](), time.monotonic()
        for look in range(LOOKS):
            await asyncio.sleep(max(0.0, since + (start + 2 * half - since) * (look + 1) / LOOKS - time.monotonic()))
            course.append(soak.resident())
            if soak.process.poll() is not None:
                raise SystemExit(soak.log.read_text()[-2000:])
        tenth = LOOKS // 10
        warm, whole = (statistics.median(some) for some in (course[2 * tenth:3 * tenth], course[-tenth:]))
        await asyncio.gather(*clients)
        for _ in range(100):                                   # those who left are swept before the next step
            text = (await client.get(f"{soak.url}/metrics")).text
            used = next(float(x.rpartition(" ")[2]) for x in text.split("\n") if x.startswith("meristem_pages_used{"))
            if not used:
                break
            await asyncio.sleep(0.1)
    return {"minutes": minutes, **soak.counts, "pages_left": used, "memory_warm": warm, "memory_end": whole,
            "growth": whole / warm, "memory": [round(m / 2**20, 1) for m in course[::LOOKS // 20]],
            "server_errors": text.count('meristem_answers_total{status="5'),
            **{f"seconds_{n}": v for n, v in ends(soak.seconds).items()}}


def main() -> None:
    """Soak, judge, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        soak = Soak(folder_of(TINY, Path(scratch) / "soak"), Path(scratch) / "log")
        try:
            found = asyncio.run(run(soak, given.minutes))
        finally:
            soak.process.kill()
            soak.process.wait()
    good = not any(found[name] for name in ("wrong", "failed", "lost", "pages_left", "server_errors"))
    found["holds"] = good and (given.tiny or found["growth"] <= GROWTH)
    for number, want, got in soak.examples[:SHOWN]:
        print(f"request {number}: {want[:200]!r} became {got[:200]!r}", file=sys.stderr)
    print(json.dumps(found))
    if not given.tiny:
        record("serving_soak", found)
    sys.exit(0 if found["holds"] else 1)


if __name__ == "__main__":
    main()
