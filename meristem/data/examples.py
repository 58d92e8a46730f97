"""Examples with a prompt and an answer, drawn from a corpus; only the answer is trained on.

One function an entry, named by `run.data.examples`: `find("function_bodies")(corpus, "train")`. `Completions` turns
examples into batches: several in a row, each followed by the end token, none cut, weight 1 on the answer and its end.
"""
import ast
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError, nearest
from meristem.core.random import seed_of
from meristem.core.types import Batch
from meristem.corpus.store import Corpus
from meristem.data.loader import Order, batch_of
from meristem.data.problems import problems

Pair = tuple[np.ndarray, np.ndarray]              # the tokens of a prompt and of its answer
LONGEST_PROMPT, LONGEST_ANSWER = 1200, 400        # characters
LONGEST_BLOCK = 4000                    # characters looked at, indentation and following comments included
DEFINITION = re.compile(r"^([ \t]*)(?:async )?def ", re.MULTILINE)
DOCSTRING = re.compile(r":[ \t]*(?:#.*)?\n\s+[rRuU]?[\"']")


@dataclass(frozen=True)
class Example:
    """`prompt` is given, `answer` is to be written; `document` is the id of the corpus document that both stand in.

    `before` are questions with answers that come first, and are trained on too.
    """

    prompt: str
    answer: str
    document: str
    before: tuple[tuple[str, str], ...] = ()


def find(name: str) -> Callable[[Corpus, str], list[Example]]:
    """An entry of this file by name; RequestError names the nearest."""
    if name not in ENTRIES:
        raise RequestError(f"no examples {name!r}; {nearest(name, ENTRIES)}")
    return ENTRIES[name]


def function_bodies(corpus: Corpus, split: str) -> list[Example]:
    """Python functions that have a docstring: the prompt ends with it, the answer is the rest, from the line end on.

    Both are moved to column 0 together and are valid Python. Sources that this Python cannot parse are passed over.
    Sorted by document and place; a prompt that occurs twice is taken once.
    """
    found: dict[str, Example] = {}
    for document in corpus.documents(split):
        if document.meta["kind"] == "code" and document.meta["path"].endswith((".py", ".pyi")):
            for prompt, answer in _functions(document.text):
                found.setdefault(prompt, Example(prompt, answer, document.id))
    return list(found.values())


def answers(corpus: Corpus, split: str) -> list[Example]:
    """Documents of questions with short answers (`corpus.toy`): every answer and its line end, given all before it."""
    return [Example(d.fields["input"], d.fields["target"] + "\n", d.id,
                    tuple((question, answer + "\n") for question, answer in d.fields["shots"]))
            for d in corpus.documents(split) if "shots" in d.fields]


def documented_functions(corpus: Corpus, split: str) -> list[Example]:
    """The corpus's `function_bodies`, and the made-up functions of the same split (`data.problems`), each once."""
    made = [Example(p.prompt, p.answer, p.name) for p in problems(split)]
    return [*function_bodies(corpus, split), *made]


ENTRIES = {"function_bodies": function_bodies, "answers": answers, "documented_functions": documented_functions}


def _parse(source: str) -> list[ast.stmt]:
    """The statements of a source; none when this Python cannot parse it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                        # old sources have escapes that are warned of
        try:
            return ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return []


def _functions(source: str) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of each function with a docstring and a body after it, in the order of the source.

    Blocks are found by indentation and only the short ones that may have a docstring are parsed: 10 times faster than
    parsing whole files, and a file that has one function of another Python's syntax still gives its others.
    """
    for found in DEFINITION.finditer(source):
        indent, start = found.group(1), found.start()
        stop = start + len(indent) + LONGEST_BLOCK
        block = _block(source[start:stop].split("\n"), indent, stop >= len(source))
        if not block or not DOCSTRING.search(text := "\n".join(line[len(indent):].rstrip() for line in block)):
            continue
        statements = _parse(text)
        if len(statements) != 1 or not isinstance(f := statements[0], ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if len(f.body) < 2 or ast.get_docstring(f, clean=False) is None:
            continue
        lines, end = text.split("\n"), f.body[0].end_lineno or 0
        prompt, answer = "\n".join(lines[:end]), "\n" + "\n".join(lines[end:])
        if len(prompt) <= LONGEST_PROMPT and len(answer) <= LONGEST_ANSWER and prompt.endswith(("'", '"')):
            yield prompt, answer


def _block(lines: list[str], indent: str, ends: bool) -> list[str]:
    """The lines of the function that starts `lines`, up to the next statement outside; [] when that is not seen.

    `ends`: the file ends with `lines`, and so does a function that nothing follows.
    """
    inside = (" ", "\t", ")")                                   # `)` ends a long signature
    stop = next((n for n, line in enumerate(lines) if n and line.strip() and not line.lstrip().startswith("#")
                 and not (line.startswith(indent) and line[len(indent):].startswith(inside))),
                len(lines) if ends else 0)
    while stop > 1 and (not (bare := lines[stop - 1].strip()) or bare.startswith("#")):
        stop -= 1                                              # comments and blank lines after the last statement
    return lines[:stop] if all(line.startswith(indent) or not line.strip() for line in lines[:stop]) else []


class Completions:
    """A source for `Trainer`: rows of whole examples. Those longer than a row are left out and counted in `skipped`."""

    def __init__(self, examples: Sequence[Example], codec: Codec, context: int, batch: int, seed: int, *,
                 micro: int = 0, rank: int = 0, world: int = 1) -> None:
        texts = [[*e.before, (e.prompt, e.answer)] for e in examples]
        prompts = iter(codec.encode_batch([prompt for some in texts for prompt, _ in some]))
        answers = iter(codec.encode_batch([answer for some in texts for _, answer in some]))
        every = [[(next(prompts), next(answers)) for _ in some] for some in texts]
        fit = [pairs for pairs in every if _tokens(pairs) <= context + 1]
        self.skipped = len(examples) - len(fit)
        if not examples:
            raise RequestError("the corpus gives no examples; function_bodies needs Python functions with docstrings, "
                               "answers a corpus of toy text")
        if not fit:
            raise RequestError(f"none of {len(examples)} examples fits {context} tokens; raise train.context")
        self.tokens, self.weight = _rows(fit, codec.end, context, seed)
        self.order = Order(len(self.tokens), batch, seed, micro, rank, world)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update: tokens int64 [B, context + 1], weight float32 [B, context]."""
        return [batch_of(self.tokens[rows].astype(np.int64), self.weight[rows].astype(np.float32))
                for rows in self.order(step)]


def _tokens(pairs: Sequence[Pair]) -> int:
    """How long an example is, its end token included."""
    return sum(len(prompt) + len(answer) for prompt, answer in pairs) + 1


def _rows(examples: list[list[Pair]], end: int, context: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 [R, context + 1] tokens, bool [R, context] weights: examples shuffled, next fit, padded with `end`."""
    rows: list[list[list[Pair]]] = []
    room = 0
    for index in np.random.default_rng(seed_of(seed, "pack")).permutation(len(examples)):
        need = _tokens(examples[index])
        if need > room:
            rows.append([])
            room = context + 1
        rows[-1].append(examples[index])
        room -= need
    tokens = np.full((len(rows), context + 1), end, dtype=np.int32)
    weight = np.zeros((len(rows), context + 1), dtype=bool)
    for r, row in enumerate(rows):
        at = 0
        for pairs in row:
            for prompt, answer in pairs:
                middle, stop = at + len(prompt), at + len(prompt) + len(answer)
                tokens[r, at: middle], tokens[r, middle: stop] = prompt, answer
                weight[r, middle: stop] = True
                at = stop
            weight[r, at] = True                               # the end token too: a model must learn to stop
            at += 1
    return tokens, weight[:, 1:]
