"""The text watermark of `generate.watermark`: how surely it is found in the model's own text, and what it costs.

Each prompt is continued twice at temperature 1, with and without the mark. The area under the detector's ROC curve, the
share found and the share of plain texts wrongly called marked at z > THRESHOLD, and how many nats a token likelier the
plain text is.

    meristem evaluate RUN --corpus CORPUS --tasks watermark
"""
from collections.abc import Callable, Sequence

import numpy as np

from meristem.codecs.base import Codec
from meristem.core.progress import Progress
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.bound import drawn
from meristem.evals.statistics import placements
from meristem.evals.subject import Subject, prompt_ids
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling
from meristem.generate.watermark import Key

ON_REQUEST = RISK = True
WORD = "certificate"                    # any key serves
LENGTH = 64                             # tokens of a text
BEFORE = 100                            # characters of a prompt
THRESHOLD = 3.0
METRICS = (Metric("watermark_auc", "watermarked texts told from plain ones by the detector", "area", "ratio", True),
           Metric("watermark_found", f"watermarked texts of {LENGTH} tokens that are found at z > {THRESHOLD:g}",
                  "share", "share", True),
           Metric("watermark_false", "plain texts called watermarked", "share", "share", False),
           Metric("watermark_cost", "by how much the watermark makes a token less likely", "nats", "ratio", False))


class Watermark:
    """Items are beginnings of test documents."""

    name, version, count = "watermark", 1, 60
    metrics = METRICS

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """A seeded choice of documents."""
        found = [d for d in corpus.documents("test") if d.text.strip()]
        return [Item(d.id, d.text[:BEFORE], "") for d in drawn(found, limit, seed, self.name)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """Both texts of every prompt."""
        assert isinstance(subject, Subject)
        codec = subject.codec
        length = min(LENGTH, subject.context // 2)
        rows = [prompt_ids(codec, i.prompt, i.begins)[-(subject.context - length):] for i in items]
        key = Key(WORD, vars(subject.module.config)["vocab"])
        z, logp = {}, {}
        for word in ("", WORD):
            done = generate(subject.module, rows, Sampling(length=length, temperature=1.0, seed=seed, watermark=word))
            z[word] = [key.found([int(row[-1]), *one.tokens]).z for row, one in zip(rows, done, strict=True)]
            logp[word] = [float(np.mean(one.logprobs)) for one in done]
            progress.update(len(items) * len(z) // 2)
        area = np.array(placements(z[""] + z[WORD], [False] * len(items) + [True] * len(items))).reshape(2, -1).mean(0)
        values = {"watermark_auc": area.tolist(), "watermark_found": [float(x > THRESHOLD) for x in z[WORD]],
                  "watermark_false": [float(x > THRESHOLD) for x in z[""]],
                  "watermark_cost": [a - b for a, b in zip(logp[""], logp[WORD], strict=True)]}
        return Outcome(values, {name: [1.0] * len(items) for name in values},
                       [codec.decode(one.tokens) for one in done])

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """None: what the detector says of plain text is a metric of its own."""
        return {}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """There is none."""
        return {}

    def chance(self, items: Sequence[Item]) -> dict[str, Reference]:
        """A detector without the key."""
        return {"watermark_auc": Reference(0.5, "without the key"),
                "watermark_false": Reference(0.00135, "a normal deviate above 3")}


TASK = Watermark()
