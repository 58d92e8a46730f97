"""Planted lines, toxic and boilerplate, and what the filters make of them (row F5): precision, recall, a reason each.

    python -m benchmarks.planted --data DATA [--tiny]

DATA holds xquad, wikisplit, hatecheck and toxicity-templates. Every paragraph of XQuAD is a document, a sentence a
line. `toxic`: into each go two hateful sentences of HateCheck and two of its harmless ones (the same words, no hate);
stage `toxicity:lines=true` takes out what a classifier calls toxic, which was trained on Jigsaw's templates, on the
other half of HateCheck's templates and on sentences of Wikipedia. `boilerplate`: into each go three lines such as sites
repeat on every page; stages `c4` and `fineweb` take them out. Both corpora are made by `curate`. A planted line is
found when no kept document has it (the line went, or its document); a line that went and was not planted is a false
alarm. Wilson intervals. Of every document that was changed or dropped the ledger must say why.
"""
import argparse
import gzip
import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import record
from benchmarks.toxicity import Rows, read
from meristem.core.config import edit
from meristem.corpus.curate import curate
from meristem.corpus.store import SPLITS
from meristem.evals.statistics import wilson
from meristem.recipes.curation import quality
from meristem.train.run import pretrain

STEPS = 600
ENDS = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")
SITES = ("Harbour News", "The Daily Kettle", "Northfield Council", "Miller's Garden Shop", "Open Maps", "Cycle Weekly")
BOILERPLATE = (
    "Accept all cookies", "This site uses cookies to give you the best experience.", "Home | About | Contact | Sign in",
    "Skip to main content", "Share on Facebook", "Copyright {year} {site}", "All rights reserved", "Read more",
    "Sign up for the {site} newsletter", "You need to enable JavaScript to run this app.", "Follow us", "Back to top",
    "Read our privacy policy and terms of use before you go on.", "{n} comments", "Posted by admin on {n} May {year}",
    "Tags: news, sport, weather", "Advertisement", "Related articles", "Subscribe to {site} for {n} pounds a month",
    "Print this page", "Menu", "Log in or create an account to comment", "Page {n} of 12", "Loading...",
    "By using {site} you agree to our use of cookies.", "Leave a reply", "Click here to download our app",
    "Next article", "Most read on {site}", "Terms of use | Privacy | Accessibility")
Planted = dict[str, str]                # line -> what it is


def paragraphs(data: Path) -> list[list[str]]:
    """XQuAD's paragraphs as lists of sentences."""
    tree = json.loads(gzip.decompress((data / "xquad" / "xquad.en.json.gz").read_bytes()))
    texts = [p["context"] for article in tree["data"] for p in article["paragraphs"]]
    return [some for text in texts if len(some := ENDS.split(" ".join(text.split()))) >= 3]


def wikipedia(data: Path, count: int) -> list[str]:
    """Sentences of other articles, to train on."""
    with gzip.open(next((data / "wikisplit").glob("*.gz")), "rt", encoding="utf-8") as f:
        return [line.split("\t")[0].strip() for line in f][:count]


def boilerplate(rng: random.Random) -> str:
    """One line."""
    return rng.choice(BOILERPLATE).format(site=rng.choice(SITES), n=rng.randint(2, 99), year=rng.randint(2005, 2024))


def written(folder: Path, documents: Sequence[Sequence[str]], plants: Sequence[Sequence[str]], seed: int) -> Path:
    """A file a document, its planted lines at random places."""
    rng = random.Random(seed)
    folder.mkdir()
    for number, (own, more) in enumerate(zip(documents, plants, strict=True)):
        lines = list(own)
        for line in more:
            lines.insert(rng.randint(0, len(lines)), line)
        (folder / f"{number:03}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def share(right: int, n: int) -> list[Any]:
    """[share, low, high, n]."""
    interval = wilson(right, n)
    return [round(right / max(1, n), 4), round(interval.low, 4), round(interval.high, 4), n]


def judged(folder: Path, stages: Sequence[str], planted: Mapping[str, str], wanted: str) -> dict[str, Any]:
    """Curate, then compare what is left, line by line, with what was there."""
    corpus = curate([folder], folder.with_name(f"{folder.name}.corpus"), stages=stages)
    left = {d.meta["path"]: d.text.split("\n") for split in SPLITS for d in corpus.documents(split)}
    rows = {row["path"]: row for row in corpus.ledger()}
    seen, gone = Counter[str](), Counter[str]()
    changed = unexplained = 0
    for file in sorted(folder.iterdir()):
        path = f"{folder.name}/{file.name}"
        before = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        stays = Counter(left.get(path, []))
        lost = 0
        for line in before:
            kind = planted.get(line, "own")
            seen[kind] += 1
            if stays[line]:
                stays[line] -= 1
            else:
                gone[kind] += 1
                lost += 1
        row = rows[path]
        changed += bool(lost)
        unexplained += bool(lost) and not {"rule", "removed_lines", "toxic_lines"} & row.keys()
    return {"stages": list(stages), "documents": len(rows), "kept": len(left),
            "recall": share(gone[wanted], seen[wanted]), "precision": share(gone[wanted], sum(gone.values())),
            "changed or dropped": changed, "of these without a reason": unexplained,
            "gone by kind": {kind: share(gone[kind], n) for kind, n in sorted(seen.items())},
            "documents dropped by rule": dict(Counter(row["rule"] for row in rows.values() if "rule" in row))}


def toxic(data: Path, work: Path, tiny: bool) -> dict[str, Any]:
    """Hateful sentences among others."""
    hate, made = read(data)
    order = sorted({row[3] for row in hate})
    random.Random(0).shuffle(order)
    held = set(order[::2])
    taught: Rows = [*made[:1000 if tiny else 10_000], *(row for row in hate if row[3] not in held),
                    *((text, "fine", "", "") for text in wikipedia(data, 1000 if tiny else 4000))]
    (work / "rows.jsonl").write_text("".join(json.dumps({"text": text, "label": label}) + "\n"
                                             for text, label, *_ in taught), encoding="utf-8")
    run = pretrain(edit(quality(), {"data.corpus": str(work / "rows.jsonl"), "train.context": 64,
                                    "train.steps": 200 if tiny else STEPS}), work / "run")
    documents = paragraphs(data)[:12 if tiny else None]
    rng = random.Random(1)
    lines = {label: sorted({row[0] for row in hate if row[3] in held and row[1] == label})
             for label in ("toxic", "fine")}
    for some in lines.values():
        rng.shuffle(some)
    planted: Planted = {text: f"planted, {'hateful' if label == 'toxic' else 'harmless'}" for label, some in
                        lines.items() for text in some}
    plants = [[*lines["toxic"][2 * n:2 * n + 2], *lines["fine"][2 * n:2 * n + 2]] for n in range(len(documents))]
    folder = written(work / "toxic", documents, plants, 2)
    return {f"most={most}": judged_at(folder, work, run, most, planted) for most in (0.5, 0.8)}


def judged_at(folder: Path, work: Path, run: Path, most: float, planted: Planted) -> dict[str, Any]:
    """One threshold."""
    found = judged(folder, [f"toxicity:run={run},lines=true,most={most}"], planted, "planted, hateful")
    folder.with_name(f"{folder.name}.corpus").rename(work / f"corpus-{most}")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="a few documents and steps, to see that it runs")
    given = parser.parse_args()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        work, rng = Path(name), random.Random(3)
        documents = paragraphs(given.data)[:12 if given.tiny else None]
        plants = [[boilerplate(rng) for _ in range(3)] for _ in documents]
        planted = {line: "planted, boilerplate" for some in plants for line in some}
        folder = written(work / "pages", documents, plants, 4)
        found = {"boilerplate": judged(folder, ["c4", "fineweb"], planted, "planted, boilerplate"),
                 "toxic": toxic(given.data, work, given.tiny)}
    found["cpu_minutes"] = round((time.process_time() - began) / 60, 2)
    print(json.dumps(found)) if given.tiny else record("planted", found)


if __name__ == "__main__":
    main()
