"""What stages share: a batch of documents is a table of equally long columns, and a stage a pure function on it.

| column | holds |
| --- | --- |
| text | str; a stage may replace it (spans removed, characters repaired) |
| kind, path, licence | str, as the reader found them |
| rule, value | the rule that dropped a document and what it saw; rule is "" while a document stays |
| facts | what stages found out, one dict a document: it goes into the ledger (`language`, `removed_lines`) |

A stage leaves documents alone that an earlier one dropped. `on_arrow(stage)` is the same stage on Arrow record batches,
for engines that carry those. A new stage is a new file here: a docstring with its source and a frozen dataclass
`Stage`, mostly written with `judged` or `changed`.
"""
import json
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from meristem.core import registry
from meristem.core.config import Part, build, parse_edits

Batch = dict[str, list[Any]]
Function = Callable[[Batch], Batch]
DEFAULT = ("rules",)


def batch_of(texts: Sequence[str], kind: str = "prose") -> Batch:
    """A batch of texts, to use a stage alone."""
    n = len(texts)
    return {"text": list(texts), "kind": [kind] * n, "path": [""] * n, "licence": [""] * n, "rule": [""] * n,
            "value": [0.0] * n, "facts": [{} for _ in range(n)]}


def judged(batch: Batch, judge: Callable[[str, str], tuple[str, float | str] | None]) -> Batch:
    """The batch with `judge(text, kind)` asked for every document that stays: (rule, value) drops it."""
    rules, values = list(batch["rule"]), list(batch["value"])
    for n, (text, kind) in enumerate(zip(batch["text"], batch["kind"], strict=True)):
        if not rules[n] and (broken := judge(text, kind)):
            rules[n], values[n] = broken
    return {**batch, "rule": rules, "value": values}


def changed(batch: Batch, change: Callable[[str, str], tuple[str, dict[str, Any]]]) -> Batch:
    """The batch with `change(text, kind)` = (text, facts) applied to every document that stays."""
    texts, facts = list(batch["text"]), list(batch["facts"])
    for n, (text, kind) in enumerate(zip(batch["text"], batch["kind"], strict=True)):
        if not batch["rule"][n]:
            texts[n], more = change(text, kind)
            facts[n] = {**facts[n], **more}
    return {**batch, "text": texts, "facts": facts}


def stages_of(words: Sequence[str]) -> list[Function]:
    """Stages from words like `language:keep=en,de` (or `language:keep=["en","de"]`), in order; RequestError names
    the nearest stage or setting where there is none."""
    out = []
    for word in words:
        name, _, fields = word.partition(":")
        edits = parse_edits(_fields(fields))
        kind = registry.load("corpus.stages", name).Stage
        out.append(build(kind, Part(name, edits)))
    return out


def stamp(path: str) -> int:
    """When a file that a stage reads was last changed, 0 for none: what is made of it is kept until then."""
    try:
        return Path(path).expanduser().stat().st_mtime_ns
    except OSError:
        return 0


def on_arrow(stage: Function) -> Callable[[Any], Any]:
    """The stage as a function on pyarrow record batches; `facts` and `value` travel as JSON strings."""
    pa = import_module("pyarrow")                              # the caller holds record batches, so it is there

    def run(records: Any) -> Any:
        batch: Batch = records.to_pydict()
        for column in ("facts", "value"):
            batch[column] = [json.loads(text) for text in batch[column]]
        out = stage(batch)
        packed = {column: [json.dumps(v) for v in out[column]] for column in ("facts", "value")}
        return pa.RecordBatch.from_pydict({**out, **packed})
    return run


def _fields(text: str) -> list[str]:
    """`keep=en,de,least=0.5` -> ["keep=en,de", "least=0.5"]: a piece without = belongs to the one before it."""
    out: list[str] = []
    for piece in filter(None, text.split(",")):
        if "=" in piece or not out:
            out.append(piece)
        else:
            out[-1] += f",{piece}"
    return out
