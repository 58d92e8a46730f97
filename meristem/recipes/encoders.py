"""Encoders: BERT, RoBERTa and DistilBERT from scratch, and fine-tuning them on labelled rows.

`benchmarks/encoders.py` runs these on sentence polarity and prints the table of docs/results.md. Times: one core.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

SHAPE = {"dim": 128, "layers": 4, "heads": 4, "dropout": 0.0, "std": 0.05}      # 0.02 at 768: as 1 / sqrt(dim)
WORDS = Part("wordpiece", {"vocab": 4096})


def bert() -> Run:
    """A small BERT: masked words, ten fixed maskings a row, and whether sentence B follows A.

    Command: `meristem pretrain bert data.corpus=CORPUS --out runs/bert`. CPU time: 1.8 minutes
    for 983 steps of it and 500 of `roberta`, which spend the same. Expected then: 5.03 nats a hidden token in pairs of
    the standard library's sources, 5.11 in running text, where `roberta` has 4.93 (docs/results.md, A7).
    """
    return Run(
        name="bert",
        model=Part("bert", {**SHAPE, "head": "pretraining"}),
        objective=Part("next_sentence", {"static": 10}),
        data=Data(codec=WORDS, examples="sentence_pairs"),
        train=Train(steps=6000, batch=16, context=64, lr=2e-3, warmup=200, validate_every=1000))


def roberta() -> Run:
    """The same network as RoBERTa trains it: masks drawn anew each time, text without pairs, more rows an update.

    The vocabulary is WordPiece, as the `bert` recipe's, so that their losses can be compared.
    Command: `meristem pretrain roberta data.corpus=CORPUS --out runs/roberta`. CPU time: 5.0 minutes
    for 1,500 steps on film reviews and ten of `classify`. Expected: 6.2 nats a hidden token there after them, 3.7 after
    5,000 on rows of 16 and 3,000 on rows of 64, of which 200 labels gain nothing either (docs/results.md, A6).
    """
    return Run(
        name="roberta",
        model=Part("bert", {**SHAPE, "kind": "roberta", "head": "lm"}),
        objective=Part("masked", {}),
        data=Data(codec=WORDS, examples="full_sentences"),
        train=Train(steps=3000, batch=32, context=64, lr=2e-3, warmup=100, validate_every=500))


def classify() -> Run:
    """Classes of texts: fine-tune an encoder (`base`), or with `base=` empty train the same network from nothing.

    Command: `meristem pretrain classify data.corpus=ROWS.jsonl base=runs/roberta --out runs/classify`; each line of the
    file has text and label. CPU time: less than half a minute. Expected: 58 % of sentences of film reviews right
    after 200 labels, with a base pretrained for minutes, with none, and by logistic regression on words (A6 there).
    No guard: few rows are soon known by heart, after which a gradient of ordinary size looks like a spike.
    """
    return Run(
        name="classify",
        model=Part("bert", {**SHAPE, "kind": "roberta", "head": "sequence"}),
        objective=Part("classify", {}),
        data=Data(codec=WORDS, examples="labels"),
        train=Train(steps=150, batch=32, context=64, lr=5e-4, warmup=15, guard=False))


def distilbert() -> Run:
    """Half of recipe roberta's layers learn from its model as DistilBERT did: soft targets, masked words, directions.

    The weights are the paper's 5 : 2 : 1, the corpus is the teacher's.
    Command: `meristem pretrain distilbert objective.teacher=runs/roberta data.corpus=CORPUS --out runs/distilbert`.
    CPU time: 4.1 minutes for 2,000 steps with the teacher and 2,000 without. Expected: 64.2 % by a probe, where its
    teacher has 65.1 % and the same student without one 61.2 % (docs/results.md, A8).
    """
    return Run(
        name="distilbert",
        model=Part("bert", {**SHAPE, "layers": 2, "kind": "distilbert", "head": "lm"}),
        objective=Part("distillation", {"inner": "masked", "temperature": 2.0, "alpha": 5 / 7, "cosine": 1 / 7}),
        data=Data(codec=WORDS, examples="full_sentences"),
        train=Train(steps=3000, batch=32, context=64, lr=2e-3, warmup=100, validate_every=500))
