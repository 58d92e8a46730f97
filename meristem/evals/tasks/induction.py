"""What can be seen inside: induction heads on repeated random tokens, and how early the logit lens knows the answer.

Olsson et al. 2022, https://arxiv.org/abs/2209.11895: random tokens twice in a row can be predicted the second time by
one mechanism only, looking up what followed last time. `induction_gain` is how many nats likelier the second round is,
`induction_head` how much the head that does it most looks at the right place, `lens_half` the share of predictions
after half of the layers that are the final ones already (`evals.inside`).

    meristem evaluate RUN --corpus CORPUS --tasks induction
"""
from collections.abc import Callable, Sequence

import numpy as np
import torch

from meristem.codecs.base import Codec, begin
from meristem.core.progress import Progress
from meristem.core.random import seed_of
from meristem.corpus.store import Corpus
from meristem.evals.base import Baseline, Item, LanguageModel, Metric, Outcome, Reference
from meristem.evals.inside import induction, lens, looks
from meristem.evals.subject import Subject
from meristem.generate.base import evaluating

ON_REQUEST = RISK = True
LENGTH = 24                             # tokens of a round
METRICS = (Metric("induction_gain", "by how much random tokens are likelier when they stand there a second time",
                  "nats", "ratio", True),
           Metric("induction_head", "attention of the best head to what followed last time", "share", "ratio", True),
           Metric("lens_half", "predictions that are final after half of the layers", "share", "ratio", True))


class Induction:
    """Items are sequences of random ids; `answer` holds them as numbers."""

    name, version, count = "induction", 1, 24
    metrics = METRICS

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """Drawn from the ids that are no special tokens."""
        rng = np.random.default_rng(seed_of(seed, self.name))
        known = [i for i in range(codec.vocab) if i not in codec.marks.values()]
        return [Item(f"sequence {n}", "", " ".join(map(str, rng.choice(known, LENGTH)))) for n in range(limit)]

    def run(self, subject: LanguageModel, items: Sequence[Item], seed: int, progress: Progress) -> Outcome:
        """One pass for the gain, one for heads and layers."""
        assert isinstance(subject, Subject)
        module = subject.module
        size = min(LENGTH, (subject.context - 1) // 2)
        rows = [np.array(item.answer.split(), dtype=np.int64)[:size] for item in items]
        start = np.array([begin(subject.codec)], dtype=np.int64)
        logp = subject.score([(start, np.concatenate([row, row])) for row in rows])
        tokens = torch.from_numpy(np.stack([np.concatenate([start, row, row]) for row in rows]))
        with evaluating(module):
            heads = [induction(layer, size) for layer in looks(module, tokens)]
            said = lens(module, tokens).argmax(-1)
        best = torch.cat(heads, 1) if heads else torch.zeros(len(rows), 1)
        middle = said[max(0, (len(said) + 1) // 2 - 1)]
        values = {"induction_gain": [float(p[size:].mean() - p[:size].mean()) for p in logp],
                  "induction_head": best[:, int(best.mean(0).argmax())].tolist(),
                  "lens_half": (middle == said[-1]).float().mean(1).tolist()}
        return Outcome(values, {name: [1.0] * len(items) for name in values}, [])

    def baselines(self, corpus: Corpus, items: Sequence[Item], ngram: Callable[[], LanguageModel],
                  seed: int) -> dict[str, Baseline]:
        """A model that looks at all earlier places alike gains nothing."""
        none = [0.0] * len(items)
        alike = [1 / (1.5 * LENGTH)] * len(items)
        weights = {"induction_gain": [1.0] * len(items), "induction_head": [1.0] * len(items)}
        return {"induction_gain": Baseline("no look-up", Outcome({"induction_gain": none}, weights, [])),
                "induction_head": Baseline("looking everywhere alike", Outcome({"induction_head": alike}, weights, []))}

    def ceiling(self, items: Sequence[Item], codec: Codec) -> dict[str, Reference]:
        """There is none."""
        return {}


TASK = Induction()
