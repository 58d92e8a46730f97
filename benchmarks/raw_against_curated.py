"""What curation is worth at equal compute: `python -m benchmarks.raw_against_curated --data DATA --out RUNS`.

A small web: prose (DATA/movie-reviews, DATA/medquad), pages of real archives (DATA/web-archives) as their bytes without
markup ("raw": tags and scripts taken out, nothing else), and planted copies, edited copies and spam, as a crawl has
them. "Curated" is the same input, its pages' main text, through `meristem curate --stages "repair language:keep=en
gopher c4:brackets=false fineweb"` and deduplication. The same network is trained on either for the same steps and
FLOPs, with one tokenizer fitted to both, and judged on clean text that neither has seen: an encyclopedia, article
bodies marked by hand in web pages, film reviews. Bits per byte, three seeds, interval of the paired difference (t).
`--tiny` trains 4 steps of one seed.
"""
import argparse
import gzip
import json
import math
import random
import re
import statistics
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import record
from meristem.codecs import bpe
from meristem.codecs import load as load_codec
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train
from meristem.corpus import read
from meristem.corpus.curate import curate
from meristem.corpus.store import Corpus

SEEDS, STEPS, CONTEXT, BATCH = (0, 1, 2), 200, 128, 16
T95 = 4.303                             # Student's t for two degrees of freedom
CLEAN = 100_000                         # bytes of held-out text that are looked at
TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]{0,2000}>", re.DOTALL | re.IGNORECASE)


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """(text without markup, main text or "") of every page of the archives."""
    for path in sorted(folder.glob("*.warc.gz")) + sorted(folder.glob("*.arc.gz")):
        for item in read.records(path, path.name):
            if isinstance(item, read.Refusal) or item.media != "html":
                continue
            plain = TAGS.sub(" ", item.raw.decode("utf-8", "replace"))
            main = next((d.text for d in read.convert(item) if not isinstance(d, read.Refusal)), "")
            yield re.sub(r"[ \t]+", " ", plain), main


def main_texts(folder: Path) -> Iterator[str]:
    """The documents of the archives' text records and of JSON lines, which are prose already."""
    for path in sorted(folder.glob("*.jsonl*")):
        for item in read.records(path, path.name):
            if not isinstance(item, read.Refusal):
                yield from (d.text for d in read.convert(item) if not isinstance(d, read.Refusal))


def prose(data: Path) -> list[str]:
    """What of a crawl is good prose: film reviews and answers about health."""
    with tarfile.open(data / "movie-reviews" / "movie_reviews_half.tar.xz") as tar:
        reviews = [tar.extractfile(m).read().decode("utf-8", "replace") for m in tar if m.isreg()]  # type: ignore[union-attr]
    with gzip.open(data / "medquad" / "medquad_us_agencies.jsonl.gz", "rt", encoding="utf-8") as f:
        answers = [json.loads(line)["answer"] for line in f]
    return [text for text in (*reviews[:500], *answers) if text and len(text) > 300]


def write(rows: list[str], path: Path) -> int:
    """JSON lines; returns the bytes of text."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), encoding="utf-8")
    return sum(len(text.encode()) for text in rows)


def made(data: Path, out: Path, good: list[str]) -> dict[str, Corpus]:
    """The two corpora of the same crawl; those that are there already are not made again."""
    if all((out / name / "corpus.json").is_file() for name in ("raw", "curated")):
        return {name: Corpus.open(out / name) for name in ("curated", "raw")}
    rng = random.Random(0)
    both = [*pages(data / "web-archives"), *((text, text) for text in main_texts(data / "web-archives")),
            *((text, text) for text in good)]
    words = ["buy", "cheap", "pills", "casino", "click", "here", "win", "now", "http://x.biz"]
    spam = [" ".join(rng.choices(words, k=300)) for _ in range(len(both) // 4)]
    copies = [rng.choice(both) for _ in range(len(both))]
    edited = [(a.replace(" the ", " that ", 4), b.replace(" the ", " that ", 4)) for a, b in copies]
    crawl = [*both, *copies, *edited, *((s, s) for s in spam)]
    rng.shuffle(crawl)
    names = {"raw": [plain for plain, _ in crawl], "curated": [main or plain for plain, main in crawl]}
    corpora = {}
    for name, texts in names.items():
        write([t for t in texts if t.strip()], out / f"{name}.jsonl")
        if name == "curated":
            corpora[name] = curate([out / "curated.jsonl"], out / "curated",
                                   stages=["repair", "language:keep=en", "gopher", "c4:brackets=false", "fineweb"],
                                   workers=1)
    corpora["raw"] = kept_whole(out / "raw.jsonl", out / "raw")
    return corpora


def kept_whole(path: Path, out: Path) -> Corpus:
    """Every document as it is, copies too: what training without curation reads. Written in a corpus's layout."""
    from meristem.core import files
    rows = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    splits: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
    for n, text in enumerate(rows):
        key = files.digest_bytes(f"{n}", text)
        split = "validation" if n % 50 == 0 else "test" if n % 50 == 1 else "train"
        splits[split].append({"id": key, "path": f"{path.name}#{n}", "kind": "prose", "licence": "", "text": text})
    with files.committed(out) as folder:
        counts = {}
        for split, some in splits.items():
            some.sort(key=lambda row: row["id"])
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in some))
            counts[split] = {"documents": len(some), "bytes": sum(len(r["text"].encode()) for r in some)}
        (folder / "ledger.jsonl").write_text("")
        files.write_json(folder / "corpus.json", {
            "inputs": [str(path)], "seed": 0, "limit_bytes": 0, "state": "", "splits": counts, "kinds": {},
            "licences": {}, "dropped": {}, "seen": {"documents": len(rows), "bytes": 0}, "rules": {}, "examples": {},
            "hash": files.digest_bytes(*(f"{s} {r['id']}" for s, some in splits.items() for r in some))})
    return Corpus.open(out)


def clean(data: Path) -> dict[str, str]:
    """Clean text that is in neither corpus: the validation split of WikiText-2, article bodies that people marked in
    web pages, and film reviews that were left out."""
    with gzip.open(data / "html-extraction" / "ground-truth.json.gz") as f:
        articles = "\n\n".join(row["articleBody"] for _, row in sorted(json.load(f).items()))
    with tarfile.open(data / "movie-reviews" / "movie_reviews_half.tar.xz") as tar:
        reviews = [tar.extractfile(m).read().decode("utf-8", "replace") for m in tar if m.isreg()]  # type: ignore[union-attr]
    wiki = gzip.decompress((data / "wikitext2-evalsplits" / "valid.txt.gz").read_bytes()).decode()
    texts = {"encyclopedia": wiki, "articles": articles, "reviews": "\n\n".join(reviews[500:])}
    return {name: text[:CLEAN] for name, text in texts.items()}


def bits(run: Path, codec: Any, text: str) -> float:
    """Bits per byte of a text under a trained model."""
    import torch

    from meristem.data.loader import sweep
    from meristem.data.shards import Split
    from meristem.hub import hf
    from meristem.objectives.next_token import NextToken
    from meristem.train.hooks import validate
    ids = codec.encode(text)
    import numpy as np
    split = Split("clean", ids, np.zeros(1, np.int64), ["x"], len(text.encode()), codec.end)
    with torch.no_grad():
        nats = validate(NextToken(hf.load(run).module.float()), list(sweep(split, CONTEXT, BATCH)))
    return nats * (len(ids) - 1) / split.bytes / math.log(2)


def main() -> None:
    """Measure and print."""
    from meristem.train.run import pretrain
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    corpora = made(args.data, args.out, prose(args.data))
    places = [corpus.folder / "codecs" / f"bpe-{digest({'vocab': 2048})}" for corpus in corpora.values()]
    if not all(place.is_dir() for place in places):            # the same vocabulary for both
        codec = bpe.fit((d.text for corpus in corpora.values() for d in corpus.documents("train")), 2048)
        for place in places:
            place.parent.mkdir(exist_ok=True)
            save(codec, place)
    codec = load_codec(places[0])
    texts = clean(args.data)
    scores: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in texts} for name in corpora}
    for seed in SEEDS[: 1 if args.tiny else None]:
        for name, corpus in corpora.items():
            run = Run("raw_against_curated", Part("llama", {"dim": 96, "layers": 3, "heads": 4, "hidden": 256}),
                      Part("next_token"), Data(str(corpus.folder), Part("bpe", {"vocab": 2048})),
                      Train(steps=4 if args.tiny else STEPS, batch=BATCH, context=CONTEXT, lr=3e-3, warmup=20,
                            compile=False), seed=seed)
            folder = pretrain(run, args.out / f"{name}.{seed}") / "model"
            for kind, text in texts.items():
                scores[name][kind].append(bits(folder, codec, text))
    facts: dict[str, Any] = {"steps": STEPS, "tokens": STEPS * BATCH * CONTEXT}
    for name, corpus in corpora.items():
        facts[name] = {"bits_per_byte": {kind: [round(s, 4) for s in some] for kind, some in scores[name].items()},
                       "train_bytes": corpus.summary["splits"]["train"]["bytes"],
                       "documents": corpus.summary["splits"]["train"]["documents"]}
    for kind in texts:
        gains = [a - b for a, b in zip(scores["raw"][kind], scores["curated"][kind], strict=True)]
        half = T95 * statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) == len(SEEDS) else 0.0
        mean = statistics.mean(gains)
        facts[f"gain {kind}"] = [round(mean, 4), round(mean - half, 4), round(mean + half, 4)]
    facts["cpu_minutes"] = round((time.process_time() - began) / 60, 1)
    print(json.dumps(facts)) if args.tiny else record("raw_against_curated", facts)


def digest(fields: dict[str, Any]) -> str:
    """What `train.run.codec_of` calls the folder of a codec with these fields."""
    from meristem.core.files import digest_bytes
    return digest_bytes(repr(sorted(fields.items())))[:12]


def save(codec: Any, place: Path) -> None:
    """A codec where a run looks for its own."""
    from meristem.core.files import committed
    with committed(place) as tmp:
        codec.save(tmp)


if __name__ == "__main__":
    main()
