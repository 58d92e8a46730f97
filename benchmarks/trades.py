"""Row I5: a long text asked with citations, as lawyers ask, and a tutor of sums who gives hints, as teachers do.

    python -m benchmarks.trades DATA --out runs/trades [--part passages tutor] [--tiny]

`passages`: every article of the English XQuAD (DATA/xquad) as one document. `generate.retrieve.answer` finds passages
and cites them; who writes is no model but the sentence of these passages that holds most of the question, each word
weighted by how rare it is. An answer is right when it holds the reference, a citation when its passage does; beside it
a passage drawn from the same article. Then each second article is left out, whose questions should be refused.
`tutor`: recipe `tutor` on `toy:tutor`; its hints on new sums, one column each, and whether one gives the whole answer
away; then a pupil, the same network after a quarter of the steps, answers after 0, 1, 2 and 3 hints of the tutor, and
after three for another sum (control). Robots, the third trade of the row, are `benchmarks.senses --part both`. Wilson
intervals; the tables are benchmarks/results/trades-*.json.
"""
import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from benchmarks.retrieval import document, share
from meristem.core.config import edit
from meristem.corpus import toy
from meristem.evals.subject import Subject, prompt_ids
from meristem.generate.retrieve.answer import SENTENCE, Writer, ask
from meristem.generate.retrieve.store import Hit, Store, words
from meristem.recipes import recipes
from meristem.train.run import pretrain

ASKED = 400                             # sums
LONGEST = 12                            # characters of a hint or an answer


def quoting(store: Store) -> Writer:
    """Who answers with the sentence of the passages that holds most of the question, by how rare its words are."""
    held = Counter(word for chunk in store.chunks for word in set(words(chunk.text)))

    def write(question: str, hits: Sequence[Hit]) -> str:
        asked = set(words(question))
        sentences = [text.strip() for hit in hits for text in SENTENCE.findall(hit.chunk.text) if text.strip()]
        worth = [sum(log(len(store.chunks) / held[word]) for word in asked & set(words(text)) if held[word])
                 for text in sentences]
        return sentences[int(np.argmax(worth))] if sentences else ""
    return write


def passages(data: Path, limit: int) -> dict[str, Any]:
    """Long documents, questions, citations."""
    tree = json.loads(gzip.decompress((data / "xquad" / "xquad.en.json.gz").read_bytes()))["data"]
    articles = [document(str(n), "\n\n".join(p["context"] for p in entry["paragraphs"]))
                for n, entry in enumerate(tree)]
    asked = [(q["question"], str(n), [answer["text"] for answer in q["answers"]]) for n, entry in enumerate(tree)
             for p in entry["paragraphs"] for q in p["qas"]][:limit]
    store, half = Store.of(articles), Store.of(articles[::2])
    write, rng = quoting(store), np.random.default_rng(0)
    own = {n: [chunk for chunk in store.chunks if chunk.source == n] for n in {n for _, n, _ in asked}}
    found: dict[str, list[float]] = {}

    def note(what: str, value: bool) -> None:
        found.setdefault(what, []).append(float(value))

    for question, article, answers in asked:
        made = ask(question, store, write)
        note("answered", not made.refused)
        if not made.refused:
            chunks = list(made.cited.values())
            note("quoted sentence holds the reference", any(answer in made.text for answer in answers))
            note("a cited passage holds it", any(answer in c.text for c in chunks for answer in answers))
            note("a cited passage is of the right article", any(c.source == article for c in chunks))
            drawn = own[article][rng.integers(len(own[article]))]
            note("control: a passage drawn from the right article holds it", any(a in drawn.text for a in answers))
        if int(article) % 2:
            note("refused, the article left out", ask(question, half, write).refused)
    return {"documents": len(articles), "characters": sum(len(a.text) for a in articles),
            "passages": len(store.chunks), **{what: share(values) for what, values in found.items()}}


def trained(name: str, corpus: Any, out: Path, **edits: Any) -> Subject:
    """A finished run of recipe tutor."""
    run = edit(recipes()["tutor"](), {"data.corpus": str(corpus.folder), "train.compile": False,
                                      **{key.replace("__", "."): value for key, value in edits.items()}})
    return Subject.open(pretrain(run, out / name))


def said(subject: Subject, prompts: Sequence[str]) -> list[str]:
    """What follows each prompt, up to the line end."""
    rows = [prompt_ids(subject.codec, text, True) for text in prompts]
    done = subject.complete(rows, LONGEST, 0.0, 0)
    return [subject.codec.decode(ids[ids != subject.codec.end]).split("\n")[0] for ids in done]


def tutor(out: Path, tiny: bool) -> dict[str, Any]:
    """Hints given, and what they are worth to a pupil."""
    corpus = toy.make("tutor", out / "tutor.text", {"documents": 60 if tiny else 12_000})
    steps = 3 if tiny else recipes()["tutor"]().train.steps
    teacher = trained("tutor", corpus, out, train__steps=steps)
    pupil = trained("pupil", corpus, out, train__steps=max(1, steps // 4), seed=1)
    sums = [d.fields for d in corpus.documents("test")][:6 if tiny else ASKED]
    levels = len(sums[0]["shots"])
    lines, table = [[""] for _ in sums], dict[str, Any]()
    given, gives = [list[str]() for _ in sums], list[float]()
    for level in range(levels):
        made = said(teacher, [f"{''.join(before)}{one['shots'][level][0]}" for before, one in zip(
            lines, sums, strict=True)])
        table[f"hint {level + 1} is right"] = share([float(text == one["shots"][level][1]) for text, one in zip(
            made, sums, strict=True)])
        for before, own, one, text in zip(lines, given, sums, made, strict=True):
            before.append(f"{one['shots'][level][0]}{text}\n")
            own.append(text)
            gives += [float(one["target"] in text)] if level < levels - 1 else []
    table["a hint before the last gives the answer away"] = share(gives)
    table["all hints are right"] = share([float(own == [answer for _, answer in one["shots"]])
                                          for own, one in zip(given, sums, strict=True)])
    for count in range(levels + 1):
        answers = said(pupil, ["".join(before[:count + 1]) + one["input"] for before, one in zip(
            lines, sums, strict=True)])
        table[f"pupil right after {count} hints"] = share([float(a == one["target"]) for a, one in zip(
            answers, sums, strict=True)])
    other = ["".join(f"{q}{text}\n" for (q, _), text in zip(one["shots"], given[n - 1], strict=True)) + one["input"]
             for n, one in enumerate(sums)]
    table[f"control: pupil right after {levels} hints for another sum"] = share(
        [float(a == one["target"]) for a, one in zip(said(pupil, other), sums, strict=True)])
    table["first sum"] = [*lines[0][1:], f"{sums[0]['input']}{sums[0]['target']}"]
    return table


def main() -> None:
    """Both, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/trades"))
    parser.add_argument("--part", nargs="*", default=["passages", "tutor"], choices=["passages", "tutor"])
    parser.add_argument("--tiny", action="store_true", help="a few rows and steps, to see that it runs")
    a = parser.parse_args()
    for part in a.part:
        start = time.process_time()
        found = passages(a.data, 60 if a.tiny else 10_000) if part == "passages" else tutor(a.out, a.tiny)
        record(f"trades-{part}{'-tiny' * a.tiny}", {**found, "cpu_minutes": (time.process_time() - start) / 60})


if __name__ == "__main__":
    main()
