"""Labelled rows to a corpus folder: JSON lines of texts and what a person said of them, split, checked and hashed.

    {"text": "a moving film", "label": "positive"}                              # the class of a text
    {"words": ["Ann", "left", "Rome"], "labels": ["PERSON", "O", "PLACE"]}      # a class for each word
    {"text": "Ann left Rome.", "question": "Who left?", "answer": [0, 3]}       # characters of the text
    {"input": "reverse: abc", "target": "cba"}                                  # for encoder-decoders (data.pairs)
    {"image": "emoji/1f600.png", "text": "grinning face"}                       # a picture beside the file, a caption
    {"image": "a.png", "masks": "a.masks.png", "objects": [{"name": "dog", "regions": [1, 4]}]}     # what lies where
    {"images": ["a.png", "b.png"], "input": "Are they equal?", "target": "no"}  # several, and a question about them
    {"image": "a.png", "input": "push the red block", "action": [0.2, -1.0]}    # what a robot did: numbers of -1 .. 1
    {"audio": "dog.wav", "text": "a dog barks", "label": "dog"}                 # a sound beside the file, what it says
    {"series": [1.0, 2.5, 2.0]}                                                 # numbers at equal times, null: unknown
    {"input": "c=", "target": "3", "shots": [["a=", "1"]], "text": "a=1\nc=3\n"}    # worked examples before it (toy)
    {"messages": [{"role": "user", "content": "Hi"}, ...]}                      # conversations (corpus.dialogues)
    {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}                        # which of two answers is better
    {"left_out": "damaged", "path": "e.jsonl:3", "value": "no action"}          # for the ledger alone: a maker's no

`labelled(Path("reviews.jsonl"), out)` splits rows 80/10/10 by a hash of their content; a folder with train.jsonl,
validation.jsonl and test.jsonl keeps its own splits (a missing one is taken from train). No rule of curation drops a
row, only its exact copies are, unless a `sieve` is given (data.sieve, for pictures). The result is an ordinary corpus:
its text can be pretrained on as well.
`data.corpus=reviews.jsonl` makes it beside the file and uses it. A folder of pictures, films or sounds is such a file,
too: those in `cats/` have the label "cats", and `a.txt` is the caption of `a.png`; so is a tar in WebDataset form, and
a folder of them. What cannot be read is a RequestError, with a `sieve` a line of the ledger; copies always are.
"""
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from meristem.core import files
from meristem.core.errors import MachineError, RequestError
from meristem.core.random import seed_of
from meristem.corpus import dialogues, licence, pictures, sounds
from meristem.corpus.store import FIELDS, LEDGER, NOTICE, SPLITS, SUMMARY, Corpus, line

INSIDE = ("split", "file", "files", "map", "sound")     # of a row while the corpus is made: its place, its files
SHARE = 0.1                             # of the rows for test, and the same for validation
Row = dict[str, Any]


@dataclass(frozen=True)
class Drop:
    """Why a row is left out: the rule, what it saw, and for a copy the id of the row that stays."""

    rule: str
    value: float | str
    twin: str = ""


class Sieve(Protocol):
    """Rules over whole rows, such as `data.sieve.Sieve` for pictures."""

    def ranges(self) -> dict[str, Any]:
        """The range that each rule allows."""
        ...

    def judge(self, rows: Sequence[Mapping[str, Any]], root: Path) -> dict[str, Drop]:
        """Row id -> why it is left out; `row["file"]` is its picture below `root`."""
        ...


def is_labelled(path: Path) -> bool:
    """Whether a path is a file of rows, a tar, or a folder of such files or of pictures that is no corpus yet."""
    if path.is_dir():
        return not (path / SUMMARY).exists() and ((path / "train.jsonl").is_file() or pictures.is_folder(path))
    return pictures.is_tar(path) or (path.suffix == ".jsonl" and path.is_file())


def labelled(path: Path, out: Path | None = None, *, seed: int = 0, sieve: Sieve | None = None) -> Corpus:
    """The corpus of the rows in `path`, in `out` (default: beside it); the one that is there when nothing has changed.

    What the `sieve` finds is left out, with a line of the ledger each.

    RequestError names file, line and what is wrong with it. `corpus.summary["labels"]` lists the classes, sorted.
    """
    path = path.expanduser().resolve()
    out = out or path.with_name(path.stem + ".corpus")
    given = {"train": path} if path.is_file() else {s: f for s in SPLITS if (f := path / f"{s}.jsonl").is_file()}
    given = given or {"train": path}                           # a folder of pictures
    ranges = sieve.ranges() if sieve else {}
    state = files.digest_bytes(str(seed) + (json.dumps(ranges) if sieve else ""),
                               *(name + _state(f) for name, f in given.items()))
    if (out / SUMMARY).is_file():
        there = Corpus.open(out)
        if there.summary.get("state") == state:
            return there
    seen, others = _place(given, seed, lenient=sieve is not None)
    root = pictures.root_of(path)
    left_out = sieve.judge(seen, root) if sieve else {}
    rows = [row for row in seen if row["id"] not in left_out]
    dropped = Counter([row["rule"] for row in others] + [drop.rule for drop in left_out.values()])
    if len(given) == 1 and len({row["split"] for row in rows}) < len(SPLITS) <= len(rows):
        _by_rank(rows, seed)
    found = {split: [row for row in rows if row["split"] == split] for split in SPLITS}
    if empty := [split for split, some in found.items() if not some]:
        why = ", ".join(f"{n} by {rule}" for rule, n in dropped.most_common(3))
        raise RequestError(f"{path} gives no rows for {' and '.join(empty)}{f' (dropped: {why})' if why else ''}; "
                           "add rows, or files named by split")
    try:
        with files.committed(out) as folder:
            for split, some in found.items():
                lines = [line({key: row[key] for key in row if key not in INSIDE}) for row in some]
                (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
                if any({"image", "images", "audio"} & row.keys() for row in some):
                    pictures.write(folder / f"{split}.tar", _members(some, root))
            ledger = "".join([*_ledger(seen, left_out), *map(line, others)])
            (folder / LEDGER).write_text(ledger, encoding="utf-8")
            sizes = {split: _size(some) for split, some in found.items()}
            total = {key: sum(size[key] for size in sizes.values()) for key in ("documents", "bytes")}
            whole = _size(seen)
            files.write_json(folder / SUMMARY, {
                "inputs": [str(path)], "seed": seed, "limit_bytes": 0, "state": state, "splits": sizes,
                "hash": files.digest_bytes(*(f"{row['split']} {row['id']}" for row in rows)),
                "seen": {**whole, "documents": whole["documents"] + len(others)},
                "kinds": {"labelled": total}, "licences": {rows[0]["licence"]: total}, "rules": ranges,
                "dropped": {rule: {"documents": n, "bytes": 0} for rule, n in dropped.items()},
                **_notice(root),
                "labels": sorted({label for row in rows for label in row.get("labels", [row.get("label")])
                                  if isinstance(label, str) and label})})
    except OSError as error:
        raise MachineError(f"could not write the corpus to {out}: {error.strerror or error}") from error
    return Corpus.open(out)


def _notice(root: Path) -> Row:
    """The line beside the rows that everything made of them must repeat, if there is one."""
    path = root / NOTICE
    return {"notice": path.read_text(encoding="utf-8").strip()} if path.is_file() else {}


def _place(given: dict[str, Path], seed: int, lenient: bool) -> tuple[list[Row], list[Row]]:
    """Every row once with its id and split, sorted by id, and the ledger's lines of all others; test rows win."""
    rows: dict[str, Row] = {}
    others: list[Row] = []
    for split in ("test", "validation", "train"):
        for row in _read(given[split], lenient) if split in given else ():
            if not row["id"]:
                others.append(row)
                continue
            if twin := rows.get(row["id"]):
                others.append({**_seen(row), "verdict": "dropped", "rule": "exact_duplicate", "value": 1.0,
                               "witness": twin["id"], "witness_path": twin["path"]})
                continue
            place = seed_of(seed, "split", row["id"]) / 2**63
            missing = [s for s in ("test", "validation") if s not in given]
            row["split"] = missing[int(place / SHARE)] if split == "train" and place < SHARE * len(missing) else split
            rows[row["id"]] = row
    return [rows[key] for key in sorted(rows)], others


def _by_rank(rows: list[Row], seed: int) -> None:
    """The split of each of a few rows by the rank of its hash, so that none is empty."""
    share = max(1, round(SHARE * len(rows)))
    for rank, row in enumerate(sorted(rows, key=lambda row: seed_of(seed, "split", row["id"]))):
        row["split"] = ("test", "validation", "train")[min(rank // share, 2)]


def _ledger(rows: list[Row], left_out: dict[str, Drop]) -> Iterator[str]:
    """A line a row: its split, or the rule that dropped it."""
    paths = {row["id"]: row["path"] for row in rows}
    for row in rows:
        said: Row = {"verdict": "kept", "split": row["split"]}
        if drop := left_out.get(row["id"]):
            witness = {"witness": drop.twin, "witness_path": paths[drop.twin]} if drop.twin else {}
            said = {"verdict": "dropped", "rule": drop.rule, "value": drop.value, **witness}
        yield line({**_seen(row), **said})


def _seen(row: Row) -> Row:
    """What every line of the ledger says."""
    return {**{key: row[key] for key in ("id", "path", "kind", "licence")}, "bytes": len(row.get("text", "").encode())}


def _state(path: Path) -> str:
    """What a file holds; of the pictures that it names, or that a folder holds, names, sizes and dates."""
    root, text = (pictures.root_of(path), "" if path.is_dir() else files.digest(path))
    rows = [row for _, row in _rows(path) if isinstance(row, dict)]
    named = [name for row in rows for name in (row.get("image"), row.get("masks"), *listed(row))]
    named += [row.get("audio") for row in rows]
    places = [pictures.file_of(name) for name in named if isinstance(name, str)]
    found = [(name, (root / name).stat()) for name in dict.fromkeys(places) if (root / name).is_file()]
    return files.digest_bytes(text, *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in found))


def _members(rows: list[Row], root: Path) -> Iterator[tuple[str, bytes]]:
    """Pictures, label map and caption of each row, for the split's tar."""
    for row in rows:
        for name, file in zip(listed(row), row.get("files", ()), strict=True):
            yield name, pictures.bytes_of({"image": file}, root)
        if "audio" in row:
            yield row["audio"], pictures.bytes_of(row, root, "sound")
        if "image" in row:
            yield row["image"], pictures.bytes_of(row, root, "file")
            if "map" in row:
                yield row["masks"], pictures.bytes_of(row, root, "map")
            yield f"{row['id']}.txt", row["text"].encode()


def _rows(path: Path) -> Iterator[tuple[str, Row | pictures.Unread]]:
    """Every row with the place that error lines name."""
    if path.is_dir() or pictures.is_tar(path):
        for row in pictures.rows_of(path):
            yield str(path / (row.name if isinstance(row, pictures.Unread) else row[pictures.media_of(row)])), row
        return
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from None
    for number, text in enumerate(lines, start=1):
        if text.strip():
            try:
                yield f"{path}:{number}", json.loads(text)
            except json.JSONDecodeError as error:
                raise RequestError(f"{path}:{number}: {error}") from None


def _read(path: Path, lenient: bool) -> Iterator[Row]:
    """Every row with its id; where `lenient`, what cannot be one is the ledger's line of it (its id is empty)."""
    root = pictures.root_of(path)
    terms = licence.of_folder(root if root.is_dir() else root.parent) or licence.UNKNOWN
    lost = {"id": "", "path": "", "kind": "labelled", "licence": terms, "bytes": 0, "verdict": "dropped"}
    for place, row in _rows(path):
        name = place.removeprefix(f"{path.parent}/")
        if isinstance(row, dict) and "left_out" in row:
            yield {**lost, "path": row.get("path", name), "rule": row["left_out"], "value": row.get("value", "")}
            continue
        try:
            if isinstance(row, pictures.Unread):
                raise RequestError(row.why)
            key, fields = _fields(row, root, place)
        except RequestError as error:
            if not lenient:
                raise
            yield {**lost, "path": name, "rule": "unreadable", "value": str(error)}
            continue
        yield {"id": key, "path": name, "kind": "labelled", "licence": terms, **fields}


def _fields(row: Row, root: Path, place: str) -> tuple[str, Row]:
    """(id, fields) of a row; RequestError names the place and what is wrong."""
    if isinstance(row, dict) and dialogues.is_dialogue(row):
        made = dialogues.normal(row)
        if isinstance(made, str):
            raise RequestError(f"{place}: {made}")
        made |= _images(row, root, place)
        key = files.digest_bytes(json.dumps(made, sort_keys=True))
        return key, {**made, **_named(row, key)}
    if problem := _problem(row):
        raise RequestError(f"{place}: {problem}")
    kept = {key: row[key] for key in FIELDS if key in row}
    kept |= {"label": str(row["label"])} if "label" in row else {}
    kept |= {"text": " ".join(row["words"])} if "words" in row else {}
    kept |= {"text": f"{row['input']}\n{row['target']}"} if "target" in row and "shots" not in row else {}
    kept |= {part: _digest(row, root, place, part) for part in ("image", "masks") if part in row and "image" in row}
    kept |= {"text": row.get("text", _said(row))} if {"image", "images", "action"} & row.keys() else {}
    kept |= _images(row, root, place)
    kept |= sounds.plain(row)
    kept |= {"audio": _digest(row, root, place, "audio")} if "audio" in row else {}
    key = files.digest_bytes(json.dumps(kept, sort_keys=True))
    more = {"file": row["image"], "image": key + Path(row["image"]).suffix.lower()} if "image" in row else {}
    more |= {"map": row["masks"], "masks": key + pictures.MASKS} if "masks" in row and "image" in row else {}
    more |= _named(row, key)
    more |= {"sound": row["audio"], "audio": key + Path(row["audio"]).suffix.lower()} if "audio" in row else {}
    return key, {**kept, **more}


def listed(row: Mapping[str, Any]) -> list[str]:
    """The names of a row's several pictures; [] where it has none or one."""
    found = row.get("images")
    return found if isinstance(found, list) else []


def _images(row: Row, root: Path, place: str) -> Row:
    """The hashes of several pictures, for the id of their row."""
    return {"images": [_digest({"image": name}, root, place, "image") for name in listed(row)]} if listed(row) else {}


def _named(row: Row, key: str) -> Row:
    """What several pictures are called in the corpus, and the files that they are."""
    names = [f"{key}.{n}{Path(name).suffix.lower()}" for n, name in enumerate(listed(row))]
    return {"images": names, "files": listed(row)} if names else {}


def _said(row: Row) -> str:
    """The words of a row with a picture or an action: worked examples, a question, an answer."""
    shots = [text for pair in row.get("shots", ()) for text in pair]
    return "\n".join(text for text in (*shots, row.get("input", ""), row.get("target", "")) if text)


def _digest(row: Row, root: Path, place: str, part: str) -> str:
    """The hash of a row's picture or label map; RequestError when there is none."""
    try:
        return files.digest_bytes(pictures.bytes_of(row, root, part))
    except ValueError as error:
        raise RequestError(f"{place}: {error}") from None


def _problem(row: Any) -> str:
    """What is wrong with a row, or ""."""
    if not isinstance(row, dict):
        return "a row is an object with text and label"
    if sounds.is_one(row):
        return sounds.trouble(row)
    if {"image", "images", "action"} & row.keys():
        return pictures.trouble(row) or _numbers(row)
    if "input" in row or "target" in row:
        fine = all(isinstance(row.get(key), str) and row[key].strip() for key in ("input", "target"))
        return _shots(row) if fine else "input and target are texts that are not empty"
    words, labels = row.get("words"), row.get("labels")
    if words is not None or labels is not None:
        fine = isinstance(words, list) and isinstance(labels, list) and len(words) == len(labels) > 0
        return "" if fine and all(isinstance(x, str) for x in [*(words or ()), *(labels or ())]) else (
            "words and labels are lists of equally many strings")
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        return "text is missing or empty"
    if "answer" in row:
        answer = row["answer"]
        fine = isinstance(answer, list) and len(answer) == 2 and all(isinstance(x, int) for x in answer)
        fine = fine and 0 <= answer[0] < answer[1] <= len(row["text"])
        return "" if fine and isinstance(row.get("question"), str) else (
            "answer is [first character, one past the last] of text, and needs a question")
    return "" if isinstance(row.get("label"), str | int) else "label is missing: a string or a number"


def _numbers(row: Row) -> str:
    """What is wrong with the pictures, the words and the numbers of a row, or ""."""
    if not all(isinstance(row.get(key, ""), str) for key in ("input", "target")):
        return "input and target of a row with pictures are texts"
    if "images" in row and not (listed(row) and all(isinstance(name, str) for name in row["images"])):
        return "images is a list of file names, at least one"
    lists = [row[key] for key in ("action", "state") if key in row] + [[row[key]] for key in ("return",) if key in row]
    fine = all(isinstance(some, list) and some and all(isinstance(x, int | float) and abs(x) <= 1 for x in some)
               for some in lists)
    return "" if fine else "action, state and return are numbers from -1 to 1 (codecs.action.Ranges)"


def _shots(row: Row) -> str:
    """What is wrong with the worked examples of a row with input and target, or ""."""
    pairs = row.get("shots", [])
    fine = isinstance(pairs, list) and all(isinstance(p, list) and len(p) == 2 for p in pairs)
    if not fine or not all(isinstance(text, str) for pair in pairs for text in pair):
        return "shots is a list of [input, target]"
    last = f"{row['input']}{row['target']}\n"
    return "" if "shots" not in row or str(row.get("text", "")).endswith(last) else (
        "text must end with input, target and a line end where a row has shots")


def _size(rows: list[Row]) -> dict[str, int]:
    return {"documents": len(rows), "bytes": sum(len(row["text"].encode()) for row in rows)}
