"""Instructions whose form a program can check: what is asked, a right answer, and whether an answer has the form.

    [task] = made("train", 1, seed=0, words=["lamp", ...]); task.asked, task.answer, task.right(" lamp ")

Twelve kinds, in the manner of IFEval (Zhou et al. 2023, https://arxiv.org/abs/2311.07911): separators, case, counts,
lists, JSON, how a text begins and ends. A kind has five phrasings to train on and two that are kept for the test; words
are divided by a hash, so that no test instruction holds a word that a training instruction has. Used by
`benchmarks.assistant`.
"""
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from meristem.core.random import seed_of

KNOWN = 5                               # phrasings of a kind for training; those behind them are for the test


@dataclass(frozen=True)
class Asked:
    """One instruction."""

    kind: str
    asked: str
    answer: str                         # one that is right
    check: Callable[[str], bool]
    new: bool                           # its phrasing is in no training instruction

    def right(self, text: str) -> bool:
        """Whether a text has the form that was asked for; spaces around it do not count, an echo does not either."""
        return self.asked.lower().rstrip(".?!") not in text.lower() and self.check(text.strip())


@dataclass(frozen=True)
class Kind:
    """What is asked in several ways. {a}, {b}, {c} are words, {n} is a number from 2 to 5."""

    phrasings: tuple[str, ...]
    answer: Callable[[list[str], int], str]
    check: Callable[[str, list[str], int], bool] | None = None # None: the answer and nothing else is right


def _object(text: str, words: list[str], n: int) -> bool:
    try:
        return bool(json.loads(text) == {words[0]: words[1]})
    except json.JSONDecodeError:
        return False


KINDS: dict[str, Kind] = {
    "repeat": Kind((
        "Write the word {a} {n} times with commas between.", "Repeat {a} {n} times, separated by commas.",
        "Say {a} {n} times; put a comma after each but the last.", "{n} times the word {a}, with commas, please.",
        "I want to read {a} {n} times, divided by commas.",
        "Please give me {a} {n} times over with a comma between each.", "Commas between: {a}, {n} times."),
        lambda w, n: ", ".join([w[0]] * n), lambda t, w, n: [p.strip() for p in t.split(",")] == [w[0]] * n),
    "capitals": Kind((
        "Write {a} {b} in capital letters.", "Put {a} {b} in upper case.", "Make {a} {b} all capitals.",
        "{a} {b}: give it to me in capitals.", "Shout {a} {b} in capital letters.",
        "Turn {a} {b} into upper case letters.", "Answer in capitals only: {a} {b}"),
        lambda w, n: f"{w[0]} {w[1]}".upper()),
    "dashes": Kind((
        "List {a}, {b} and {c}, one a line, each after a dash.", "Make a list with dashes of {a}, {b} and {c}.",
        "Put {a}, {b}, {c} below each other with a dash before each.", "A dashed list: {a}, {b}, {c}.",
        "Give {a}, {b} and {c} as lines that begin with a dash.",
        "Write {a}, {b} and {c} as a list, every line with a dash first.", "Dashes before each line: {a}, {b}, {c}."),
        lambda w, n: "\n".join(f"- {x}" for x in w)),
    "numbers": Kind((
        "Number {a}, {b} and {c}, one a line.", "Make a numbered list of {a}, {b} and {c}.",
        "Put {a}, {b}, {c} below each other with numbers before them.", "A numbered list: {a}, {b}, {c}.",
        "Give {a}, {b} and {c} as numbered lines.", "Write {a}, {b} and {c} as a list with numbers.",
        "Numbers before each line: {a}, {b}, {c}."),
        lambda w, n: "\n".join(f"{i}. {x}" for i, x in enumerate(w, 1))),
    "json": Kind((
        "Give a JSON object whose key {a} has the value {b}.", "Write JSON with the key {a} and the value {b}.",
        "As JSON: {a} is {b}.", "Make a JSON object in which {a} is {b}.", "I need JSON: key {a}, value {b}.",
        "Return a JSON object that says {b} under the key {a}.", "JSON please, {a} has the value {b}."),
        lambda w, n: json.dumps({w[0]: w[1]}), _object),
    "ends": Kind((
        "Say something about {a} and end with the word {b}.", "Write a sentence on {a}; its last word is {b}.",
        "Tell me of {a}. End with {b}.", "A sentence about {a} that ends with {b}, please.",
        "Talk about {a} and let the last word be {b}.", "Say a thing about {a}, the final word must be {b}.",
        "With {b} as the last word, write about {a}."),
        lambda w, n: f"The {w[0]} is here, and so is the {w[1]}",
        lambda t, w, n: w[0] in t.split() and t.rstrip(".!").split()[-1:] == [w[1]]),
    "count": Kind((
        "Write exactly {n} words, {a} among them.", "Use exactly {n} words and {a} as one of them.",
        "Say {n} words, no more; one is {a}.", "Exactly {n} words with {a}, please.",
        "Answer in {n} words that include {a}.", "Write {n} words, neither more nor less, one of them {a}.",
        "With {a} in it: exactly {n} words."),
        lambda w, n: " ".join([w[0], *["is", "not", "far", "now"][:n - 1]]),
        lambda t, w, n: len(t.split()) == n and w[0] in t.split()),
    "either": Kind((
        "Answer yes or no only: is {a} longer than {b}?", "Is {a} longer than {b}? Say yes or no and nothing else.",
        "Yes or no: {a} is longer than {b}.", "Say only yes or no. Is {a} the longer word, not {b}?",
        "Longer than {b}: is {a}? Only yes or no.", "Just yes or no, please: is {a} longer than {b}?",
        "Is {a} longer than {b}? One word, yes or no."),
        lambda w, n: "yes" if len(w[0]) > len(w[1]) else "no", lambda t, w, n: t in ("yes", "no")),
    "brackets": Kind((
        "Put {a} in square brackets.", "Write {a} with square brackets round it.",
        "Square brackets around {a}, please.", "Give {a} between square brackets.", "Enclose {a} in square brackets.",
        "Set square brackets about {a}.",
        "Inside square brackets, write {a}."),
        lambda w, n: f"[{w[0]}]"),
    "semicolons": Kind((
        "Separate {a} {b} {c} with semicolons.", "Write {a} {b} {c} with semicolons between them.",
        "Put semicolons between {a} {b} {c}.", "{a} {b} {c}: divide them by semicolons.",
        "Give me {a} {b} {c} joined by semicolons.", "Join {a} {b} {c} using semicolons.",
        "With semicolons between, write {a} {b} {c}."),
        lambda w, n: "; ".join(w), lambda t, w, n: [p.strip() for p in t.split(";")] == w),
    "question": Kind((
        "Write a question that begins with the word {a}.", "Begin with {a} and ask a question.",
        "Ask something; the first word is {a}.", "A question with {a} as its first word, please.",
        "Start with {a} and end with a question mark.", "Put a question to me whose first word is {a}.",
        "First word {a}, and it must be a question."),
        lambda w, n: f"{w[0]} is where?", lambda t, w, n: t.split()[:1] == [w[0]] and t.endswith("?")),
    "quotes": Kind((
        "Write {a} {b} in double quotes.", "Quote {a} {b} with double quotes.", "Double quotes around {a} {b}, please.",
        "Give {a} {b} between double quotes.", "Say {a} {b} in double quotes.", "Set {a} {b} within double quotes.",
        "In double quotes, write {a} {b}."),
        lambda w, n: f'"{w[0]} {w[1]}"')}


def is_test(word: str) -> bool:
    """Whether a word is kept for the test."""
    return seed_of("word", word) % 5 == 0


def made(split: str, count: int, seed: int, words: Sequence[str]) -> list[Asked]:
    """So many different instructions; those of the test have words of their own, half of them phrasings of their own.

    Those of validation have training's words and phrasings.
    """
    own = [word for word in words if is_test(word) == (split == "test")]
    rng, found, names = np.random.default_rng(seed_of(seed, "asked", split)), dict[str, Asked](), list(KINDS)
    while len(found) < count:
        name = names[len(found) % len(names)]
        kind, new = KINDS[name], split == "test" and len(found) // len(names) % 2 == 1
        some = [own[i] for i in rng.choice(len(own), 3, replace=False)]
        n = int(rng.integers(2, 6))
        which = int(rng.integers(KNOWN, len(kind.phrasings))) if new else int(rng.integers(KNOWN))
        asked = kind.phrasings[which].format(a=some[0], b=some[1], c=some[2], n=n)
        answer = kind.answer(some, n)

        def check(text: str, kind: Kind = kind, some: list[str] = some, n: int = n, answer: str = answer) -> bool:
            return kind.check(text, some, n) if kind.check else text == answer
        found.setdefault(asked, Asked(name, asked, answer, check, new))
    return list(found.values())
