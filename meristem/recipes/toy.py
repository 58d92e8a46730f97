"""Recipes on procedural text (`corpus.toy`): abilities whose ground truth is known exactly, in minutes on one core.

`meristem curate toy:mapping --out runs/mapping.text`, then `meristem pretrain mapping data.corpus=runs/mapping.text`,
then `meristem evaluate runs/mapping --corpus runs/mapping.text --tasks exact_answer --shots 4`.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def mapping() -> Run:
    """In-context learning (GPT-3): every document has a hidden rule of its own, which only its earlier lines show.

    Command: `meristem pretrain mapping data.corpus=CORPUS --out runs/mapping` on the corpus `toy:mapping`. CPU time:
    0.6 minutes. Expected: `exact_answer` of 0.07, 0.47 and 0.96 after 0, 4 and 23 shots (seed 0; docs/results.md).
    """
    return Run(
        name="mapping",
        model=Part("llama", {"dim": 64, "layers": 3, "heads": 4, "hidden": 128, "qk_norm": True}),
        data=Data(codec=Part("char"), examples="answers"),
        train=Train(steps=300, batch=32, context=96, optimizer="muon", lr=1e-2, warmup=20, validate_every=100))


def needle() -> Run:
    """A fact somewhere in a text is asked for at its end; loss on the answer alone. `benchmarks.toy` goes to 4x.

    Command: `meristem pretrain needle data.corpus=CORPUS --out runs/needle` on the corpus `toy:needle`. CPU time: less
    than 2 minutes. Expected: `exact_answer` of 1.0 at 128 characters; at 512 0.87 with YaRN, 0.95 with its amplitude at
    1.25 (seed 0; docs/results.md).
    """
    return Run(
        name="needle",
        model=Part("llama", {"dim": 64, "layers": 3, "heads": 4, "hidden": 128, "qk_norm": True}),
        data=Data(codec=Part("char"), examples="answers"),
        train=Train(steps=500, batch=32, context=128, optimizer="muon", lr=1e-2, warmup=20, validate_every=100,
                    guard=False))       # which takes the moment when copying begins for a blow-up


def copies() -> Run:
    """Words and figures are copied byte by byte, in any place: what a base must know before it is tuned to answer.

    Command: `meristem pretrain copies data.corpus=CORPUS --out runs/copies` on the corpus `toy:copies`. CPU time: at
    most 5 minutes. Expected: `exact_answer` of 0.84 (0.80 to 0.87) at 96 characters, 0.77 at 384 (seed 0); `python -m
    benchmarks.copying` goes on with text and longer copies, to 0.97 and 0.95 (docs/results.md).
    """
    return Run(
        name="copies",
        model=Part("llama", {"dim": 128, "layers": 4, "heads": 4, "groups": 2, "hidden": 320, "tied": True,
                             "qk_norm": True, "context": 1024}),
        data=Data(codec=Part("bpe", {"vocab": 259, "special": ["<|im_start|>", "<|im_end|>"]}), examples="answers"),
        train=Train(steps=800, batch=32, context=128, optimizer="muon", lr=1e-2, warmup=20, validate_every=100,
                    guard=False))


def tutor() -> Run:
    """A sum of three digits worked column by column: whoever is asked for hint n goes on where the hints before ended.

    Command: `meristem pretrain tutor data.corpus=CORPUS --out runs/tutor` on the corpus `toy:tutor
    documents=12000`. CPU time: 1 minute. Expected: every hint of 400 new sums is right (seed 0; docs/results.md, I5).
    """
    return Run(
        name="tutor",
        model=Part("llama", {"dim": 64, "layers": 3, "heads": 4, "hidden": 128, "qk_norm": True}),
        data=Data(codec=Part("char"), examples="answers"),
        train=Train(steps=800, batch=32, context=96, optimizer="muon", lr=1e-2, warmup=20, validate_every=200,
                    guard=False))
