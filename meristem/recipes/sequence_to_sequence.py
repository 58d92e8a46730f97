"""Encoder-decoder recipes: T5 by span corruption, and text-to-text tasks with it or from scratch.

A task is a file of lines {"input": "reverse: abc", "target": "cba"}; several tasks in one file are told apart by the
words their inputs begin with, as T5 and FLAN do it. `generate.seq2seq.answers` asks the result.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

SENTINELS = [f"<extra_id_{n}>" for n in range(32)]
SHAPE = {"feed_forward": "gated-gelu", "tied": False}           # v1.1


def t5() -> Run:
    """A small T5 v1.1 pretrained by span corruption on any corpus: 284 tokens of text give 256 of source, 58 of target.

    Command: `meristem pretrain t5 data.corpus=CORPUS --out runs/t5`. CPU time: not measured yet. Expected: a
    loss that falls from ln 4096 = 8.32 nats; it is that of the hidden tokens alone, its end is not measured yet.
    """
    return Run(
        name="t5",
        model=Part("t5", {"dim": 256, "layers": 4, "heads": 4, "hidden": 704, **SHAPE}),
        objective=Part("span_corruption"),
        data=Data(codec=Part("bpe", {"vocab": 4096, "special": SENTINELS})),
        train=Train(steps=800, batch=16, context=284, optimizer="muon", lr=1e-2, validate_every=200))


def flan() -> Run:
    """Fine-tuning of a T5 on text-to-text tasks (FLAN, Chung et al. 2022: a constant rate, dropout 0.05 if wanted).

    Command: `meristem pretrain flan base=runs/t5 data.corpus=TASKS.jsonl --out runs/flan`. CPU time: not measured
    yet. Expected: two answers learned in 100 steps (tests/recipes); scores of real tasks are not measured yet.
    """
    return Run(
        name="flan", model=Part("t5", SHAPE), objective=Part("seq2seq"), data=Data(examples="pairs"),
        train=Train(steps=400, batch=16, context=256, lr=1e-3, warmup=20, weight_decay=0.0, schedule="wsd", decay=0.1))


def text_to_text() -> Run:
    """One small T5 v1.1 for all tasks of a file, from scratch, on characters.

    Command: `meristem pretrain text_to_text data.corpus=TASKS.jsonl --out runs/tasks`. CPU time: minutes; not measured
    whole. Expected after 1,000 updates: 90 % of words sorted, 90 % of Roman numbers read, 98 % of sentences in a
    made-up language, 14 % of words reversed (docs/results.md, A9); `python -m benchmarks.text_to_text` scores it.
    """
    return Run(
        name="text_to_text",
        model=Part("t5", {"dim": 128, "layers": 3, "heads": 4, "head_dim": 32, "hidden": 352, **SHAPE}),
        objective=Part("seq2seq"),
        data=Data(codec=Part("char"), examples="pairs"),
        train=Train(steps=1600, batch=16, context=128, optimizer="muon", lr=5e-3, warmup=20, validate_every=400))
