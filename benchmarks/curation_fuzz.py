"""Hostile input for as long as one likes: `python -m benchmarks.curation_fuzz --minutes 60`.

Each case is a folder of files made of pieces of every format (WARC, ARC, gzip, Zstandard, tar, parquet, JSON lines,
CSV, FASTA, HTML, PDF, text) that are cut, repeated, spliced, packed once more, or have bytes flipped, under names that
fit or do not. Read and curated, it must end in a corpus whose ledger has a line for every file, or in one RequestError
or MachineError; any other exception, or a case of over 60 s, is kept with its seed and the files in
`--out`. With `--engine atheris` (pip install atheris) libFuzzer chooses the bytes of one file by what code they reach;
else hypothesis's way: cases are drawn, a failing one is written down whole. `--tiny` runs 3 s.
"""
import argparse
import contextlib
import gzip
import io
import json
import logging
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import zstandard

from benchmarks.common import record
from meristem.core.errors import MachineError, RequestError
from meristem.corpus import find, read
from meristem.corpus.curate import curate
from meristem.corpus.stages.base import batch_of, stages_of

LIMIT = 60                              # seconds of one case
NAMES = ("a.txt", "b.jsonl", "c.csv", "d.tsv", "e.html", "f.warc", "g.warc.gz", "h.tar", "i.parquet", "j.fasta",
         "k.pdf", "l.py", "m.jsonl.zst", "n", "o.gz", "p.tgz", "\u00fc.txt", "q#1.txt", "r@x", ".hidden")
STAGES = "repair gopher:stop_words=0 c4 fineweb rules personal secrets opted_out licences:unknown=true syntax"
SWAPS = [(b"\n", b"\r\n"), (b"1", b"9999999"), (b" ", b"\0"), (b'"', b"'"), (b"<", b"<<")]
PROSE = ("The harbour lies still and nine boats come home before the night. It is late, and the lamps are lit.\n" * 4)


def pieces() -> list[bytes]:
    """A small whole file of each format."""
    page = f"<html><head><meta charset=latin-1><title>x</title></head><body><p>{PROSE}</p></body></html>".encode()
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nX-Robots-Tag: noai\r\n\r\n" + page
    warc = (b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.org/\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
            b"WARC-Record-ID: <urn:uuid:1>\r\nContent-Type: application/http; msgtype=response\r\n"
            b"Content-Length: " + str(len(http)).encode() + b"\r\n\r\n" + http + b"\r\n\r\n")
    arc = (b"filedesc://x.arc 0.0.0.0 20200101000000 text/plain 76\n1 0 X\nURL IP-address Archive-date Content-type "
           b"Archive-length\n\nhttp://a.org/ 1.2.3.4 20200101000000 text/html " + str(len(http)).encode() + b"\n"
           + http)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("../../x.txt", "a/b.jsonl", "c"):
            member = tarfile.TarInfo(name)
            body = json.dumps({"text": PROSE}).encode()
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("link")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    rows = "".join(json.dumps({"text": PROSE + str(n), "license": "MIT", "url": f"http://a.org/{n}"}) + "\n"
                   for n in range(5))
    made = [page, warc, arc, out.getvalue(), rows.encode(), f"text,n\n\"{PROSE}\",1\n".encode(),
            b">p1 x\nMKVLA\n>p2\nACGT\n",
            b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
            b"trailer<</Root 1 0 R>>\n%%EOF", PROSE.encode(), b"\xff\xfe" + PROSE.encode("utf-16-le"),
            b"def f(x):\n    return x\n" * 30, b"[" * 3000, b'{"text": ' * 400,
            b'{"text": 1}\n{"body": null}\n[]\n\n"x"\n', b"\0" * 50,
            b"caf\xe9 \xed\xa0\x80 \xf0\x9f\x98", b"<div>" * 2000, b"a" * 100_000, b"Content-Length: 99999999999\r\n"]
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
        for table in ({"text": [PROSE, None, "x"]}, {"text": [1, 2]}, {"other": ["x"]}):
            sink = io.BytesIO()
            pq.write_table(pa.table(table), sink)
            made.append(sink.getvalue())
    except ImportError:
        pass
    return made


def mutated(rng: random.Random, made: list[bytes]) -> bytes:
    """A file that nobody would write."""
    raw = rng.choice(made)
    for _ in range(rng.randrange(4)):
        match rng.randrange(8):
            case 0:
                raw = raw[: rng.randrange(len(raw) + 1)]
            case 1:
                body = bytearray(raw)
                for _ in range(rng.randrange(1, 20)):
                    if body:
                        body[rng.randrange(len(body))] = rng.randrange(256)
                raw = bytes(body)
            case 2:
                raw = gzip.compress(raw, 1)
            case 3:
                raw = zstandard.compress(raw, 1)
            case 4:
                at = rng.randrange(len(raw) + 1)
                raw = raw[:at] + rng.choice(made)[: rng.randrange(3000)] + raw[at:]
            case 5:
                raw = raw * rng.randrange(1, 6)
            case 6:
                raw = raw + bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
            case _:
                raw = raw.replace(*rng.choice(SWAPS))
    return raw[: 2 << 20]


def tried(folder: Path, stages: list[str]) -> str:
    """How one case ended: "corpus", the class of an error of ours, or "BROKEN ..."."""
    out = folder.with_name("out")
    inputs = Counter(f"{folder.name}/{p.name}" for p in folder.iterdir())
    try:
        rows = list(curate([folder], out, stages=stages, workers=1).ledger())
    except (RequestError, MachineError) as error:
        return type(error).__name__ if "\n" not in str(error) else f"BROKEN error of several lines: {error}"
    finally:
        shutil.rmtree(out, ignore_errors=True)
    told = [row["path"] for row in rows]
    lost = [name for name in inputs if not any(path == name or path.startswith((f"{name}#", f"{name}/", f"{name}@"))
                                               for path in told)]
    if lost:
        return f"BROKEN no line in the ledger for {lost}"
    return "corpus"


def drawn(minutes: float, out: Path, seed: int) -> dict[str, Any]:
    """Cases until the time is over."""
    made, counts, broken = pieces(), Counter[str](), []
    began = time.monotonic()
    number, worst = seed, 0.0
    library = find.standard_library()[0]
    keep = [(library / f"{name}.py").read_bytes() for name in ("bisect", "copy", "heapq")]
    while time.monotonic() - began < 60 * minutes:
        rng = random.Random(number)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "in"
            folder.mkdir()
            for n, raw in enumerate(keep):                     # three that stay, so that it ends in a corpus
                (folder / f"keep{n}.py").write_bytes(raw)
            for _ in range(rng.randrange(1, 5)):
                (folder / rng.choice(NAMES)).write_bytes(mutated(rng, made))
            if rng.random() < 0.1:
                (folder / "link").symlink_to("/etc/passwd")
            stages = rng.choice([["rules"], STAGES.split(), rng.sample(STAGES.split(), 3)])
            start = time.monotonic()
            signal.alarm(LIMIT)
            try:
                with contextlib.redirect_stderr(io.StringIO()):            # warcio talks about every odd record
                    said = tried(folder, stages)
            except Exception as error:                         # this is what is being looked for
                said = f"BROKEN {type(error).__name__}: {error}"
            signal.alarm(0)
            worst = max(worst, time.monotonic() - start)
            counts[said.split(" ")[0]] += 1
            if said.startswith("BROKEN"):
                broken.append({"seed": number, "said": said[:300], "stages": stages})
                shutil.copytree(folder, out / str(number), symlinks=True, dirs_exist_ok=True)
                print(json.dumps(broken[-1]), file=sys.stderr)
        number += 1
    return {"cases": number - seed, "ended": dict(counts), "broken": broken, "slowest_seconds": round(worst, 2)}


def guided(minutes: float) -> None:
    """libFuzzer's choice of bytes for one file and the stages; ends the process."""
    import atheris
    functions = stages_of(STAGES.split())

    def one(raw: bytes) -> None:
        name = NAMES[raw[0] % len(NAMES)] if raw else "a"
        texts = []
        for item in read.records_of(io.BytesIO(raw[1:]), name, len(raw) - 1, read.PLAIN):
            for found in [item] if isinstance(item, read.Refusal) else read.convert(item):
                if not isinstance(found, read.Refusal):
                    texts.append(found.text)
        batch = batch_of(texts)
        for stage in functions:
            batch = stage(batch)
    atheris.instrument_all()
    words = [sys.argv[0], f"-max_total_time={int(60 * minutes)}", f"-timeout={LIMIT}", "-print_final_stats=1"]
    atheris.Setup(words, one)
    atheris.Fuzz()


def _late(number: int, frame: Any) -> None:
    raise TimeoutError(f"over {LIMIT} s")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["drawn", "atheris"], default="drawn")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _late)
    logging.disable(logging.CRITICAL)
    minutes = 0.05 if args.tiny else args.minutes
    if args.engine == "atheris":
        guided(minutes)
        return
    facts = {"minutes": minutes, **drawn(minutes, args.out, args.seed)}
    print(json.dumps(facts)) if args.tiny else record("curation_fuzz", facts)
    sys.exit(bool(facts["broken"]))


if __name__ == "__main__":
    main()
