"""Classifiers that sort corpora: small, linear in n-grams, trained on labelled rows in seconds.

`meristem curate --stages "quality:run=RUN,keep=LABEL"` uses one, as do the stages `toxicity` and `domain`. Times are
for one thread.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def quality() -> Run:
    """A fastText classifier of texts, by whatever labels the rows have: good and bad, toxic and not, domains.

    Command: `meristem pretrain quality data.corpus=ROWS.jsonl --out runs/quality`; each line of the file has text and
    label. CPU time: 5 seconds. Expected on four fifths of HateCheck's templates: 74.6 % of the sentences of the
    other fifth right (600 steps, docs/results.md, F5).
    """
    return Run(
        name="quality",
        model=Part("fasttext", {"head": "sequence", "dim": 16, "buckets": 1 << 16}),
        objective=Part("classify", {}),
        data=Data(codec=Part("wordpiece", {"vocab": 8192}), examples="labels"),
        train=Train(steps=600, batch=64, context=256, lr=2e-2, warmup=20, weight_decay=0.0, dtype="float32",
                    compile=False, guard=False))
