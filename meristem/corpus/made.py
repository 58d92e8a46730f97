"""Corpora that a generator makes: what it draws of every split lies in `OUT.rows`, the corpus of it in `OUT`.

    def rows(split: str, folder: Path) -> Iterator[Row]:       # puts the pictures that its rows name into the folder
        ...
    corpus = made(Path("runs/scenes"), "toy pictures", LICENCE, rows)
"""
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from meristem.core.files import claim, committed, read_json
from meristem.corpus.labelled import labelled
from meristem.corpus.store import SPLITS, SUMMARY, Corpus, line

LICENCE = "CC0 1.0 Universal: made by a generator.\n"
Row = dict[str, Any]


def made(out: Path, kind: str, licence: str, rows: Callable[[str, Path], Iterable[Row]]) -> Corpus:
    """The corpus of `rows(split, folder)`; a split without rows is taken from training, by hash.

    RequestError when `out` or its rows hold something that is not this `kind`.
    """
    folder = out.with_name(out.name + ".rows")
    claim(folder, kind, lambda old: (old / "train.jsonl").is_file())
    claim(out, "corpus", lambda old: (old / SUMMARY).is_file()
          and read_json(old / SUMMARY)["inputs"] == [str(folder.resolve())])
    with committed(folder) as tmp:
        for split in SPLITS:
            if lines := "".join(map(line, rows(split, tmp))):
                (tmp / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        (tmp / "LICENSE").write_text(licence, encoding="utf-8")
    return labelled(folder, out)
