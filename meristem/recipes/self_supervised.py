"""Encoders of pictures that learn without labels (DINO's family), and the ordinary network that they are judged beside.

    meristem curate toy:strokes folder=mnist documents=10000 --out runs/mnist
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train
from meristem.recipes.pictures import WORDS

ENCODER = {"kind": "dinov2", "image": 28, "patch": 7, "dim": 96, "layers": 3, "heads": 3, "std": 0.06}
LOOK = {"area": [0.6, 1.0], "small": [0.3, 0.7], "turn": 15.0, "shear": 0.2, "light": 0.4, "blur": 0.3}


def dino() -> Run:
    """A small DINOv2 that learns from digits without their labels: DINO, iBOT and KoLeo.

    Command: `meristem pretrain dino data.corpus=PICTURES --out runs/dino`. CPU time: 2.6 minutes. Expected on 9,013
    digits of MNIST, seed 0: 81.6 % of 2,000 test pictures have the label of their neighbours (untrained 60.7 %, pixels
    95.8 %), and a linear probe names 92.0 % (pixels 91.9 %). Not compiled: five shapes of batches would be, which costs
    more than so short a run wins.
    """
    return Run(
        name="dino", model=Part("vit", ENCODER),
        objective=Part("self_distillation", {"prototypes": 1024, "hidden": 256, "narrow": 32, "standard": True,
                                             "temperature": 0.06, "momentum": 0.97, "koleo": 0.01, "local": 2,
                                             "look": LOOK}),
        data=Data(codec=WORDS, examples="pictures"),
        train=Train(steps=1000, batch=64, context=16, optimizer="muon", lr=4e-3, warmup=20, weight_decay=0.04, ema=0.99,
                    compile=False))


def resnet() -> Run:
    """A small ResNet that names the label of a picture: the convolutional network beside recipe vit.

    Command: `meristem pretrain resnet data.corpus=PICTURES --out runs/resnet`. CPU time: 0.04 s a step.
    Expected: after 200 steps on 4,000 digits of toy:strokes (7.6 CPU s) 84.6 % of real ones (MNIST) are named right.
    """
    return Run(
        name="resnet",
        model=Part("resnet", {"kind": "basic", "head": "image", "image": 28, "stem": 32, "widths": [32, 64, 128],
                              "depths": [1, 1, 1]}),
        objective=Part("classify", {}), data=Data(codec=WORDS, examples="pictures"),
        train=Train(steps=300, batch=64, context=16, lr=2e-3, warmup=30, compile=False))
