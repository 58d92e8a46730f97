"""Text to image in stages: DALL-E (a codebook, then one decoder over words and image tokens) and unCLIP (CLIP, prior,
decoder).

Every stage is a run of its own, and a later one names the folders of those before it. They are sized for pictures of
16 x 16 (`meristem curate toy:scenes side=16 objects=1 documents=6000 --out runs/scenes`); unCLIP's CLIP is recipe clip
with `model.image=16 model.patch=4 model.project=128`. `meristem generate RUN "a red circle" --out grid.png` paints with
the last run of each.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

WORDS = Part("bpe", {"vocab": 512})
PICTURES = Data(codec=WORDS, examples="pictures")


def dvae() -> Run:
    """DALL-E's first stage: 64 tokens of 128 for a picture of 16 x 16.

    Command: `meristem pretrain dvae data.corpus=PICTURES --out runs/dvae`. CPU time: 2.1 minutes. Expected: a
    validation loss of 0.028; a judge names 89 % of the pictures right that went through its tokens.
    """
    return Run(
        name="dvae",
        model=Part("autoencoder", {"kind": "dvae", "channels": [32, 64], "blocks": 1, "groups": 8, "latent": 32,
                                   "codes": 128, "image": 16, "scale": 1.0, "attention": False}),
        objective=Part("reconstruct", {"kl": 1e-4, "cooling": 450}), data=PICTURES,
        train=Train(steps=600, batch=64, context=16, optimizer="muon", lr=3e-3, warmup=30, dtype="float32",
                    compile=False))


def dalle() -> Run:
    """DALL-E's second stage: 16 words and 64 image tokens in one decoder.

    Command: `meristem pretrain dalle data.corpus=PICTURES objective.autoencoder=runs/dvae --out runs/dalle`. CPU time:
    1.3 minutes. Expected: a judge sees 85 % of the captions (chance 2 %), 55 % of those with unseen pairs; at a
    temperature of 0.7 and a guidance of 1.5 92 and 62 %; of eight such draws the one that CLIP ranks first (`--best-of`
    8, objective.clip=runs/clip) 97 and 93 %.
    """
    return Run(
        name="dalle",
        model=Part("dalle", {"codes": 128, "text": 16, "grid": 8, "dim": 128, "layers": 3, "heads": 4}),
        objective=Part("image_tokens", {}), data=PICTURES,
        train=Train(steps=400, batch=64, context=16, optimizer="muon", lr=5e-3, warmup=20, compile=False))


def prior() -> Run:
    """unCLIP's prior: from a caption to the vector of a picture.

    Command: `meristem pretrain prior data.corpus=PICTURES objective.clip=runs/clip data.codec.name=saved
    data.codec.folder=runs/clip --out runs/prior`. CPU time: 0.6 minutes. Expected: a cosine of 0.98 with the vector of
    the picture, captions of unseen pairs.
    """
    return Run(
        name="prior", model=Part("prior", {"width": 128, "text": 16, "dim": 128, "layers": 3, "heads": 4}),
        objective=Part("prior", {}), data=PICTURES,
        train=Train(steps=400, batch=64, context=16, lr=1e-3, warmup=50, compile=False))


def unclip() -> Run:
    """unCLIP's decoder: from the vector of a picture to the picture.

    Command: `meristem pretrain unclip data.corpus=PICTURES objective.clip=runs/clip objective.prior=runs/prior
    --out runs/unclip`. CPU time: 1.9 minutes. Expected: a judge sees 45 % of the captions (chance 2 %), 37 % of those
    with unseen pairs: colours more than shapes.
    """
    return Run(
        name="unclip",
        model=Part("unet", {"inputs": 3, "image": 16, "channels": [32, 64], "blocks": 1, "groups": 8, "heads": 4,
                            "attention": [False, True], "embedding": 128, "cross": 128}),
        objective=Part("unclip", {}), data=PICTURES,
        train=Train(steps=450, batch=32, context=16, optimizer="muon", lr=3e-3, warmup=50, dtype="float32",
                    compile=False))
