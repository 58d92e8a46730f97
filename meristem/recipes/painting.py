"""Painting in two stages, and enlarging: Stable Diffusion's way through the same trainer.

    meristem curate toy:scenes documents=4000 side=32 objects=1 held_out=0.0 --out runs/scenes
    meristem pretrain autoencoder data.corpus=runs/scenes model.channels=[16,32,32] objective.kl=1e-4 --out
        runs/autoencoder
    meristem pretrain latent_diffusion data.corpus=runs/scenes model.classes=49 --out runs/latent
    meristem generate runs/latent "red circle" --out grid.png

A text in place of a class: `objective.text=runs/clip model.classes=0 model.cross=128 model.heads=4 model.head_dim=0`,
with the tower of recipe clip trained on the same corpus.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

WORDS = Part("bpe", {"vocab": 512})


def latent_diffusion() -> Run:
    """A U-Net in the latents of `runs/autoencoder`, 8 x 8 of 4 numbers for a picture of 32 x 32.

    Command: `meristem pretrain latent_diffusion data.corpus=PICTURES model.classes=49 --out runs/latent`. CPU time: 1.6
    minutes (and 1.3 for the autoencoder). Expected: a Frechet distance (`evals.frechet`) of 0.072 (0.052 to 0.091)
    on the scenes above; every pixel from another training picture: 0.786, a U-Net in pixels after the same time as
    this stage 0.138 (0.105 to 0.173).
    """
    return Run(
        name="latent_diffusion",
        model=Part("unet", {"inputs": 4, "image": 8, "channels": [64, 128], "blocks": 1, "groups": 8,
                            "attention": [True, True], "heads": 1, "head_dim": 32}),
        objective=Part("diffusion", {"target": "velocity", "schedule": "cosine", "autoencoder": "runs/autoencoder"}),
        data=Data(codec=WORDS, examples="pictures"),
        train=Train(steps=360, batch=64, context=16, lr=5e-4, warmup=100, sample_every=180))


def super_resolution() -> Run:
    """A U-Net that is shown a picture of 8 x 8, stretched, and paints it at 32 x 32.

    Command: `meristem pretrain super_resolution data.corpus=PICTURES --out runs/large`. CPU time: not
    measured yet. Expected: no score was measured yet (`python -m benchmarks.painting enlarge` measures it beside
    bicubic).
    """
    return Run(
        name="super_resolution",
        model=Part("unet", {"inputs": 6, "outputs": 3, "image": 32, "channels": [32, 64, 64], "blocks": 1, "groups": 8,
                            "attention": [False, False, True], "heads": 1, "head_dim": 32}),
        objective=Part("diffusion", {"target": "velocity", "schedule": "cosine", "low": 8}),
        data=Data(codec=WORDS, examples="pictures"),
        train=Train(steps=250, batch=32, context=16, lr=5e-4, warmup=100))


def instruct() -> Run:
    """A U-Net that does to a picture what a sentence says, as InstructPix2Pix does.

    Command: `meristem curate toy:edits documents=6000 side=16 --out runs/edits`, `meristem pretrain clip
    data.corpus=runs/edits model.image=16 model.patch=4 train.steps=100 --out runs/words`, whose text tower reads the
    sentences, then `meristem pretrain instruct data.corpus=runs/edits data.codec.name=saved
    data.codec.folder=runs/words --out runs/instruct` and `meristem generate runs/instruct "make it night" --edit
    PICTURE --out edited.png`. CPU time: not measured yet. Expected: no score was measured yet.
    """
    return Run(
        name="instruct",
        model=Part("unet", {"inputs": 6, "outputs": 3, "image": 16, "channels": [32, 64], "blocks": 1, "groups": 8,
                            "attention": [False, True], "heads": 4, "cross": 128}),
        objective=Part("diffusion", {"target": "velocity", "schedule": "cosine", "edits": True, "text": "runs/words"}),
        data=Data(codec=WORDS, examples="edits"),
        train=Train(steps=600, batch=32, context=16, lr=1e-3, warmup=50, dtype="float32", compile=False))
