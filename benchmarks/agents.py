"""Agents: function calls (BFCL), a shop (tau-bench retail), and a small model that searches and works sums out (A32).

    python -m benchmarks.agents DATA --out FOLDER [--part functions|shop|world] [--model RUN] [--tiny]

DATA holds bfcl and tau-retail. `functions` and `shop` are scored with a script that makes the accepted calls, which
proves the harness, and with `--model` (any chat model; each message a constrained call or a text). `functions`: calls
compared as syntax trees (evals.tasks.bfcl). `shop`: a session is right if the database ends as the recorded agent left
it; the user's turns are given at once, for nobody plays the user. `world` (DATA holds p3-open, too) tunes the base of
`benchmarks.copying` on conversations about a catalogue whose prices are drawn anew in each, then asks about items it
never saw: with search and a calculator, without, closed-book, from retrieved passages, from the right one, and about
what no passage says (A32, B7, D-8).
"""
import argparse
import gzip
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import kept, record
from benchmarks.copying import base_of, questions
from benchmarks.retail import ACTING, Shop, recorded
from meristem.core.config import edit
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.core.types import Document
from meristem.evals.statistics import wilson
from meristem.generate.agents import loop
from meristem.generate.agents.policy import Caller
from meristem.generate.agents.tools import Tool, calculator, retriever
from meristem.generate.retrieve.answer import ASKED, REFUSAL, Writer, ask, quoted, writer_of
from meristem.generate.retrieve.chunks import cut
from meristem.generate.retrieve.store import Hit, Store
from meristem.generate.sampling import Sampling
from meristem.hub import hf
from meristem.recipes import recipes
from meristem.train.run import pretrain

TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": ""}     # BFCL's names of JSON's types
KEPT = ("type", "properties", "required", "items", "enum", "description")
ADJECTIVES = ("brass", "oak", "blue", "small", "round", "silver", "green", "tall", "plain", "heavy", "red", "stone",
              "glass", "white", "old", "black", "clay", "wool", "paper", "long")
NOUNS = ("lamp", "chair", "table", "clock", "mirror", "basket", "kettle", "ladder", "carpet", "drawer", "candle",
         "window", "bottle", "bucket", "pillow", "shovel", "hammer", "saddle", "barrel", "lantern")
AT_ONCE = "Answer at once."
Item = tuple[str, str]
Made = Callable[[list[tuple[str, dict[str, Any]]]], loop.Policy]               # from the right calls to a policy


def scripted(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> loop.Policy:
    """A policy that makes these calls, all at once, and then answers; none at all: it answers."""
    left = [{"tool_calls": [{"name": n, "arguments": dict(a)} for n, a in calls]}] if calls else []

    def policy(messages: Sequence[loop.Message], tools: Sequence[Any]) -> loop.Message:
        return left.pop() if left else {"content": "Done."}
    return policy


def share(right: Sequence[bool]) -> dict[str, Any]:
    """A share with its interval."""
    interval = wilson(sum(right), len(right))
    return {"share": sum(right) / len(right), "low": interval.low, "high": interval.high, "n": len(right)}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a gzipped file of JSON lines."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def schema_of(tree: Any) -> dict[str, Any]:
    """BFCL's parameters as a JSON schema."""
    out: dict[str, Any] = {}
    for key in KEPT:
        if key not in tree:
            continue
        value = tree[key]
        if key == "type":
            value = TYPES.get(value, value)
        elif key == "properties":
            value = {name: schema_of(inner) for name, inner in value.items()}
        elif key == "items":
            value = schema_of(value)
        if value != "":
            out[key] = value
    return out


def functions(data: Path, made: Made, limit: int) -> dict[str, Any]:
    """Each part's share of requests answered with accepted calls (irrelevance: with none)."""
    from meristem.evals.tasks.bfcl import PARTS, accepts
    table: dict[str, Any] = {}
    for part in PARTS:
        rows = rows_of(data / "bfcl" / f"BFCL_v4_{part}.json.gz")[:limit]
        answers: dict[str, Any] = {}
        if part != "irrelevance":
            answers = {row["id"]: row["ground_truth"] for row in
                       rows_of(data / "bfcl" / "possible_answer" / f"BFCL_v4_{part}.json.gz")}
        right, malformed, count = [], 0, 0
        for row in rows:
            tools = [Tool(f["name"], f["description"], schema_of(f["parameters"]), lambda a: "")
                     for f in row["function"]]
            accepted = answers.get(row["id"], [])
            policy = made([(n, first(v)) for one in accepted for n, v in one.items()])
            try:
                trace = loop.run(policy, tools, row["question"][0], loop.Limits(steps=1))
            except RequestError:                               # the request does not fit the model's context
                right.append(False)
                continue
            calls = [c["function"] for e in trace.entries if e["kind"] == "message"
                     for c in e["message"].get("tool_calls", [])]
            found = [(c["name"], c["arguments"]) for c in calls if isinstance(c["arguments"], dict)]
            right.append(len(found) == len(calls) and accepts(accepted, found))
            count += len(trace.calls)
            malformed += sum(c["status"] in ("malformed", "unknown") for c in trace.calls)
        table[part] = {**share(right), "malformed calls": malformed, "calls": count}
        print(part, json.dumps(table[part]), flush=True)
    return table


def first(values: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The first accepted value of each argument that is not left out; those inside mappings likewise."""
    def inner(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: inner(v[0]) for k, v in value.items() if isinstance(v, list) and v[0] != ""}
        return [inner(v) for v in value] if isinstance(value, list) else value
    return {name: inner(some[0]) for name, some in values.items() if some[0] != ""}


def shop(data: Path, made: Made, limit: int) -> dict[str, Any]:
    """The share of dialogues after which the database is as the recorded agent left it."""
    start, right, changed = Shop.open(data / "tau-retail"), [], []
    dialogues = recorded(data / "tau-retail")[:limit]
    for one in dialogues:
        gold, mine = start.again(), start.again()
        for name, arguments in one.calls:
            gold.call(name, arguments)
        try:
            loop.run(made(one.calls), mine.tools(), [{"role": "user", "content": "\n".join(one.said)}],
                     loop.Limits(steps=12, calls=40), allow=ACTING)
        except RequestError:                                   # does not fit the model's context
            mine = start
        right.append(mine.tables == gold.tables)
        changed.append(gold.tables != start.tables)
    acted = [r for r, c in zip(right, changed, strict=True) if c]
    return {"right": share(right), "right, where the database changes": share(acted),
            "results that our tools return as recorded": sum(d.equal for d in dialogues),
            "results": sum(d.results for d in dialogues)}


def is_test(item: Item) -> bool:
    """Whether an item is kept from training."""
    return seed_of("item", *item) % 5 == 0


ITEMS = [(a, n) for a in ADJECTIVES for n in NOUNS]


def price(item: Item) -> int:
    """What the catalogue says."""
    return 3 + seed_of("price", *item) % 97


def fact(item: Item, cost: int) -> Document:
    """A document of the catalogue."""
    text = f"The {item[0]} {item[1]} costs {cost}."
    return Document("", "catalogue", "", {"text": text}, {"path": f"{item[0]}-{item[1]}"})


def hits_of(documents: Sequence[Document]) -> list[Hit]:
    """Documents as passages that were found."""
    return [Hit(chunk, 1.0, 1.0, 0.0) for d in documents for chunk in cut(d)]


def order(rng: np.random.Generator, items: Sequence[Item]) -> tuple[str, list[tuple[Item, int]]]:
    """A question about one or two items, and how many of each."""
    count = int(rng.integers(1, 3))
    some = [(items[i], int(rng.integers(2, 21))) for i in rng.choice(len(items), count, replace=False)]
    return "What do " + " and ".join(f"{n} {a} {b}s" for (a, b), n in some) + " cost?", some


def conversation(rng: np.random.Generator, items: Sequence[Item]) -> dict[str, Any]:
    """One row for instruction tuning: tools, an order answered at once, a fact, or passages to read."""
    kind, system = rng.choice(4, p=[0.5, 0.1, 0.1, 0.3]), {"role": "system", "content": AT_ONCE}
    if kind < 2:
        question, some = order(rng, items)
        user = {"role": "user", "content": question}
        if kind == 1:
            total = sum(n * price(item) for item, n in some)
            return {"messages": [system, user, {"role": "assistant", "content": str(total)}]}
        costs = [int(rng.integers(3, 100)) for _ in some]
        messages: list[dict[str, Any]] = [user]
        for (item, _), cost in zip(some, costs, strict=True):
            [hit] = hits_of([fact(item, cost)])
            said = json.dumps([{"passage": hit.chunk.name, "text": hit.chunk.text}])
            messages += [called("search", question=" ".join(item)), {"role": "tool", "content": said}]
        expression = " + ".join(f"{n} * {cost}" for (_, n), cost in zip(some, costs, strict=True))
        total = sum(n * cost for (_, n), cost in zip(some, costs, strict=True))
        return {"messages": [*messages, called("calculator", expression=expression),
                             {"role": "tool", "content": str(total)}, {"role": "assistant", "content": str(total)}]}
    some_items = [items[i] for i in rng.choice(len(items), 4, replace=False)]
    item, cost = some_items[0], int(rng.integers(3, 100))
    asked = f"What does the {item[0]} {item[1]} cost?"
    if kind == 2:
        return {"messages": [system, {"role": "user", "content": asked},
                             {"role": "assistant", "content": fact(item, price(item)).text}]}
    absent, alone = rng.random() < 0.25, rng.random() < 0.2
    shown = [fact(item, cost)] * (not absent) + [fact(one, int(rng.integers(3, 100))) for one in some_items[1:]]
    shown = [shown[i] for i in rng.permutation(3)] if len(shown[:3]) == 3 else shown
    if alone and not absent:
        shown = [fact(item, cost)]
    elif not absent and fact(item, cost) not in shown:
        shown[0] = fact(item, cost)
    answer = REFUSAL if absent else f"{fact(item, cost).text} [{shown.index(fact(item, cost)) + 1}]"
    return {"messages": [{"role": "system", "content": ASKED},
                         {"role": "user", "content": f"{quoted(hits_of(shown))}\n\n{asked}"},
                         {"role": "assistant", "content": answer}]}


def called(name: str, **arguments: str) -> dict[str, Any]:
    """An assistant's message that calls a tool."""
    return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


def world(data: Path, out: Path, seed: int, steps: int, count: int) -> dict[str, Any]:
    """Tune the small model, then ask it about items that it never saw."""
    base = base_of(questions(data), out, 0, steps < 10)
    start = time.process_time()
    folder = out / "catalogue"
    folder.mkdir(parents=True, exist_ok=True)
    known, unseen = ([i for i in ITEMS if is_test(i) == test] for test in (False, True))
    for split, some in (("train", 6000), ("validation", 100), ("test", 100)):
        rng = np.random.default_rng(seed_of(0, "catalogue", split))
        rows = [json.dumps(conversation(rng, known)) + "\n" for _ in range(some)]
        (folder / f"{split}.jsonl").write_text("".join(rows))
    run = edit(recipes()["sft"](), {
        "base": str(base), "seed": seed, "data.corpus": str(folder), "train.steps": steps, "train.batch": 12,
        "train.context": 576, "train.optimizer": "muon", "train.lr": 1e-2, "train.validate_every": 0,
        "train.compile": False, "train.guard": False})
    loaded = hf.load(pretrain(run, out / f"agent-{seed}"))
    assert loaded.codec is not None
    trained = (time.process_time() - start) / 60
    store = Store.of([fact(item, price(item)) for item in unseen], overlap=0)
    tools = [retriever(store, 1), calculator()]
    rng = np.random.default_rng(seed_of(0, "asked"))
    orders = [order(rng, unseen) for _ in range(count)]
    table: dict[str, Any] = {"cpu_minutes of tuning": trained}
    for name, constrained in (("tools", True), ("tools, calls unconstrained", False), ("no tools", True)):
        policy = Caller(loaded.module, loaded.codec, loaded.chat, Sampling(length=160), constrained, shown=False)
        before = [{"role": "system", "content": AT_ONCE}] if name == "no tools" else []
        made = [kept(out / "answers" / f"agent-{seed}-{name}-{number}.json", lambda: _acted(
            policy, [] if name == "no tools" else tools, [*before, {"role": "user", "content": question}]))   # noqa: B023
                for number, (question, _) in enumerate(orders)]
        right = [answer == str(sum(n * price(item) for item, n in some))
                 for (answer, _), (_, some) in zip(made, orders, strict=True)]
        statuses = [status for _, some in made for status in some]
        bad = sum(s in ("malformed", "unknown") for s in statuses)
        table[name] = {**share(right), "calls": len(statuses), "malformed": bad}
        print(name, json.dumps(table[name]), flush=True)
    facts = [(item, f"What does the {item[0]} {item[1]} cost?") for item in unseen][:count]
    write = writer_of(loaded.module, loaded.codec, loaded.chat, Sampling(length=64))
    half = Store.of([fact(item, price(item)) for item in unseen[::2]])
    closed = Caller(loaded.module, loaded.codec, loaded.chat, Sampling(length=64), shown=False)
    told = kept(out / "answers" / f"agent-{seed}-closed.json", lambda: [
        str(closed([{"role": "system", "content": AT_ONCE}, {"role": "user", "content": question}], [])["content"])
        for _, question in facts])
    table["closed-book"] = share([text.strip() == fact(item, price(item)).text
                                  for text, (item, _) in zip(told, facts, strict=True)])
    for name, shown in (("retrieved", store), ("oracle", None), ("half of the facts are missing", half)):
        table[name] = kept(out / "answers" / f"agent-{seed}-{name}.json", lambda: read(
            facts, shown, write, set(unseen[::2] if shown is half else unseen)))               # noqa: B023
        print(name, json.dumps(table[name]), flush=True)
    return {**table, "cpu_minutes": (time.process_time() - start) / 60}


def _acted(policy: loop.Policy, tools: Sequence[Tool], messages: Sequence[loop.Message]) -> tuple[str, list[str]]:
    """The answer of a session, and how each of its calls went."""
    trace = loop.run(policy, tools, messages, loop.Limits(steps=6))
    return trace.answer.strip(), [c["status"] for c in trace.calls]


def read(facts: Sequence[tuple[Item, str]], store: Store | None, write: Writer, there: set[Item]) -> dict[str, Any]:
    """Answers from passages: right ones with the right citation, refusals where the fact is there and where not."""
    right, cited, refused_there, refused_absent = [], [], [], []
    for item, question in facts:
        made = ask(question, store or Store.of([fact(item, price(item))]), write, 3)
        if item in there:
            said = made.text.split(" [")[0]
            right.append(said == fact(item, price(item)).text)
            cited.append([c.source for c in made.cited.values()] == [f"{item[0]}-{item[1]}"])
            refused_there.append(made.refused)
        else:
            refused_absent.append(made.refused)
    absent = {"refused, absent": share(refused_absent)} if refused_absent else {}
    return {**share(right), "cites the fact alone": share(cited), "refused, there": share(refused_there), **absent}


def main() -> None:
    """Parse the command line and run the asked parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("functions", "shop", "world"))
    parser.add_argument("--model", type=Path, help="a chat model's run; without it the accepted calls are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--limit", type=int, default=10_000, help="rows of a part of BFCL, dialogues, at most")
    parser.add_argument("--tiny", action="store_true", help="a few rows and steps, to see that it runs")
    a = parser.parse_args()
    limit, made = 8 if a.tiny else a.limit, scripted
    name = "script" if a.model is None else a.model.name
    if a.model is not None:
        loaded = hf.load(a.model)
        assert loaded.codec is not None
        caller = Caller(loaded.module, loaded.codec, loaded.chat, Sampling(length=96))
        made = lambda calls: caller                                                           # noqa: E731
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "functions": lambda: functions(a.data, made, limit), "shop": lambda: shop(a.data, made, limit),
        "world": lambda: world(a.data, a.out, a.seed, 3 if a.tiny else a.steps, 6 if a.tiny else 100)}
    for part in [a.part] if a.part else parts:
        found = parts[part]()
        tail = f"-{a.seed}" if part == "world" else f"-{name}"
        record(f"agents-{part}{tail}{'-tiny' * a.tiny}", {"policy": name, **found})


if __name__ == "__main__":
    main()
