"""Small Python problems by the thousand: a docstring, the function that it describes, and tests that it passes.

Each is put together from parts whose words and code are known, so that no function of the test split is in the
training split although all its parts are: "Return the sum of the squares of the even numbers." is another function than
"Return the sum of the even numbers." The parts name the function, and its split is a hash of that name.

    for problem in problems("train"):
        print(problem.prompt + problem.answer)

`data.examples=documented_functions` trains on those of the training split, `evals.tasks.procedural_functions` asks for
those of the test split and runs the answers. A source with known answers, for machines without a benchmark's files.
"""
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import gt, lt
from typing import Any

import numpy as np
import xxhash

from meristem.core.random import seed_of

NAMES = ("solve", "compute", "answer", "result", "find")
WORDS = ("an", "sea", "ants", "rain", "stone", "river", "to", "engine", "sand", "tree", "elephant", "area", "nest",
         "rose", "arenas")
CASES = 6                               # tests of each problem


@dataclass(frozen=True)
class Problem:
    """`prompt` ends with the docstring, `answer` is the body from the line end on, `test` calls the function."""

    name: str
    prompt: str
    answer: str
    test: str


@dataclass(frozen=True)
class Part:
    """One step of a function: its name, its words in the docstring, its code and what it computes."""

    name: str
    words: str
    code: str
    does: Callable[[Any], Any]


@dataclass(frozen=True)
class Whole:
    """A function before it is written down: what it is, and what it takes, for tests."""

    name: str
    arguments: str
    words: str
    code: str
    does: Callable[..., Any]
    draw: Callable[[np.random.Generator], tuple]


def problems(split: str, limit: int = 0, seed: int = 0) -> list[Problem]:
    """Those of a split ("train", "validation", "test": 8, 1 and 1 of ten), in an order drawn by `seed`; 0: all."""
    found = [whole for whole in everything() if split_of(whole.name) == split]
    order = np.random.default_rng(seed_of(seed, "problems", split)).permutation(len(found))
    return [write(found[i]) for i in (order[:limit] if limit else order)]


def split_of(name: str) -> str:
    """The split of a function, by its name."""
    place = xxhash.xxh3_64_intdigest(name.encode()) % 10
    return {0: "test", 1: "validation"}.get(place, "train")


def everything() -> Iterator[Whole]:
    """Every function that the parts make, each once."""
    yield from on_numbers()
    yield from on_words()
    yield from on_pairs()


def write(whole: Whole) -> Problem:
    """The function as a problem; its own name and its tests are drawn by the name of its parts."""
    rng = np.random.default_rng(seed_of(0, "problem", whole.name))
    function = NAMES[int(rng.integers(len(NAMES)))]
    cases = [whole.draw(rng) for _ in range(CASES)]
    while len({repr(whole.does(*case)) for case in cases}) < 3:                # an answer without thought must not do
        cases = [whole.draw(rng) for _ in range(CASES)]
    checks = [f"    assert candidate({', '.join(map(repr, case))}) == {whole.does(*case)!r}" for case in cases]
    return Problem(whole.name, f'def {function}({whole.arguments}):\n    """Return {whole.words}."""',
                   f"\n    return {whole.code}",
                   "\n".join(["def check(candidate):", *checks, "", f"check({function})", ""]))


def divides(n: int, x: int) -> bool:
    """Whether x is a multiple of n."""
    return x % n == 0


def longer(n: int, word: str) -> bool:
    """Whether a word has more than n letters."""
    return len(word) > n


def shorter(n: int, word: str) -> bool:
    """Whether a word has fewer than n letters."""
    return len(word) < n


def has(place: int, letter: str, word: str) -> bool:
    """Whether a letter stands at a place of a word."""
    return word[place] == letter


def on_numbers() -> Iterator[Whole]:
    """Some of the numbers of a list, changed, and gathered."""
    keep = [Part("all", "numbers", "", lambda x: True),
            Part("even", "even numbers", "x % 2 == 0", lambda x: x % 2 == 0),
            Part("odd", "odd numbers", "x % 2 == 1", lambda x: x % 2 == 1),
            Part("positive", "positive numbers", "x > 0", lambda x: x > 0),
            Part("negative", "negative numbers", "x < 0", lambda x: x < 0)]
    for n in range(2, 8):
        keep += [Part(f"above-{n}", f"numbers greater than {n}", f"x > {n}", partial(lt, n)),
                 Part(f"below-{n}", f"numbers less than {n}", f"x < {n}", partial(gt, n))]
    keep += [Part(f"by-{n}", f"numbers divisible by {n}", f"x % {n} == 0", partial(divides, n))
             for n in (3, 4, 5)]
    change = [Part("same", "", "x", lambda x: x), Part("square", "squares of the ", "x * x", lambda x: x * x),
              Part("cube", "cubes of the ", "x ** 3", lambda x: x**3),
              Part("double", "doubles of the ", "2 * x", lambda x: 2 * x),
              Part("size", "absolute values of the ", "abs(x)", abs),
              Part("negated", "negatives of the ", "-x", lambda x: -x),
              Part("half", "halves, rounded down, of the ", "x // 2", lambda x: x // 2)]
    gather = [Part("sum", "the sum of the {}", "sum({})", sum), Part("list", "a list of the {}", "[{}]", list),
              Part("sorted", "a sorted list of the {}", "sorted({})", sorted),
              Part("largest", "the largest of the {}, or 0 if there are none", "max(({}), default=0)",
                   lambda found: max(found, default=0)),
              Part("smallest", "the smallest of the {}, or 0 if there are none", "min(({}), default=0)",
                   lambda found: min(found, default=0))]
    for g, c, k in itertools.product(gather, change, keep):
        loop = f"{c.code} for x in numbers" + (f" if {k.code}" if k.code else "")

        def does(numbers: list[int], g: Part = g, c: Part = c, k: Part = k) -> Any:
            return g.does([c.does(x) for x in numbers if k.does(x)])
        yield Whole(f"numbers/{g.name}/{c.name}/{k.name}", "numbers", g.words.format(c.words + k.words),
                    g.code.format(loop), does, lambda rng: (rng.integers(-9, 13, rng.integers(3, 9)).tolist(),))


def on_words() -> Iterator[Whole]:
    """Some of the words of a text, changed, and gathered."""
    keep = [Part("all", "words of the text", "", lambda w: True)]
    keep += [Part(f"longer-{n}", f"words of the text with more than {n} letters", f"len(w) > {n}",
                  partial(longer, n)) for n in (2, 3, 4, 5)]
    keep += [Part(f"shorter-{n}", f"words of the text with fewer than {n} letters", f"len(w) < {n}",
                  partial(shorter, n)) for n in (3, 4, 5)]
    keep += [Part(f"{how}-{letter}", f"words of the text that {how} with {letter!r}", f"w.{how}swith({letter!r})",
                  partial(has, place, letter))
             for how, place in (("start", 0), ("end", -1)) for letter in "aenrst"]
    change = [Part("same", "", "w", lambda w: w), Part("upper", "upper-case ", "w.upper()", str.upper),
              Part("reversed", "reversed ", "w[::-1]", lambda w: w[::-1]),
              Part("first", "first letters of the ", "w[0]", lambda w: w[0]),
              Part("last", "last letters of the ", "w[-1]", lambda w: w[-1])]
    gather = [Part("list", "a list of the {}", "[{}]", list),
              Part("sorted", "a sorted list of the {}", "sorted({})", sorted),
              Part("joined", "the {}, joined by spaces", '" ".join({})', " ".join),
              Part("dashed", "the {}, joined by dashes", '"-".join({})', "-".join)]
    for g, c, k in itertools.product(gather, change, keep):
        loop = f"{c.code} for w in text.split()" + (f" if {k.code}" if k.code else "")

        def does(text: str, g: Part = g, c: Part = c, k: Part = k) -> Any:
            return g.does([c.does(w) for w in text.split() if k.does(w)])
        yield Whole(f"words/{g.name}/{c.name}/{k.name}", "text", g.words.format(c.words + k.words), g.code.format(loop),
                    does, lambda rng: (" ".join(WORDS[i] for i in rng.integers(len(WORDS), size=rng.integers(3, 9))),))


def on_pairs() -> Iterator[Whole]:
    """Two numbers joined by an operation, then changed by a constant."""
    join = [("sum", "the sum of {}", "({} + {})", lambda a, b: a + b),
            ("difference", "the difference of {}", "({} - {})", lambda a, b: a - b),
            ("product", "the product of {}", "({} * {})", lambda a, b: a * b),
            ("larger", "the larger of {}", "max({}, {})", max), ("smaller", "the smaller of {}", "min({}, {})", min)]
    alone = [("same", "a and b", "a", "b", lambda x: x), ("square", "the squares of a and b", "a * a", "b * b",
                                                          lambda x: x * x),
             ("size", "the absolute values of a and b", "abs(a)", "abs(b)", abs)]
    then = [("plus", "plus {}", "{} + {}", lambda x, n: x + n), ("minus", "minus {}", "{} - {}", lambda x, n: x - n),
            ("times", "times {}", "{} * {}", lambda x, n: x * n)]
    for (j, jw, jc, jf), (s, sw, sa, sb, sf), (t, tw, tc, tf), n in itertools.product(join, alone, then, range(2, 10)):
        def does(a: int, b: int, jf: Callable = jf, sf: Callable = sf, tf: Callable = tf, n: int = n) -> int:
            return tf(jf(sf(a), sf(b)), n)
        yield Whole(f"pairs/{j}/{s}/{t}-{n}", "a, b", f"{jw.format(sw)}, {tw.format(n)}",
                    tc.format(jc.format(sa, sb), n), does, lambda rng: tuple(rng.integers(-9, 13, 2).tolist()))
