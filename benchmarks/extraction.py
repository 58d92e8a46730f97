"""Main-text extraction, language identification and web archives, on data with known answers.

`python -m benchmarks.extraction --data DATA`, with the folders html-extraction (hand-marked article bodies, from
scrapinghub/article-extraction-benchmark), udhr2 (the Universal Declaration of Human Rights) and web-archives. F1 of
the tokens of a page, its mean with a bootstrap interval, ours beside the defaults of trafilatura and resiliparse; for
paragraphs of the languages that both the model and the declaration have: accuracy, interval over languages. `--tiny`
takes 5 pages and 5 paragraphs a language. Archives: records, as our reader and as fastwarc (ARC: warcio) count them.
"""
import argparse
import gzip
import json
import re
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common import record
from meristem.corpus import read, web
from meristem.corpus.formats.base import RefusedError
from meristem.corpus.stages import language

UDHR = {"af": "afr", "ar": "arb", "az": "azj_latn", "be": "bel", "bg": "bul", "bn": "ben", "ca": "cat", "cs": "ces",
        "cy": "cym", "da": "dan", "de": "deu_1996", "el": "ell_monotonic", "en": "eng", "eo": "epo", "es": "spa",
        "et": "est", "eu": "eus", "fa": "pes_1", "fi": "fin", "fr": "fra", "ga": "gle", "gl": "glg", "gu": "guj",
        "he": "heb", "hi": "hin", "hr": "hrv", "hu": "hun", "hy": "hye", "id": "ind", "is": "isl", "it": "ita",
        "ja": "jpn", "ka": "kat", "km": "khm", "ko": "kor", "lt": "lit", "lv": "lav", "mk": "mkd_1", "ml": "mal",
        "mn": "khk", "mr": "mar", "ms": "mly_latn", "mt": "mlt_std", "ne": "nep", "nl": "nld", "pa": "pan",
        "pl": "pol", "pt": "por_PT", "ro": "ron_2006", "ru": "rus", "sk": "slk", "sl": "slv", "sq": "als",
        "sr": "srp_cyrl", "sv": "swe", "sw": "swh", "ta": "tam", "te": "tel", "th": "tha", "tl": "tgl", "tr": "tur",
        "uk": "ukr", "ur": "urd", "vi": "vie", "zh": "cmn_hans"}
PARAGRAPHS, LEAST = 30, 40              # of each language, and their characters
TOKEN = re.compile(r"\w+")


def f1(found: str, wanted: str) -> float:
    """Token F1 of two texts as multisets."""
    a, b = Counter(TOKEN.findall(found)), Counter(TOKEN.findall(wanted))
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def interval(scores: list[float]) -> tuple[float, float, float]:
    """(mean, 2.5 %, 97.5 %) by 10,000 bootstrap draws."""
    draws = np.random.default_rng(0).choice(scores, (10_000, len(scores))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return round(float(np.mean(scores)), 4), round(float(low), 4), round(float(high), 4)


def ours(raw: bytes) -> str:
    """What curation takes from a page."""
    try:
        return web.main_text(web.decode(raw)[0])
    except RefusedError:
        return ""


def extraction(folder: Path, tiny: bool) -> dict[str, object]:
    """Scores of every extractor on the same pages."""
    import trafilatura
    extractors: dict[str, Callable[[bytes], str | None]] = {"meristem": ours, "trafilatura": trafilatura.extract}
    try:
        from resiliparse.extract.html2text import extract_plain_text
        extractors["resiliparse"] = lambda raw: extract_plain_text(web.decode(raw)[0], main_content=True)
    except ImportError:
        pass
    with gzip.open(folder / "ground-truth.json.gz") as f:
        truth = {name: row["articleBody"] for name, row in json.load(f).items()}
    with tarfile.open(folder / "html.tar") as tar:
        pages = {Path(m.name).name.split(".")[0]: gzip.decompress(tar.extractfile(m).read())     # type: ignore[union-attr]
                 for m in tar if m.isreg()}
    names = sorted(truth)[: 5 if tiny else None]
    out: dict[str, object] = {"pages": len(names), "megabytes": round(sum(len(pages[n]) for n in names) / 1e6, 2)}
    for name, extract in extractors.items():
        began = time.process_time()
        texts = [extract(pages[n]) or "" for n in names]
        seconds = time.process_time() - began
        out[name] = {"f1": interval([f1(text, truth[n]) for text, n in zip(texts, names, strict=True)]),
                     "cpu_seconds": round(seconds, 2)}
    return out


def languages(path: Path, tiny: bool) -> dict[str, object]:
    """Accuracy on paragraphs, a language at a time."""
    shares, wrong, count = [], Counter[str](), 0
    with zipfile.ZipFile(path) as archive:
        there = set(archive.namelist())
        for code, name in UDHR.items():
            if f"udhr2/{name}.txt" not in there:
                continue
            parts = re.split(r"\n\s*\n", archive.read(f"udhr2/{name}.txt").decode())
            texts = [text for part in parts if len(text := " ".join(part.split())) > LEAST][: 5 if tiny else PARAGRAPHS]
            found = [str(language.identify(text)["language"]) for text in texts]
            shares.append(sum(f == code for f in found) / len(found))
            wrong.update(f"{code} as {f}" for f in found if f != code)
            count += len(found)
    return {"languages": len(shares), "paragraphs": count, "accuracy": interval(shares), "wrong": wrong.most_common(6)}


def archives(folder: Path) -> dict[str, object]:
    """Records of each web archive as our reader and as a reference reader count them, and the documents they give."""
    from fastwarc.warc import ArchiveIterator
    from warcio.archiveiterator import ArchiveIterator as Arc
    out: dict[str, object] = {}
    for path in sorted(folder.glob("*.gz")):
        if ".jsonl" in path.name:
            continue
        items = list(read.records(path, path.name))
        with open(path, "rb") as f:
            counted = sum(1 for _ in (Arc(f) if ".arc." in path.name else ArchiveIterator(f)))
        documents = sum(not isinstance(d, read.Refusal) for r in items if not isinstance(r, read.Refusal)
                        for d in read.convert(r))
        out[path.name] = {"records": len(items), "reference": counted, "documents": documents}
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    facts = {"extraction": extraction(args.data / "html-extraction", args.tiny),
             "languages": languages(args.data / "udhr2" / "udhr2.zip", args.tiny)}
    if not args.tiny:
        facts["archives"] = archives(args.data / "web-archives")
    print(json.dumps(facts)) if args.tiny else record("extraction", facts)


if __name__ == "__main__":
    main()
