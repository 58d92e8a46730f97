"""Row I9: masked residues of real proteins, a mutation scan scored without having seen one, and secondary structure.

    python -m benchmarks.proteins --flip FLIP --blat BLAT --out runs/proteins

FLIP: a folder with FLIP's secondary_structure.zip (Dallago et al. 2021; sequences.fasta, sampled.fasta, mask.fasta),
whose test chains share at most a quarter of their residues with training chains: other families. BLAT: a folder with
BLAT_ECOLX_Ranganathan2015.csv.gz (Stiffler et al. 2015), of which the column 2500 is taken. Recipe esm is trained on
the training chains alone; then esm_residues from it, and from nothing, on equal rows. Prints one JSON line a
certificate, the CPU minutes of each run, and how often shuffled effects correlate as much (permutation test); all of it
is benchmarks/results/proteins.json.
"""
import argparse
import json
import zipfile
from pathlib import Path

import numpy as np

from benchmarks.common import record
from benchmarks.image_text import fit, judge
from meristem.core.config import parse_edits
from meristem.corpus.labelled import labelled
from meristem.corpus.store import Corpus
from meristem.evals.subject import Subject
from meristem.evals.tasks import mutations

SHUFFLES = 2000


def chains(raw: bytes) -> dict[str, tuple[str, str]]:
    """name -> (the rest of its header, its letters) of a FASTA file."""
    found = {}
    for block in raw.decode().split(">")[1:]:
        head, _, body = block.partition("\n")
        name, _, rest = head.partition(" ")
        found[name] = (rest, "".join(body.split()))
    return found


def corpus_of(flip: Path, out: Path) -> Corpus:
    """Chains with a class for each residue that was resolved, in FLIP's splits."""
    with zipfile.ZipFile(flip / "secondary_structure.zip") as archive:
        files = {name: chains(archive.read(f"splits/{name}.fasta")) for name in ("sequences", "sampled", "mask")}
    rows: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name, (about, classes) in files["sampled"].items():
        split = "test" if "SET=test" in about else "validation" if "VALIDATION=True" in about else "train"
        residues, seen = files["sequences"][name][1], files["mask"][name][1]
        labels = [label if there == "1" else "" for label, there in zip(classes, seen, strict=True)]
        rows[split].append(json.dumps({"words": list(residues), "labels": labels}) + "\n")
    folder = out / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return labelled(folder, out / "corpus")


def by_chance(run: Path, corpus: Corpus, scan: Path) -> dict[str, float]:
    """The share of shuffles of the effects that correlate as much with the scores."""
    subject = Subject.open(run)
    items = mutations.TASK.reading(scan).items(corpus, subject.codec, mutations.TASK.count, 0)
    scores = [float(text) for text in mutations.TASK.run(subject, items, 0, None).outputs]     # type: ignore[arg-type]
    a, b = (mutations.standardised(np.array(some)) for some in (scores, [float(item.answer) for item in items]))
    rng = np.random.default_rng(0)
    extreme = sum(float((a * rng.permutation(b)).mean()) >= float((a * b).mean()) for _ in range(SHUFFLES))
    found = {"spearman": round(float((a * b).mean()), 4), "p": (extreme + 1) / (SHUFFLES + 1)}
    print(json.dumps(found))
    return found


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", nargs="*", metavar="EDIT=VALUE")
    parser.add_argument("--flip", type=Path, required=True)
    parser.add_argument("--blat", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/proteins"))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    edits, corpus = parse_edits(a.edits), corpus_of(a.flip, a.out)
    print(json.dumps(corpus.summary["splits"]))
    scan = a.blat / "BLAT_ECOLX_Ranganathan2015.csv.gz:2500"
    base = fit("esm", corpus, a, edits, a.out / "esm")
    scores: list[dict[str, object]] = [*judge(base, corpus, [f"mutations={scan}"], model="esm"),
                                       {**by_chance(base, corpus, scan)}]
    for name, start in (("esm then residues", str(base)), ("residues from nothing", "")):
        run = fit("esm_residues", corpus, a, {"base": start, "train.compile": False}, a.out / name.replace(" ", "-"))
        scores += judge(run, corpus, ["token_classes"], model=name)
    record("proteins", {"edits": a.edits, "seed": a.seed, "scores": scores})


if __name__ == "__main__":
    main()
