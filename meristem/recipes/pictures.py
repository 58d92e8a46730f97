"""Pictures: classifiers, image-text towers, autoencoders and diffusion, through the same trainer as text.

Every recipe takes a folder of pictures (`cats/1.png` has the label "cats", `1.txt` beside it is its caption), a file of
rows with an "image", or procedural scenes: `meristem curate toy:scenes --out runs/scenes`.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

WORDS = Part("bpe", {"vocab": 512})
SMALL = {"image": 32, "patch": 4, "dim": 128, "layers": 4, "heads": 4}
TOWER = {"dim": 128, "layers": 3, "heads": 4}


def vit() -> Run:
    """A small ViT that names the label of a picture.

    Command: `meristem pretrain vit data.corpus=PICTURES --out runs/vit`. CPU time: 0.2 minutes for 300 steps at 28
    pixels with model.patch=7 model.dim=96 model.layers=3 model.heads=3. Expected with these on 9,013 digits of MNIST:
    93.4 % of 2,000 test pictures named right (AdamW: 66.5 %; logistic regression on pixels: 91.7 %).
    """
    return Run(
        name="vit", model=Part("vit", {**SMALL, "head": "image"}), objective=Part("classify", {}),
        data=Data(codec=WORDS, examples="pictures"),
        train=Train(steps=600, batch=64, context=16, optimizer="muon", lr=1e-2, warmup=20))


def clip() -> Run:
    """Two towers that put a picture and its caption in one place; for captions that repeat: objective.together=true.

    Command: `meristem pretrain clip data.corpus=PICTURES --out runs/clip`, then `meristem evaluate runs/clip --corpus
    PICTURES --tasks zero_shot,retrieval`. CPU time: 0.8 minutes, with the edits below 4.6. Expected (emoji in five skin
    tones, n 220 unseen combinations, seed 0): own caption first in 89 %, and in 97 % with model.image=48 model.patch=6
    train.context=20 train.steps=500 train.batch=256 (nearest training picture: 83 %).
    """
    return Run(
        name="clip",
        model=Part("clip", {"image": 32, "patch": 8, "project": 64, "text": TOWER, "vision": TOWER}),
        objective=Part("contrastive", {}), data=Data(codec=WORDS, examples="pictures"),
        train=Train(steps=400, batch=128, context=16, optimizer="muon", lr=1e-2, warmup=20))


def autoencoder() -> Run:
    """A KL autoencoder that keeps a sixteenth of the places, four numbers each.

    Command: `meristem pretrain autoencoder data.corpus=PICTURES --out runs/autoencoder`. CPU time: 1.3 minutes for 400
    steps with model.channels=[16,32,32] objective.kl=1e-4. Expected with these on 4,000 scenes of 32 pixels: a mean
    difference of 0.077 (of -1 to 1) on held-out pictures.
    """
    return Run(
        name="autoencoder",
        model=Part("autoencoder", {"channels": [32, 64, 64], "blocks": 1, "groups": 8, "image": 32}),
        objective=Part("reconstruct", {}), data=Data(codec=WORDS, examples="pictures"),
        train=Train(steps=600, batch=32, context=16, lr=1e-3, warmup=50))


def diffusion() -> Run:
    """A U-Net that paints from noise, told a label where `model.classes` is one more than the labels.

    Command: `meristem pretrain diffusion data.corpus=PICTURES model.classes=11 --out runs/diffusion`. CPU time: 1.3
    minutes for 700 steps on toy:digits at 8 pixels (docs/results.md has the edits). Expected with these: a judge reads
    all of 400 painted digits as they were asked for; a Frechet distance of 0.026 in 20 steps.
    """
    return Run(
        name="diffusion",
        model=Part("unet", {"inputs": 3, "image": 32, "channels": [32, 64, 64], "blocks": 1, "groups": 8,
                            "attention": [False, False, True], "heads": 1, "head_dim": 32}),
        objective=Part("diffusion", {"target": "velocity", "schedule": "cosine"}),
        data=Data(codec=WORDS, examples="pictures"),
        train=Train(steps=1500, batch=32, context=16, lr=5e-4, warmup=100))
