"""Segmentation: masks for clicks and boxes, through the same trainer as everything else.

Needs pictures with label maps: `meristem curate toy:objects --out runs/objects`, or a folder with `a.masks.png` (a
number a pixel) beside `a.png`.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def sam() -> Run:
    """A small Segment Anything: one click or a box on things of any shape.

    Command: `meristem pretrain sam data.corpus=runs/objects --out runs/sam`. CPU time: 0.3 s a step. Expected: not
    known for all of its steps: with train.steps=700 (3.4 CPU minutes) the IoU after one click was 0.47 on unseen
    shapes, for a box 0.48; a region of like colour has 0.60 (docs/results.md).
    """
    return Run(
        name="sam",
        model=Part("sam", {"image": 64, "patch": 8, "dim": 160, "layers": 4, "heads": 4, "window": 0, "width": 128,
                           "decoder_heads": 4, "decoder_hidden": 256, "quality_hidden": 64}),
        objective=Part("segment", {}), data=Data(codec=Part("bpe", {"vocab": 512}), examples="segments"),
        train=Train(steps=1500, batch=16, context=16, optimizer="muon", lr=1e-2, warmup=20, weight_decay=0.05))
