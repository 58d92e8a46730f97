"""Texts into other texts: translation (row B9), style (B10), summaries of functions (B8).

    python -m benchmarks.rewriting --out FOLDER --part sentences [--seed 0] [--tiny]
    python -m benchmarks.rewriting --out FOLDER --part summaries --base runs/quickstart/base --corpus CORPUS

`sentences`: recipe `text_to_text` learns two kinds of task in one network. `translate` into a made-up language whose
verb comes last and whose adjectives follow their noun and agree with it; beside it stands the true dictionary, word by
word. `passive`, `active`, `formal`, `casual` rewrite a sentence in a style. A style counts when a logistic regression,
trained on the training sentences' own words, calls it that; content is the share of the sentence's own words (their
stems) that are kept and no others added (F1). The test's sentences are in no other split. `summaries` (B8) tunes a
decoder that has read Python on functions of a corpus, signature and body, and the first line of their docstring; the
test split's are scored by ROUGE beside the first k words of the function, k the training lines' mean length, and the
words of its name. BLEU and chrF are sacrebleu's, ROUGE rouge-score's. Interrupted, the same command goes on.
"""
import argparse
import ast
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation import write
from benchmarks.common import record
from meristem.core.config import edit
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.data.examples import function_bodies
from meristem.generate.sampling import Sampling
from meristem.generate.seq2seq import answers
from meristem.generate.text import complete
from meristem.hub import hf
from meristem.recipes import recipes
from meristem.train.run import pretrain

NOUNS = {"dog": "kel", "cat": "mio", "house": "dras", "tree": "vent", "river": "olu", "bird": "pirr", "stone": "gath",
         "child": "nin", "friend": "amu", "teacher": "sorr", "car": "tek", "garden": "flim", "horse": "bront",
         "letter": "ista", "window": "quel", "ship": "navo"}
ADJECTIVES = {"red": "su", "old": "bara", "small": "ti", "quiet": "mell", "bright": "oshi", "heavy": "dorr",
              "strange": "wix", "kind": "lale"}
VERBS = {"see": "vat", "follow": "lorim", "find": "echa", "like": "suno", "carry": "bregg", "hear": "hali",
         "need": "pom", "love": "irra"}
FORMS = {"see": ("sees", "seen"), "follow": ("follows", "followed"), "find": ("finds", "found"),
         "like": ("likes", "liked"), "carry": ("carries", "carried"), "hear": ("hears", "heard"),
         "need": ("needs", "needed"), "love": ("loves", "loved")}
CASUAL = {"i do not know whether": "dunno if", "good morning": "hey", "i am going to": "i'm gonna",
          "thank you": "thanks", "because": "cos", "perhaps": "maybe", "what is the matter": "what's up"}
STYLES = ("passive", "active", "formal", "casual")
STEMS = {form: stem for stem, forms in FORMS.items() for form in (stem, *forms)}
Row = tuple[str, str]


def phrase(rng: np.random.Generator) -> tuple[str, str]:
    """A noun with an article and perhaps an adjective, and the same in the other language."""
    noun = str(rng.choice(list(NOUNS)))
    adjective = str(rng.choice(list(ADJECTIVES))) if rng.random() < 0.7 else ""
    many = rng.random() < 0.4
    theirs = NOUNS[noun] + ("or" if many else "")
    if adjective:                                              # it agrees with the noun's last letter and number
        theirs += f" {ADJECTIVES[adjective]}{'a' if NOUNS[noun][-1] in 'aeiou' else 'e'}{'r' if many else ''}"
    return " ".join(w for w in ("the", adjective, f"{noun}s" if many and noun != "child" else
                                "children" if many else noun) if w), theirs


def sentence(rng: np.random.Generator) -> dict[str, Row]:
    """One sentence as a row of every task."""
    (a, x), (b, y) = phrase(rng), phrase(rng)
    verb = str(rng.choice(list(VERBS)))
    present, past = FORMS[verb]
    several = (a.endswith("s") or a.endswith("children"), b.endswith("s") or b.endswith("children"))
    active = f"{a} {verb if several[0] else present} {b}"
    passive = f"{b} {'are' if several[1] else 'is'} {past} by {a}"
    formal, casual = list(CASUAL.items())[int(rng.integers(len(CASUAL)))]
    tail = f"{formal} {active}", f"{casual} {active}"
    return {"translate": (active, f"{x} {y} {VERBS[verb]}"), "passive": (active, passive), "active": (passive, active),
            "formal": (tail[1], tail[0]), "casual": tail}


def made(split: str, count: int) -> dict[str, list[Row]]:
    """So many rows of every task; a sentence's split is a hash of it."""
    rng, out = np.random.default_rng(seed_of(0, "rewriting", split)), dict[str, dict[str, str]]()
    while not out or len(out["translate"]) < count:
        one = sentence(rng)
        place = seed_of("sentence", one["translate"][0]) % 10
        if {"test": 0, "validation": 1}.get(split, 2) == min(place, 2):
            for task, (source, target) in one.items():
                out.setdefault(task, {})[source] = target
    return {task: list(rows.items())[:count] for task, rows in out.items()}


def word_by_word(text: str) -> str:
    """The true dictionary, in the order of the words; articles have no word."""
    single = {**NOUNS, **ADJECTIVES, **{f: VERBS[s] for s, fs in FORMS.items() for f in (s, *fs)},
              "children": NOUNS["child"], "the": ""}
    return " ".join(w for t in text.split() if (w := single.get(t) or single.get(t.removesuffix("s"), "")))


def stems(text: str) -> set[str]:
    """Nouns, adjectives and verbs of a sentence."""
    words = {STEMS.get(w, "child" if w == "children" else w) for w in text.split()}
    words = {w if w in NOUNS else w.removesuffix("s") if w.removesuffix("s") in NOUNS else w for w in words}
    return words & {*NOUNS, *ADJECTIVES, *VERBS}


def kept(text: str, source: str) -> float:
    """F1 of stems."""
    ours, theirs = stems(text), stems(source)
    return 2 * len(ours & theirs) / max(1, len(ours) + len(theirs))


def interval(values: Sequence[float]) -> list[float]:
    """A mean with its bootstrap interval."""
    x = np.array(values)
    draws = x[np.random.default_rng(0).integers(0, len(x), (2000, len(x)))].mean(1)
    return [round(float(v), 4) for v in (x.mean(), *np.quantile(draws, [0.025, 0.975]))]


def overlap(said: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """BLEU and chrF of all texts, their intervals by a bootstrap over sentences."""
    from sacrebleu.metrics import BLEU, CHRF
    right = [target for _, target in rows]
    out: dict[str, Any] = {"exact": interval([float(a == b) for a, b in zip(said, right, strict=True)])}
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(rows), (100, len(rows)))
    for name, judge in (("bleu", BLEU()), ("chrf", CHRF())):
        some = [judge.corpus_score([said[i] for i in d], [[right[i] for i in d]]).score for d in draws]
        out[name] = [round(float(v), 2) for v in (judge.corpus_score(list(said), [right]).score,
                                                  *np.quantile(some, [0.025, 0.975]))]
    return out


def sentences(given: argparse.Namespace) -> dict[str, Any]:
    """Translation and style by one network."""
    from sklearn.feature_extraction.text import CountVectorizer  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    tiny, out = given.tiny, given.out
    splits = {split: made(split, count) for split, count in
              (("train", 40 if tiny else 3000), ("validation", 20), ("test", 12 if tiny else 300))}
    folder = write(out / "sentences", {split: [{"input": f"{task}: {a}", "target": b} for task, rows in tasks.items()
                                               for a, b in rows] for split, tasks in splits.items()})
    recipe = edit(recipes()["text_to_text"](), {
        "seed": given.seed, "data.corpus": str(folder), "data.codec.name": "bpe", "data.codec.vocab": 512,
        "train.context": 48, "train.steps": 2 if tiny else 500, "train.batch": 4 if tiny else 48,
        "train.validate_every": 0, "train.compile": False})
    loaded = hf.load(pretrain(recipe, out / f"rewriter-{given.seed}"))
    assert loaded.codec is not None

    def said(task: str, rows: Sequence[Row]) -> list[str]:
        return answers(loaded.module, loaded.codec, [f"{task}: {a}" for a, _ in rows], length=40)
    rows = splits["test"]["translate"]
    found: dict[str, Any] = {"translate": overlap(said("translate", rows), rows),
                             "word by word": overlap([word_by_word(a) for a, _ in rows], rows)}
    count = CountVectorizer(token_pattern=r"[\w']+", ngram_range=(1, 2))
    for pair in (("active", "passive"), ("casual", "formal")):
        known = [(b, task) for task in pair for _, b in splits["train"][task]]
        x = count.fit_transform([text for text, _ in known])
        judge = LogisticRegression(max_iter=1000).fit(x, [task for _, task in known])
        for task in pair:
            rows = splits["test"][task]
            texts = {"model": said(task, rows), "copied": [a for a, _ in rows], "reference": [b for _, b in rows]}
            found[task] = {name: {
                "style": interval([float(s == task) for s in judge.predict(count.transform(some))]),
                "content": interval([kept(t, a) for t, (a, _) in zip(some, rows, strict=True)]),
                "exact": interval([float(t == b) for t, (_, b) in zip(some, rows, strict=True)])}
                for name, some in texts.items()}
    return {**found, "first answers": said("passive", splits["test"]["passive"][:3])}


def summarised(corpus: Corpus, split: str, most: int) -> list[Row]:
    """(signature and body, first line of the docstring) of a split's functions."""
    out = []
    for example in function_bodies(corpus, split):
        try:
            function = ast.parse(f"{example.prompt}\n    pass").body[0]
        except SyntaxError:
            continue
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        line = " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split())
        start = function.body[0].lineno - 1
        source = "\n".join(example.prompt.split("\n")[:start]) + example.answer
        if 3 <= len(line.split()) <= 25 and len(source) <= most:
            out.append((source, line))
    return out


def words(text: str) -> list[str]:
    """Words of code or prose: names are taken apart."""
    return re.findall(r"[a-z]+|[A-Z][a-z]*|\d+", text.replace("_", " "))


def summaries(given: argparse.Namespace) -> dict[str, Any]:
    """Docstrings from functions."""
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    corpus, kinds = Corpus.open(given.corpus), ("rouge1", "rouge2", "rougeL")
    splits = {split: summarised(corpus, split, 500) for split in ("train", "validation", "test")}
    splits = {split: rows[:60 if given.tiny else 300 if split == "test" else 10**6] for split, rows in splits.items()}
    mark = '\n"""'
    folder = write(given.out / "summaries", {split: [
        {"input": f"{a}{mark}", "target": b, "shots": [], "text": f"{a}{mark}{b}\n"} for a, b in rows]
        for split, rows in splits.items()})
    run = pretrain(edit(recipes()["full"](), {
        "seed": given.seed, "base": str(given.base), "data.corpus": str(folder), "train.context": 256,
        "train.steps": 2 if given.tiny else 250, "train.batch": 2 if given.tiny else 16, "train.compile": False}),
        given.out / f"summaries-{given.seed}")
    loaded = hf.load(run)
    codec = loaded.codec
    assert codec is not None
    test = [(a, b) for a, b in splits["test"] if len(codec.encode(f"{a}{mark}")) <= 220]
    rows = [np.concatenate([[codec.end], codec.encode(f"{a}{mark}")]) for a, _ in test]
    said = [one.text.split("\n")[0] for start in range(0, len(rows), 50) for one in
            complete(loaded.module, codec, rows[start:start + 50], Sampling(length=32))]
    k = round(float(np.mean([len(b.split()) for _, b in splits["train"]])))
    judge, seen = RougeScorer(list(kinds), use_stemmer=True), {b for _, b in splits["train"]}
    texts = {"model": said, f"first {k} words of the function": [" ".join(words(a)[:k]) for a, _ in test],
             "words of its name": [" ".join(words(a.split("(")[0].split("def ")[-1])) for a, _ in test]}
    found: dict[str, Any] = {"functions": {s: len(r) for s, r in splits.items()}, "asked": len(test),
                             "test lines that training has": sum(b in seen for _, b in test)}
    fresh = [i for i, (_, b) in enumerate(test) if b not in seen]
    for name, some in texts.items():
        scores = [judge.score(b, t) for t, (_, b) in zip(some, test, strict=True)]
        found[name] = {kind: interval([s[kind].fmeasure for s in scores]) for kind in kinds}
        found[name]["rougeL, lines that training has not"] = interval([scores[i]["rougeL"].fmeasure for i in fresh])
    return {**found, "first answers": list(zip(said[:5], [b for _, b in test[:5]], strict=False))}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"sentences": sentences, "summaries": summaries}


def main() -> None:
    """Parse the command line and run the asked part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--base", type=Path, help="a decoder that has read Python (summaries)")
    parser.add_argument("--corpus", type=Path, help="a corpus of Python (summaries)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a few rows and steps, to see that it runs")
    given = parser.parse_args()
    if given.part == "summaries" and not (given.base and given.corpus):
        parser.error("--part summaries needs --base and --corpus")
    start = time.process_time()
    found = PARTS[given.part](given)
    record(f"rewriting-{given.part}-{given.seed}{'-tiny' * given.tiny}", {
        "seed": given.seed, "cpu_minutes": round((time.process_time() - start) / 60, 2), **found})
    print(json.dumps(found["first answers"]))


if __name__ == "__main__":
    main()
