"""Fill in a function's body from its signature and docstring, on functions of held-out files.

The model continues the prompt greedily; the body ends at the first line indented less than its first line. Three
scores: the whole body equals the author's (compared as syntax trees, so spacing and comments do not count; as text
where one of them does not parse), its first line does, and bits per byte of the author's body given the prompt. Bodies
over 96 tokens are left out; a prompt longer than the model's context less that is read from where it fits, and the
certificate says how many were (`cut`). Baselines: the training split's most common body and first line; the 5-gram.
"""
import ast
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.data.examples import Example, function_bodies
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.subject import prompt_ids
from meristem.evals.tasks.bits_per_byte import answer_bits, answer_bytes
from meristem.evals.tasks.parses_as_python import parse

LENGTH = 96                             # tokens of a completion; longer reference bodies are not asked for
CHUNK = 64
EXACT = Metric("body_exact", "function bodies equal to the author's", "share", "share", True)
FIRST = Metric("body_first_line", "first lines of function bodies equal to the author's", "share", "share", True)
BITS = Metric("body_bits_per_byte", "bits per byte of the author's body given the prompt", "bits/byte", "ratio", False)


class FunctionBodies:
    """Items are documented functions of test files."""

    name, version, count = "function_bodies", 2, 200
    metrics = (EXACT, FIRST, BITS)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """A seeded choice of at most `limit` functions of at most LENGTH tokens, from as many files as possible."""
        found = list(function_bodies(corpus, "test"))
        order = np.random.default_rng(seed_of(seed, self.name)).permutation(len(found))
        turn: Counter[str] = Counter()
        ranked: list[tuple[int, int, Example]] = []
        for i in order:
            ranked.append((turn[found[i].document], len(ranked), found[i]))
            turn[found[i].document] += 1
        out: list[Item] = []
        for _, _, example in sorted(ranked, key=lambda r: r[:2]):
            if len(out) == limit:
                break
            if len(codec.encode(example.answer)) < LENGTH:
                out.append(Item(example.document, example.prompt, example.answer, ends=False))
        return out

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Greedy bodies compared with the author's, and bits of the author's."""
        codec, outputs, cut = subject.codec, list[str](), 0
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            part = items[start:start + CHUNK]
            prompts = [prompt_ids(codec, i.prompt, i.begins) for i in part]
            cut += sum(len(ids) > subject.room(LENGTH) for ids in prompts)
            done = subject.complete(prompts, LENGTH, 0.0, seed)
            outputs += [body(i.prompt, codec.decode(ids[ids != codec.end])) for i, ids in zip(part, done, strict=True)]
        return replace(self._outcome(items, outputs, answer_bits(subject, items)), cut=cut)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The most common body and first line of the training split; the 5-gram's bits."""
        bodies = [body(e.prompt, e.answer) for e in function_bodies(corpus, "train")]
        common, first = _most_common(bodies), _most_common(map(first_line, bodies))
        bits = answer_bits(ngram(), items)
        return {EXACT.name: Baseline(f"always the most common training body, {common.strip()!r}",
                                     self._outcome(items, [common] * len(items), bits)),
                FIRST.name: Baseline(f"always the most common first line in training, {first.strip()!r}",
                                     self._outcome(items, [first] * len(items), bits)),
                BITS.name: Baseline("Kneser-Ney 5-gram of the same training tokens",
                                    self._outcome(items, [""] * len(items), bits))}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The author's body is right by definition."""
        return {}

    def _outcome(self, items: Sequence[Item], outputs: list[str], bits: list[float]) -> Outcome:
        wanted = [body(i.prompt, i.answer) for i in items]
        pairs = list(zip(outputs, wanted, strict=True))
        values = {EXACT.name: [float(normal(a) == normal(b)) for a, b in pairs],
                  FIRST.name: [float(first_line(a) == first_line(b)) for a, b in pairs], BITS.name: bits}
        ones = [1.0] * len(items)
        return Outcome(values, {EXACT.name: ones, FIRST.name: ones, BITS.name: answer_bytes(items)}, outputs)


def body(prompt: str, text: str) -> str:
    """The block that begins `text`, up to a line indented less than its first (whose indent may be in the prompt)."""
    tail = prompt.rpartition("\n")[2]
    lines = ((tail if tail.isspace() else "") + text).split("\n")
    written = [line for line in lines if line.strip()]
    if not written:
        return ""
    indent = len(written[0]) - len(written[0].lstrip())
    kept = []
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) < indent:
            break
        kept.append(line)
    return "\n".join(kept).strip("\n")


def normal(text: str) -> str:
    """A body as its syntax tree, or as its stripped text where it does not parse."""
    block = textwrap.indent(textwrap.dedent(text), "    ")
    tree = parse("def _():\n" + block + "\n") if text.strip() else None
    return ast.dump(tree) if tree is not None else text.strip()


def first_line(text: str) -> str:
    """The first line that is not blank, stripped."""
    return next((line.strip() for line in text.split("\n") if line.strip()), "")


def _most_common(texts: Iterable[str]) -> str:
    return max(Counter(texts).items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))[0]


TASK = FunctionBodies()
