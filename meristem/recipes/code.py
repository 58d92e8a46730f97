"""Code recipes: a decoder of Python sources, the same one taught to fill gaps, and functions from their docstrings.

    meristem curate $(python3 -c "import sysconfig; print(sysconfig.get_path('stdlib'))") --out runs/corpus
    meristem pretrain code data.corpus=runs/corpus --out runs/code

Times are process minutes of one thread. docs/code.md walks through them; docs/results.md has what was measured.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

# 1.24 M parameters, 5.1 M tokens. Normalised queries and keys: under Muon 2.917 instead of 3.148 nats (docs/log.md).
SHAPE = Part("llama", {"dim": 128, "layers": 4, "heads": 4, "groups": 2, "hidden": 320, "tied": True, "qk_norm": True})
BUDGET = Train(steps=1000, batch=20, context=256, optimizer="muon", lr=0.015, warmup=60, schedule="wsd", decay=0.6,
               floor=0.02, validate_every=300)


SENTINELS = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>"]


def code() -> Run:
    """A decoder of Python sources, left to right.

    Command: `meristem pretrain code data.corpus=CORPUS --out runs/code`. CPU time: 7 minutes. Expected: a validation
    loss of 2.94 nats a token on the standard library; 3 % of held-out lines exactly.
    """
    return Run(name="code", model=SHAPE, data=Data(codec=Part("bpe", {"vocab": 4096})), train=BUDGET)


def fim() -> Run:
    """The same decoder taught to fill gaps: of nine documents in ten some lines are moved to the end (SPM order).

    Command: `meristem pretrain fim data.corpus=CORPUS --out runs/fim`, then `meristem generate runs/fim "x = [a, "
    --suffix "c]" --spm --temperature 0`. The left-to-right model to compare with is `code`: same shape, same tokens.
    CPU time: 6 minutes. Expected: not measured yet in this order alone. With half of the gaps in PSM order this budget
    was far too small: 2.7 % of 375 held-out lines filled exactly in SPM order, none in PSM, 2.4 % without the suffix.
    """
    return Run(
        name="fim", model=SHAPE,
        objective=Part("fill_in_the_middle", {"rate": 0.9, "spm": 1.0, "level": "line"}),
        data=Data(codec=Part("bpe", {"vocab": 4096, "special": SENTINELS})), train=BUDGET)


def codex() -> Run:
    """Functions from their docstrings: the decoder of `code` trained on, on those of its corpus and on made-up ones.

    Command: `meristem adapt runs/code codex data.corpus=CORPUS --out runs/codex`, then `meristem evaluate
    runs/codex --corpus CORPUS --tasks procedural_functions`. CPU time: 1.2 minutes, and 2.8 to score. Expected: pass@1
    0.39 (0.34 to 0.45), pass@100 0.98 (0.96 to 1.00) on 120 functions that were in no training split; measured on the
    base model of a five-minute quickstart.
    """
    return Run(
        name="codex", model=SHAPE, data=Data(codec=Part("bpe", {"vocab": 4096}), examples="documented_functions"),
        train=Train(steps=300, batch=20, context=256, optimizer="muon", lr=4e-3, warmup=10, schedule="wsd", decay=0.6,
                    floor=0.02, validate_every=100))


def starcoder2() -> Run:
    """A small StarCoder2, the family as published, that completes and fills gaps cut between any two characters.

    Command: `meristem pretrain starcoder2 data.corpus=CORPUS --out runs/starcoder2`. CPU time: not measured yet.
    Expected: not measured yet.
    """
    return Run(
        name="starcoder2",
        model=Part("starcoder2", {"dim": 256, "layers": 6, "heads": 4, "groups": 2}),
        objective=Part("fill_in_the_middle", {"rate": 0.5}),
        data=Data(codec=Part("bpe", {"vocab": 4096, "special": SENTINELS})),
        train=Train(steps=800, batch=16, context=256, lr=1e-3, warmup=50, validate_every=200, sample_every=200))
