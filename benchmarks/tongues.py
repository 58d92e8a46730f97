"""Code in a dozen languages (row B28): one small decoder, its loss in each, and whether what it writes parses.

    python -m benchmarks.tongues --out FOLDER [--seed 0] [--steps 900] [--tiny]

The sources are this machine's own: headers, scripts and modules below /usr and in site-packages, at most a megabyte a
language, sorted by a hash of their names. `curate` filters them, drops copies and splits; a small Llama reads what is
left. `bits_by_source` asks it for held-out files of each language, beside a Kneser-Ney 5-gram of the
same tokens; intervals by bootstrap. Where the language's interpreter is at hand (Python, bash, perl, node), the
beginning of a held-out file is continued by 64 tokens and the interpreter is asked, in the sandbox, whether it parses;
a text whose only fault is that it ends early passes. Beside it stand the file's own next 64 tokens. Interrupted, it
goes on.
"""
import argparse
import os
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from meristem.core import sandbox
from meristem.core.config import Part
from meristem.core.files import digest_bytes
from meristem.core.random import seed_of
from meristem.core.run import Data, Run, Train
from meristem.corpus.curate import curate
from meristem.corpus.store import Corpus
from meristem.evals.run import evaluate
from meristem.evals.statistics import wilson
from meristem.evals.subject import Subject, prompt_ids
from meristem.train.run import pretrain

ENDINGS = {".py": "python", ".js": "javascript", ".mjs": "javascript", ".pm": "perl", ".pl": "perl", ".sh": "shell",
           ".tcl": "tcl", ".php": "php", ".vim": "vim", ".cmake": "cmake", ".sql": "sql", ".css": "css", ".h": "c",
           ".c": "c", ".hpp": "cpp", ".cpp": "cpp", ".cc": "cpp", ".rb": "ruby", ".lua": "lua", ".go": "go",
           ".rs": "rust", ".java": "java", ".f90": "fortran", ".m4": "m4", ".awk": "awk", ".el": "lisp",
           ".hs": "haskell", ".ts": "typescript", ".r": "r", ".jl": "julia"}
CPLUS = re.compile(r"^\s*(namespace\b|template\s*<|class\s+\w+)|#include <[a-z_]+>|std::", re.MULTILINE)
BYTES, LARGEST, FEWEST = 1_000_000, 60_000, 40_000             # of a language, of a file, of a language that counts
SHAPE = {"dim": 144, "layers": 4, "heads": 4, "groups": 2, "hidden": 384, "context": 256, "tied": True}
LENGTH, ASKED, SHORTEST = 64, 60, 150   # tokens that are written; beginnings of each language; characters of one
LIMITS = sandbox.Limits(seconds=10, cpu_seconds=8, memory=64 << 30, processes=64)
DRIVER = """import ast, subprocess, sys
text, words, early = {text!r}, {words!r}, {early!r}
if not words:
    import codeop, warnings
    warnings.simplefilter("ignore")
    try:
        compile(text, "x", "exec", codeop.PyCF_ALLOW_INCOMPLETE_INPUT | ast.PyCF_ONLY_AST)
        print("fine")
    except SyntaxError as error:
        print("fine" if "ncomplete" in type(error).__name__ + str(error) else "no")
else:
    name = "/tmp/x" + words[0]
    open(name, "w").write(text)
    ran = subprocess.run([*words[1:], name], capture_output=True, text=True)
    print("fine" if ran.returncode == 0 or any(some in ran.stderr for some in early) else "no")
"""
# how each is asked (an ending, then the command), and what it says of a text that only ends early
PARSERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "python": ((), ()), "shell": ((".sh", "/usr/bin/bash", "-n"), ("unexpected end of file", "unexpected EOF")),
    "perl": ((".pl", "/usr/bin/perl", "-c"), ("Missing right", "at EOF", "Can't find string terminator", "Can't locate",
                                              "not terminated")),
    "javascript": ((".js", "/usr/bin/node", "--check"), ("Unexpected end of input", "Unterminated", "missing )"))}


def gathered(out: Path, most: int) -> list[Path]:
    """A folder a language, filled once from this machine; languages with too little are left out."""
    if not out.is_dir():
        roots = ["/usr/include", "/usr/share", "/usr/lib", "/usr/bin", "/etc", sysconfig.get_path("stdlib"),
                 sysconfig.get_path("platlib")]
        found: dict[str, dict[str, tuple[str, str]]] = {}
        for root in roots:
            for folder, _, names in os.walk(root):
                for name in names:
                    path, ending = os.path.join(folder, name), os.path.splitext(name)[1].lower()
                    if ending in ENDINGS and ".min." not in name and not os.path.islink(path):
                        found.setdefault(ENDINGS[ending], {})[digest_bytes(path)] = (path, ending)
        for language, files in sorted(found.items()):
            size = Counter[str]()
            for key, (path, ending) in sorted(files.items()):
                try:
                    text = Path(path).read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError):
                    continue
                own = "cpp" if language == "c" and CPLUS.search(text) else language
                if 200 < len(text) <= LARGEST and size[own] < most:
                    size[own] += len(text)
                    (out / own).mkdir(parents=True, exist_ok=True)
                    (out / own / f"{key}{ending}").write_text(text, encoding="utf-8")
    return [folder for folder in sorted(out.iterdir())
            if sum(file.stat().st_size for file in folder.iterdir()) >= min(FEWEST, most // 2)]


def beginnings(corpus: Corpus, language: str) -> list[tuple[str, str]]:
    """(whole lines from a held-out file's start, what comes next) of files in the order of their ids, three a file."""
    out = []
    for text in (d.text for split in ("test", "validation") for d in corpus.documents(split)
                 if Path(d.meta["path"]).parts[0] == language):
        stops = {text.find("\n", least) + 1 for least in (SHORTEST, 2 * SHORTEST, 3 * SHORTEST)}
        out += [(text[:stop], text[stop:stop + 1000]) for stop in sorted(stops)
                if 0 < stop < 4 * SHORTEST and len(text) > stop + SHORTEST]
    return out[:ASKED]


def parse(language: str, texts: Sequence[str]) -> list[bool]:
    """Whether each parses, or would if it went on."""
    words, early = PARSERS[language]
    ran = sandbox.run_many([DRIVER.format(text=text, words=words, early=early) for text in texts], LIMITS)
    return [one.output.strip() == "fine" for one in ran]


def share(right: Sequence[bool]) -> list[float]:
    """[share, low, high, n]."""
    interval = wilson(sum(right), len(right))
    return [round(sum(right) / max(1, len(right)), 3), round(interval.low, 3), round(interval.high, 3), len(right)]


def written(subject: Subject, corpus: Corpus, seed: int) -> dict[str, Any]:
    """Which continuations parse, of the model and of the files themselves."""
    found: dict[str, Any] = {}
    for language, (words, _) in PARSERS.items():
        rows = beginnings(corpus, language)
        if not rows or (words and not Path(words[1]).exists()):
            continue
        codec = subject.codec
        done = subject.complete([prompt_ids(codec, text, True) for text, _ in rows], LENGTH, 0.8,
                                seed_of(seed, "tongues", language))
        own = [codec.decode(ids[ids != codec.end]) for ids in done]
        true = [codec.decode(codec.encode(after)[:LENGTH]) for _, after in rows]
        cut = [[text + more[:more.rfind("\n") + 1] for (text, _), more in zip(rows, some, strict=True)]
               for some in (own, true)]
        found[language] = {"model": share(parse(language, cut[0])), "the file itself": share(parse(language, cut[1]))}
    return found


def main() -> None:
    """Gather, train, ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--tiny", action="store_true", help="little text and two steps, to see that it runs")
    given = parser.parse_args()
    start = time.process_time()
    folders = gathered(given.out / "sources", 40_000 if given.tiny else BYTES)
    corpus = curate(folders, given.out / "corpus", seed=given.seed)
    run = Run("tongues", Part("llama", SHAPE), data=Data(str(given.out / "corpus"), Part("bpe", {
        "vocab": 512 if given.tiny else 4096})), seed=given.seed,
              train=Train(steps=2 if given.tiny else given.steps, batch=16, context=256, optimizer="muon", lr=1.5e-2,
                          warmup=50, schedule="wsd", validate_every=0, compile=False))
    subject = Subject.open(pretrain(run, given.out / f"run-{given.seed}"))
    trained = time.process_time()
    scores = evaluate(subject, corpus, ["bits_by_source"], seed=given.seed, limit=30 if given.tiny else 600, quick=True)
    documents = Counter(Path(d.meta["path"]).parts[0] for d in corpus.documents("train"))
    size = Counter[str]()
    for document in corpus.documents("train"):
        size[Path(document.meta["path"]).parts[0]] += len(document.text.encode())
    languages = {s.name.removeprefix("bits_of_"): {
        "bits_per_byte": [round(x, 3) for x in (s.value, s.interval.low, s.interval.high)], "n": s.n,
        "5-gram": s.baseline and round(s.baseline.value, 3), "documents": documents[s.name.removeprefix("bits_of_")],
        "megabytes": round(size[s.name.removeprefix("bits_of_")] / 1e6, 3)} for s in scores}
    record(f"tongues-{given.seed}{'-tiny' * given.tiny}", {
        "parameters": sum(p.numel() for p in subject.module.parameters()), "languages": languages,
        "below the 5-gram": sum(row["bits_per_byte"][0] < row["5-gram"] for row in languages.values() if row["5-gram"]),
        "parses": written(subject, corpus, given.seed), "median": float(np.median([
            row["bits_per_byte"][0] for row in languages.values()])),
        "cpu_minutes": {"training": round((trained - start) / 60, 2),
                        "all": round((time.process_time() - start) / 60, 2)}})


if __name__ == "__main__":
    main()
