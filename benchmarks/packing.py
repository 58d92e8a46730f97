"""Tokenise and pack beside `tokenizers` in a plain script: `python -m benchmarks.packing`.

Prose of this machine (benchmarks/curation_scale.py) as a corpus folder; ours is `data.shards.tokenise`, from the folder
to verified shards on disk. Beside it what one would write by hand: read the same JSON lines, `encode_batch` of 1,000
texts at a time, append the end token, `numpy.concatenate`, write uint16. The same vocabulary, fresh processes, the
median of five rounds in turn, one thread and all. MB of text a second of wall time. `--tiny` takes 1 MB, once.
"""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import record, worker
from benchmarks.curation_scale import write

MEGABYTES, ROUNDS, VOCABULARY = 50, 5, 8192


def ours(corpus: str, codec: str) -> dict[str, float]:
    """Seconds of tokenise, and its tokens."""
    import shutil

    from meristem.codecs import load
    from meristem.corpus.store import Corpus
    from meristem.data.shards import tokenise
    opened, made = Corpus.open(Path(corpus)), load(Path(codec))
    shutil.rmtree(Path(corpus) / "tokens", ignore_errors=True)
    began = time.perf_counter()
    shards = tokenise(opened, made)
    return {"seconds": time.perf_counter() - began, "tokens": sum(s["tokens"] for s in shards.index["splits"].values())}


def theirs(corpus: str, codec: str) -> dict[str, float]:
    """The same by hand."""
    import numpy as np
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(f"{codec}/tokenizer.json")
    tokenizer.encode_special_tokens = True                     # "<|end|>" in a document is text there, as it is to ours
    tokens = 0
    began = time.perf_counter()
    for split in ("train", "validation", "test"):
        with open(f"{corpus}/{split}.jsonl", encoding="utf-8") as f:
            texts = [json.loads(line)["text"] for line in f]
        parts = []
        for start in range(0, len(texts), 1000):
            some = tokenizer.encode_batch(texts[start: start + 1000])
            parts += [np.array([*e.ids, 0], dtype=np.uint16) for e in some]
        whole = np.concatenate(parts)
        tokens += len(whole)
        whole.tofile(f"{corpus}/{split}.bin")
    return {"seconds": time.perf_counter() - began, "tokens": tokens}


def prepared(folder: Path, megabytes: float) -> tuple[Path, Path, int]:
    """A corpus, a codec and the bytes of text."""
    from meristem.codecs import bpe
    from meristem.corpus.curate import curate
    write(folder / "in.jsonl", megabytes)
    corpus = curate([folder / "in.jsonl"], folder / "corpus")
    codec = bpe.fit((d.text for d in corpus.documents("train")), VOCABULARY)
    (folder / "codec").mkdir()
    codec.save(folder / "codec")
    return corpus.folder, folder / "codec", sum(s["bytes"] for s in corpus.summary["splits"].values())


def main() -> None:
    """Measure and print."""
    if "--worker" in sys.argv:
        print(json.dumps({"ours": ours, "theirs": theirs}[sys.argv[2]](*sys.argv[3:5])))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    facts: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        corpus, codec, size = prepared(Path(name), 1 if args.tiny else MEGABYTES)
        for threads in (1, os.cpu_count() or 1):
            os.environ |= {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower()}
            seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
            for _ in range(1 if args.tiny else ROUNDS):
                found = {who: worker("benchmarks.packing", who, str(corpus), str(codec)) for who in seconds}
                assert found["ours"]["tokens"] == found["theirs"]["tokens"], found
                for who in seconds:
                    seconds[who].append(found[who]["seconds"])
            rate = {who: round(size / 1e6 / statistics.median(some), 2) for who, some in seconds.items()}
            facts[f"threads_{threads}"] = {**rate, "times": round(rate["ours"] / rate["theirs"], 2)}
        facts["megabytes"] = round(size / 1e6, 1)
    print(json.dumps(facts)) if args.tiny else record("packing", facts)


if __name__ == "__main__":
    main()
