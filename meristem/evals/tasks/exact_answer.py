"""Short answers to questions with one right answer: facts in a context, sums, hidden rules; with worked examples.

Test documents of any corpus whose rows have an input and a target: procedural text (`corpus.toy`) or a file of pairs.
The model continues the question greedily; what it writes up to the first line end counts when it is the target.

With `shots` (GPT-3: Brown et al. 2020, section 2.4) so many worked examples come first. Where a document has its own
(the rule is the document's: `toy:mapping`), they are its first ones; else they are training documents drawn once for
all items. Baseline: what needs no network, copying the answer of an equal question among the shots, else the most
common training answer.
"""
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.core.types import Document
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.subject import prompt_ids

CHUNK = 64
LONGEST = 32                            # tokens of an answer; a longer reference is not asked for
METRIC = Metric("exact_answer", "held-out questions answered with exactly the right text", "share", "share", True)


class ExactAnswer:
    """Items are test documents with an input and a target."""

    name, version, count = "exact_answer", 1, 400
    metrics = (METRIC,)

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """A seeded choice of at most `limit` questions with an answer of at most LONGEST tokens."""
        found = [d for d in corpus.documents("test") if "target" in d.fields]
        order = np.random.default_rng(seed_of(seed, self.name)).permutation(len(found))
        return [Item(d.id, question(d), d.fields["target"]) for d in (found[i] for i in order)
                if len(codec.encode(d.fields["target"])) < LONGEST][:limit]

    def with_shots(self, corpus: Corpus, items: Sequence[Item], shots: int, seed: int) -> tuple[list[Item], list[str]]:
        """Each item after its own document's first `shots` examples, or all after the same training documents'."""
        wanted = {item.group for item in items}
        own = {d.id: d.fields["shots"] for d in corpus.documents("test") if d.id in wanted and "shots" in d.fields}
        if any(own.values()):
            if (fewest := min(map(len, own.values()))) < shots:
                raise RequestError(f"{shots} worked examples were asked for and the documents have {fewest}")
            texts = {key: "".join(f"{q}{a}\n" for q, a in pairs[:shots]) for key, pairs in own.items()}
            return [replace(i, prompt=texts[i.group] + i.prompt) for i in items], [f"#{n}" for n in range(shots)]
        training = [d for d in corpus.documents("train") if "target" in d.fields]
        if len(training) < shots:
            raise RequestError(f"{shots} worked examples were asked for and there are {len(training)} to train on")
        chosen = np.random.default_rng(seed_of(seed, self.name, "shots")).permutation(len(training))[:shots]
        before = "".join(f"{question(d)}{d.fields['target']}\n" for d in (training[i] for i in chosen))
        return [replace(i, prompt=before + i.prompt) for i in items], [training[i].id for i in chosen]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """1 for a right answer, else 0."""
        codec, outputs, cut = subject.codec, list[str](), 0
        length = max(len(codec.encode(item.answer)) for item in items) + 2     # a line end, and one to tell from
        for start in range(0, len(items), CHUNK):
            progress.update(start)
            rows = [prompt_ids(codec, i.prompt, i.begins) for i in items[start:start + CHUNK]]
            cut += sum(len(ids) > subject.room(length) for ids in rows)
            done = subject.complete(rows, length, 0.0, seed)
            outputs += [codec.decode(ids[ids != codec.end]).split("\n")[0] for ids in done]
        return replace(self._outcome(items, outputs), cut=cut)

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """Look-up among the shots, then the most common training answer."""
        count = Counter(d.fields["target"] for d in corpus.documents("train") if "target" in d.fields)
        common = max(count.items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))[0]
        return {METRIC.name: Baseline(
            f"the answer of an equal question before, else the most common training answer, {common!r}",
            self._outcome(items, [looked_up(i.prompt) or common for i in items]))}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """The target is right by definition."""
        return {}

    def _outcome(self, items: Sequence[Item], outputs: list[str]) -> Outcome:
        right = [float(out.strip() == item.answer.strip()) for item, out in zip(items, outputs, strict=True)]
        return Outcome({METRIC.name: right}, {METRIC.name: [1.0] * len(items)}, outputs)


def question(document: Document) -> str:
    """The prompt of a document: its input, with the line end that stands between it and the target in its text."""
    return document.fields["input"] + ("" if "shots" in document.fields else "\n")


def looked_up(prompt: str) -> str:
    """What the last line with the same beginning as the prompt's last line goes on with, or ""."""
    *before, asked = prompt.split("\n")
    return next((line[len(asked):] for line in reversed(before) if asked and line.startswith(asked)), "")


TASK = ExactAnswer()
