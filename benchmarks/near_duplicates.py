"""Near duplicates against the exact Jaccard similarity of all pairs: `python -m benchmarks.near_duplicates`.

1,000 functions and classes of the standard library and four edited copies of each, with so many words replaced that
similarities spread from 0.5 to 1: 5,000 documents. Truth: the Jaccard similarity of the 5-word shingles of all pairs.
Recall: of the pairs at 0.8 or more, those of which not both stay. Precision: of the dropped documents, those whose
witness is at 0.6 or more. `--tiny` takes 40 documents.
"""
import argparse
import ast
import json
import random
import time
from pathlib import Path

import numpy as np
from scipy import sparse

from benchmarks.common import record
from meristem.corpus import dedup, find, ngrams

EDITS = (0.0, 0.01, 0.02, 0.04, 0.08)   # share of words replaced


def documents(count: int) -> list[str]:
    """Real definitions of 60 to 400 words, each with its edited copies, in a shuffled order."""
    rng, out = random.Random(0), []
    for path in sorted(Path(find.standard_library()[0]).glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and len(out) < count:
                words = (ast.get_source_segment(source, node) or "").split()[:400]
                if len(words) >= 60:
                    out += [" ".join(w if rng.random() >= share else f"new{rng.randrange(10**6)}" for w in words)
                            for share in EDITS]
    rng.shuffle(out)
    return out


def similar(shingles: list[np.ndarray], least: float) -> list[tuple[int, int, float]]:
    """Every pair with an exact Jaccard similarity of at least `least`."""
    ids, which = np.unique(np.concatenate(shingles), return_inverse=True)
    sizes = np.array(list(map(len, shingles)))
    table = sparse.csr_matrix((np.ones(len(which), np.int32), which, np.concatenate([[0], np.cumsum(sizes)])),
                              (len(shingles), len(ids)))
    both = sparse.triu(table @ table.T, k=1).tocoo()
    value = both.data / (sizes[both.row] + sizes[both.col] - both.data)
    keep = value >= least
    return list(zip(both.row[keep].tolist(), both.col[keep].tolist(), value[keep].tolist(), strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    texts = documents(40 if args.tiny else 5000)
    shingles = [np.unique(ngrams.hashes(text, dedup.SHINGLE)) for text in texts]
    began = time.process_time()
    signatures = [dedup.signature(s) for s in shingles]
    seen, dropped = dedup.Kept(shingles.__getitem__), {}
    for index, own in enumerate(signatures):
        if twin := seen.twin(index, own):
            dropped[index] = twin
    seconds = time.process_time() - began
    pairs = similar(shingles, 0.8)
    missed = sum(a not in dropped and b not in dropped for a, b, _ in pairs)
    near = sum(dedup.jaccard(shingles[i], shingles[twin]) >= 0.6 for i, (twin, _) in dropped.items())
    facts = {"documents": len(texts), "pairs_at_0.8": len(pairs), "recall": round(1 - missed / max(1, len(pairs)), 5),
             "dropped": len(dropped), "witness_at_0.6": round(near / max(1, len(dropped)), 5),
             "cpu_seconds": round(seconds, 2)}
    print(json.dumps(facts)) if args.tiny else record("near_duplicates", facts)


if __name__ == "__main__":
    main()
