"""Does a sampled continuation of a held-out source file still parse as Python?

A prompt is a run of whole top-level statements of a test file, from its beginning or (further items of the same file)
from a later statement, so the prompt parses by itself. The model adds 64 tokens at temperature 0.8; the last line is
dropped unless the model ended the document; the completion passes when prompt + completion parses and it adds at least
one line that is neither blank nor a comment. A cut after 64 tokens may fall inside a function or a string, so the
ceiling, the human continuation cut the same way, is far below 100 % and is printed beside the score.

The second score, `valid_so_far`, does not blame the model for our cut: it passes, too, what Python's own parser calls
incomplete input, a text with no error in it but its end (an open bracket, string or block). Its ceiling is near 1.
"""
import ast
import codeop
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.subject import prompt_ids

LENGTH, TEMPERATURE = 64, 0.8
SHORTEST, LONGEST = 120, 800            # characters of a prompt: fits a context of 256 tokens beside the completion
ANSWER = 600                            # characters of the human continuation kept (64 tokens are about 200)
CHUNK = 64
METRIC = Metric("parses_as_python", "64-token completions of held-out source files that parse", "share", "share", True)
VALID = Metric("valid_so_far", "64-token completions without a syntax error before their cut-off end", "share", "share",
               True)
# how the interactive prompt asks
UNFINISHED = codeop.PyCF_ALLOW_INCOMPLETE_INPUT | ast.PyCF_ONLY_AST            # type: ignore[attr-defined]


class ParsesAsPython:
    """Items are beginnings of test files."""

    name, version, count = "parses_as_python", 2, 200
    metrics = (METRIC, VALID)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """One prompt a file in turn, until `limit` is reached or no file has another."""
        files = [(d.id, d.text) for d in corpus.documents("test") if d.meta["path"].endswith(".py")]
        rng = np.random.default_rng(seed_of(seed, self.name))
        queues = [prompts(*files[i]) for i in rng.permutation(len(files))]
        rounds = range(max(map(len, queues), default=0))
        return [queue[r] for r in rounds for queue in queues if r < len(queue)][:limit]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """1 for a completion that passes, else 0; the same completions for both scores."""
        outputs, cut = list[str](), 0
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            rows = [prompt_ids(subject.codec, i.prompt, i.begins) for i in items[start:start + CHUNK]]
            cut += sum(len(ids) > subject.room(LENGTH) for ids in rows)
            done = subject.complete(rows, LENGTH, TEMPERATURE, seed_of(seed, self.name, start))
            outputs += [finished(subject.codec, ids) for ids in done]
        return judged(items, outputs, cut)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The 5-gram's completions by the same procedure."""
        made = self.run(ngram(), items, seed, Progress())
        return {name: Baseline("Kneser-Ney 5-gram of the same training tokens, same procedure", made)
                for name in made.values}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The human continuation, cut after the same 64 tokens."""
        rows = [np.append(codec.encode(i.answer), [codec.end] * i.ends)[:LENGTH] for i in items]
        made = judged(items, [finished(codec, ids) for ids in rows])
        return {name: Reference(sum(values) / len(values), "the human continuation, cut the same way")
                for name, values in made.values.items()}


def judged(items: Sequence[Item], outputs: list[str], cut: int = 0) -> Outcome:
    """Both scores of completions that are there."""
    pairs = list(zip(items, outputs, strict=True))
    values = {METRIC.name: [float(passes(i.prompt, text)) for i, text in pairs],
              VALID.name: [float(passes(i.prompt, text, unfinished=True)) for i, text in pairs]}
    return Outcome(values, {name: [1.0] * len(items) for name in values}, outputs, cut)


def prompts(document: str, text: str) -> list[Item]:
    """Runs of whole top-level statements that together cover the file, each with what follows it; [] if none parse."""
    tree = parse(text)
    if tree is None:
        return []
    lines = [line + "\n" for line in text.split("\n")]         # as the parser counts lines: a form feed is not an end
    ends = sorted({s.end_lineno or 0 for s in tree.body})
    out, first = [], 0
    for end in ends:
        prompt = "".join(lines[first:end])
        rest = "".join(lines[end:])
        if len(prompt) < SHORTEST or not rest.strip():
            continue
        if len(prompt) <= LONGEST and prompt.endswith("\n") and parse(prompt) is not None:
            out.append(Item(document, prompt, rest[:ANSWER], first == 0, len(rest) <= ANSWER))
        first = end
    return out


def finished(codec: Codec, ids: np.ndarray) -> str:
    """A completion's text without its last, unfinished line; whole where the model ended the document."""
    if len(ids) and int(ids[-1]) == codec.end:
        return codec.decode(ids[:-1])
    return codec.decode(ids).rpartition("\n")[0] + "\n"


def passes(prompt: str, completion: str, unfinished: bool = False) -> bool:
    """The text parses (or may be `unfinished`) and the completion holds a line that is neither blank nor a comment."""
    lines = (line.strip() for line in completion.splitlines())
    if not any(line and not line.startswith("#") for line in lines):
        return False
    return parse(prompt + completion) is not None or (unfinished and incomplete(prompt + completion))


def parse(text: str) -> ast.Module | None:
    """The syntax tree, or None for anything the parser refuses (hostile nesting and null bytes included)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def incomplete(text: str) -> bool:
    """Whether the only thing wrong with a text is that it ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "completion", "exec", UNFINISHED)
        except SyntaxError as error:
            return error.msg == "incomplete input"
        except (ValueError, RecursionError, MemoryError):
            pass
    return False


TASK = ParsesAsPython()
