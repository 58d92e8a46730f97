"""The data sheet of a corpus: where it is from, what each rule dropped with examples, what is left.

After Gebru et al. 2021, "Datasheets for datasets", the sections a program can fill in: composition, collection,
preprocessing. `datasheet.md` stands in every corpus folder; its numbers are those of corpus.json and ledger.jsonl.
"""
from typing import Any

from meristem.corpus import filter

NAME = "datasheet.md"
SHORT = 160                             # characters of an example
MEANT = {
    "near_duplicate": "at least 0.7 of its 5-word shingles are those of a document that stays",
    "exact_duplicate": "the same bytes as a document that stays", "over_limit": "the sample was full",
    "contaminated": "holds an evaluation item", "too_large": "over 8 MiB, or more than a format may hold",
    "binary": "no text: a zero byte", "media": "a picture, film or sound among texts",
    "unreadable": "a file, or what is said of it, that cannot be read",
    "invalid_utf8": "no text: bytes that are no UTF-8", "bomb": "unpacks to 500 times its size",
    "no_record": "a file of records that holds none",
    "damaged": "its archive or table is damaged",
    "truncated": "ends before its stated length",
    "no_main_text": "a page without a main text", "record_type": "an archive's record that is no page",
    "needs_package": "a package that reads it is not installed"}


def text(summary: dict[str, Any]) -> str:
    """Markdown from the summary of a corpus."""
    kept, seen = _total(summary["splits"]), summary["seen"]
    stages = summary.get("stages", ("rules",))
    out = ["# Data sheet", "", f"Corpus `{summary['hash']}`: {kept['documents']:,} documents, {kept['bytes']:,} bytes.",
           "", "## Collection", "", *(f"- {_plain(name)}" for name in summary["inputs"]), "",
           f"{seen['documents']:,} documents and files were seen ({seen['bytes']:,} bytes); every one has a line in "
           "`ledger.jsonl`. Kept and dropped together are what was seen.", "",
           "## Composition", "", "| | documents | bytes |", "| --- | --- | --- |"]
    for field, word in (("splits", "split"), ("kinds", "kind"), ("licences", "licence")):
        out += [f"| {word} {_plain(name)} | {row['documents']:,} | {row['bytes']:,} |"
                for name, row in summary[field].items()]
    out += ["", "## Preprocessing", "", f"Stages, in order: {', '.join(f'`{_plain(stage)}`' for stage in stages)}; "
            "then exact and near duplicates; then a split by the hash of each document (seed "
            f"{summary['seed']})."]
    if summary.get("undone"):
        out += ["", f"Taken back by hand, with all that they had dropped: {', '.join(summary['undone'])}."]
    out += ["", "## What was dropped", ""]
    for rule, row in sorted(summary["dropped"].items(), key=lambda item: -item[1]["documents"]):
        out += [f"### {rule}: {row['documents']:,} documents, {row['bytes']:,} bytes", "", *_meaning(rule)]
        out += [f"- {_plain(one['path'])}: {_plain(str(one['value']))}"
                + (f", like {_plain(one['witness_path'])}" if "witness_path" in one else "")
                + (f": \"{_plain(one['text'])}\"" if one.get("text") else "")
                for one in summary.get("examples", {}).get(rule, ())]
        out.append("")
    return "\n".join(out).rstrip() + "\n"


def _meaning(rule: str) -> list[str]:
    """What a rule is, in a line, where that is known here."""
    found = [f"{(r.measure.__doc__ or '').strip()} "
             f"Allowed for {' and '.join(r.kinds)}: {r.low} to {r.high} ({r.source})."
             for r in filter.RULES if r.name == rule]
    found += [f"{MEANT[rule][0].upper()}{MEANT[rule][1:]}."] if rule in MEANT else []
    return [*found, ""] if found else []


def _plain(words: str) -> str:
    """One line of a text that nobody has read, so that Markdown takes it for nothing else."""
    short = " ".join(words.split())[:SHORT]
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|" else c for c in short)


def _total(splits: dict[str, dict[str, int]]) -> dict[str, int]:
    return {key: sum(row[key] for row in splits.values()) for key in ("documents", "bytes")}
