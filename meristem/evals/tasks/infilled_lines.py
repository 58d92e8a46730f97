"""Fill in one line of a held-out Python file from what stands before and after it.

Single-line infilling as in Bavarian et al. 2022, https://arxiv.org/abs/2207.14255 section 2.2, on real files: any line
of code that is no comment and no string, up to four of a file. The model sees up to 400 characters before the line, its
indentation included, and up to 200 after it, and writes greedily; what it wrote up to the first line end counts as
right when it equals the author's line, trailing spaces apart. A model whose tokenizer has the sentinel tokens is asked
to fill the gap in SPM order, in which the text before the gap stands right before it; any other goes on from the text
before it, which is what the left-to-right comparison of FIM papers does. Baseline: the training split's most common
line. Version 2: lines of 3 to 7 characters too, four a file instead of one, SPM instead of PSM.
"""
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.subject import prompt_ids
from meristem.generate.infill import Sentinels, prompt

LENGTH = 48                             # tokens of a completion
CHUNK = 64
EACH = 4                                # lines of a file, at most
BEFORE, AFTER = 400, 200                # characters of context, in whole lines
SHORTEST, LONGEST = 3, 60               # characters of a line that is asked for, without its indentation
EXACT = Metric("line_exact", "held-out lines equal to the author's", "share", "share", True)


class InfilledLines:
    """Items are lines of test files."""

    name, version, count = "infilled_lines", 2, 200
    metrics = (EXACT,)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """One line of each Python file in turn, files and lines chosen by `seed`, until `limit` or EACH is reached."""
        files = [d for d in corpus.documents("test") if is_python(d.meta)]
        order = np.random.default_rng(seed_of(seed, self.name)).permutation(len(files))
        found = [lines_of(files[i].id, files[i].text, seed) for i in order]
        return [lines[turn] for turn in range(EACH) for lines in found if turn < len(lines)][:limit]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Greedy lines compared with the author's."""
        ask, outputs, cut = asker(subject), list[str](), 0
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            rows = [ask(item) for item in items[start:start + CHUNK]]
            cut += sum(shortened for _, shortened in rows)
            done = subject.complete([ids for ids, _ in rows], LENGTH, 0.0, seed)
            outputs += [subject.codec.decode(ids[ids != subject.codec.end]).split("\n")[0] for ids in done]
        return replace(self._outcome(items, outputs), cut=cut)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """The most common line of the training split that could have been asked for."""
        count = Counter(line.strip() for d in corpus.documents("train") if is_python(d.meta)
                        for line in d.text.split("\n") if askable(line))
        common = max(count.items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))[0]
        return {EXACT.name: Baseline(f"always the most common training line, {common!r}",
                                     self._outcome(items, [common] * len(items)))}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The author's line is right by definition."""
        return {}

    def _outcome(self, items: Sequence[Item], outputs: list[str]) -> Outcome:
        right = [float(out.rstrip() == item.answer) for item, out in zip(items, outputs, strict=True)]
        return Outcome({EXACT.name: right}, {EXACT.name: [1.0] * len(items)}, outputs)


def asker(subject: LanguageModel) -> Callable[[Item], tuple[np.ndarray, bool]]:
    """How a subject is asked: item -> prompt ids, and whether some of the text had to be left out."""
    codec, room = subject.codec, subject.room(LENGTH)
    try:
        Sentinels.of(codec)
    except RequestError:
        def before(item: Item) -> tuple[np.ndarray, bool]:
            ids = prompt_ids(codec, item.prompt, item.begins)
            return ids, len(ids) > room
        return before

    def around(item: Item) -> tuple[np.ndarray, bool]:
        whole = prompt(codec, item.prompt, item.suffix, spm=True, begins=item.begins)
        if len(whole) <= room:
            return whole, False
        return prompt(codec, item.prompt, item.suffix, spm=True, room=int(room), begins=item.begins), True
    return around


def is_python(meta: dict) -> bool:
    """Whether a document is a Python source."""
    return meta["kind"] == "code" and meta["path"].endswith((".py", ".pyi"))


def askable(line: str) -> bool:
    """Whether a line is code of a length that is asked for: no comment, nothing with letters missing."""
    code = line.strip()
    return SHORTEST <= len(code) <= LONGEST and not code.startswith(("#", '"', "'")) and any(c.isalpha() for c in code)


def lines_of(group: str, text: str, seed: int) -> list[Item]:
    """At most EACH lines of a file with what stands around them; only lines that have three more on either side."""
    lines = text.split("\n")
    places = [i for i in range(3, len(lines) - 3) if askable(lines[i])]
    order = np.random.default_rng(seed_of(seed, "line", group)).permutation(len(places))
    return [_item(group, lines, places[n]) for n in order[:EACH]]


def _item(group: str, lines: list[str], at: int) -> Item:
    answer = lines[at].strip()
    indent = lines[at][:len(lines[at]) - len(lines[at].lstrip())]
    before, after = lines[:at], lines[at + 1:]
    while len(before) > 1 and sum(map(len, before)) + len(before) > BEFORE:
        before = before[1:]
    while len(after) > 1 and sum(map(len, after)) + len(after) > AFTER:
        after = after[:-1]
    return Item(group, "\n".join([*before, indent]), answer, begins=len(before) == at, ends=False,
                suffix="\n" + "\n".join(after))


TASK = InfilledLines()
