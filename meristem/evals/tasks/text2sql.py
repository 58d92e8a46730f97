"""Questions about databases, answered in SQL and judged by running it: the rows must be those of an accepted query.

Defog's SQL-Eval, https://github.com/defog-ai/sql-eval. Files: questions_gen_sqlite.csv and schemas.tar.gz (or a folder
`schemas`) with NAME/NAME.sql. Everything runs on SQLite, in memory, in `core.sandbox`; schemas are written for
PostgreSQL and are translated (names of schemas and intervals). A question whose own queries do not run here is left
out. Rows are compared without their order unless an accepted query orders them, columns by value. Baseline: all rows of
the first table.

    meristem evaluate RUN --tasks text2sql --data FOLDER
"""
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from meristem.codecs.base import Codec
from meristem.core import sandbox
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome
from meristem.evals.benchmark import Written

ON_REQUEST = True
LIMITS = sandbox.Limits(seconds=5.0)
STEP = re.compile(r"([-+])\s*INTERVAL\s*'(\d+) (\w+?)s?'", re.IGNORECASE)
AGO = re.compile(r"(DATE_TRUNC\('(\w+)',\s*(?:CURRENT_DATE|CURRENT_TIMESTAMP|NOW\(\))\)|\bNOW\(\)|"
                 rf"\b(?:CURRENT_TIMESTAMP|CURRENT_DATE)(?=\s*[-+]\s*INTERVAL))(?:\s*{STEP.pattern})*", re.IGNORECASE)
# {0}: a JSON text of [schema, queries, accepted]; {1}: a word that only a program that came to its end knows
PROGRAM = """
import json, sqlite3
schema, queries, accepted = json.loads({0!r})
base = sqlite3.connect(":memory:")
base.executescript(schema)
def rows(query):
    try:
        return [tuple(round(x, 4) if isinstance(x, float) else x for x in row) for row in base.execute(query)]
    except Exception:
        return None
def bag(found):
    return sorted(map(repr, found))
wanted = [(rows(q), "order by" in q.lower()) for q in accepted]
out = []
for query in queries:
    got = rows(query)
    out.append(got is not None and any(w is not None and (got == w if ordered else bag(got) == bag(w))
                                       for w, ordered in wanted))
print(json.dumps([{1!r}, out, any(w is not None for w, _ in wanted)]))
"""


class Text2Sql(Written):
    """Items are questions; `suffix` is a JSON text: the schema with its rows, and the accepted queries."""

    name, count = "text2sql", 210
    length, stops = 128, (";", "\n\n")
    url = "https://github.com/defog-ai/sql-eval"
    folders = ("text2sql", "data")
    templates = ()
    perturbation = ""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Right rows."""
        return (Metric("text2sql_right", "text2sql: questions whose query gives the right rows", "share", "share",
                       True),)

    def read(self) -> list[Item]:
        """Every question whose accepted queries run."""
        schemas = {name.rpartition("/")[2].removesuffix(".sql"): sqlite(text)
                   for name, text in self.members("schemas.tar.gz").items() if name.endswith(".sql")}
        out = []
        for n, row in enumerate(self.rows("questions_gen_sqlite.csv", fields=("db_name", "query", "question"))):
            script = schemas.get(row["db_name"], "")
            tables = "\n".join(re.findall(r"CREATE TABLE.*?\n?\);", script, re.DOTALL | re.IGNORECASE))
            accepted = [query.strip() for query in row["query"].split(";") if query.strip()]
            out.append(Item(f"{row['db_name']}/{n}", f"{tables}\n\n-- {row['question']}\nSELECT",
                            accepted[0].removeprefix("SELECT").strip(), stem=row["question"], evidence=row["question"],
                            suffix=json.dumps([script, accepted])))
        return out

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """Those of `Written.items` whose accepted queries run."""
        found = super().items(corpus, codec, limit, seed)
        return [item for item, (_, there) in zip(found, judged(found, [[] for _ in found]), strict=True) if there]

    def grade(self, item: Item, text: str) -> list[float]:
        """Of one answer."""
        return [float(judged([item], [[f"SELECT {text}"]])[0][0][0])]

    def outcome(self, items: Sequence[Item], outputs: list[str]) -> Outcome:
        """All answers at once, each in a sandbox of its own."""
        right = [float(found[0]) for found, _ in judged(items, [[f"SELECT {text}"] for text in outputs])]
        return Outcome({"text2sql_right": right}, {"text2sql_right": [1.0] * len(items)}, outputs)

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """MachineError before anything is asked where there is no sandbox."""
        sandbox.require()
        return super().run(subject, items, seed, progress)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """All rows of the first table."""
        first = [re.search(r"CREATE TABLE (?:IF NOT EXISTS )?(\S+)", item.prompt, re.IGNORECASE) for item in items]
        made = self.outcome(items, [f"* FROM {found[1] if found else 'nothing'}" for found in first])
        return {"text2sql_right": Baseline("all rows of the first table", replace(made, outputs=[]))}


def judged(items: Sequence[Item], queries: Sequence[Sequence[str]]) -> list[tuple[list[bool], bool]]:
    """For each item which of some queries are right, and whether any accepted query runs at all."""
    marks = [os.urandom(8).hex() for _ in items]
    sources = [PROGRAM.format(json.dumps([schema, list(some), accepted]), mark) for item, some, mark in
               zip(items, queries, marks, strict=True) for schema, accepted in [json.loads(item.suffix)]]
    out: list[tuple[list[bool], bool]] = []
    for ran, some, mark in zip(sandbox.run_many(sources, LIMITS), queries, marks, strict=True):
        right, there = json.loads(ran.output)[1:] if ran.ok and mark in ran.output else ([False] * len(some), False)
        out.append((right, there))
    return out


def sqlite(script: str) -> str:
    """PostgreSQL's schema as SQLite reads it: no schemas and casts, dates relative to now as SQLite writes them."""
    names = ["public", *re.findall(r"CREATE SCHEMA (?:IF NOT EXISTS )?(\w+)\s*;", script, re.IGNORECASE)]
    script = re.sub(r"CREATE SCHEMA[^;]*;", "", script, flags=re.IGNORECASE)
    for name in names:
        script = re.sub(rf"\b{name}\.", "", script)
    script = re.sub(r"::\w+", "", re.sub(r"\bSERIAL\b", "INTEGER", script, flags=re.IGNORECASE))
    script = re.sub(r"DEFAULT NOW\(\)", "DEFAULT CURRENT_TIMESTAMP", script, flags=re.IGNORECASE)
    script = re.sub(r"EXTRACT\(YEAR FROM CURRENT_DATE\)", "CAST(strftime('%Y', 'now') AS INTEGER)", script)
    return AGO.sub(_moment, script)


def _moment(found: re.Match[str]) -> str:
    """datetime('now', ...) of now, or of the start of a month or year, and the intervals after it."""
    start = f", 'start of {found[2].lower()}'" if found[2] and found[2].lower() in ("month", "year", "day") else ""
    steps = [(sign, int(count) * (7 if unit.lower() == "week" else 1), "day" if unit.lower() == "week" else unit)
             for sign, count, unit in STEP.findall(found[0])]
    return f"datetime('now'{start}{''.join(f', {chr(39)}{s}{n} {u}{chr(39)}' for s, n, u in steps)})"


TASK = Text2Sql()
