"""Text to image in stages: DALL-E (codebook, then one decoder over words and image tokens) and unCLIP (CLIP, prior,
decoder).

Every stage is a run of its own, and a later one names the folders of those before it. `meristem generate RUN "a red
circle" --out grid.png` paints with the last.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

WORDS = Part("bpe", {"vocab": 512})
PICTURES = Data(codec=WORDS, examples="pictures")


def dvae() -> Run:
    """DALL-E's first stage: 64 tokens of 128 for a picture of 32 x 32.

    Command: `meristem pretrain dvae data.corpus=PICTURES --out runs/dvae`. CPU time: not measured yet. Expected: no
    score was measured yet.
    """
    return Run(
        name="dvae",
        model=Part("autoencoder", {"kind": "dvae", "channels": [32, 64, 64], "blocks": 1, "groups": 8, "latent": 32,
                                   "codes": 128, "image": 32, "scale": 1.0, "attention": False}),
        objective=Part("reconstruct", {"kl": 1e-4}), data=PICTURES,
        train=Train(steps=600, batch=32, context=16, lr=1e-3, warmup=50))


def dalle() -> Run:
    """DALL-E's second stage: 16 words and 64 image tokens in one decoder.

    Command: `meristem pretrain dalle data.corpus=PICTURES objective.autoencoder=runs/dvae --out runs/dalle`. CPU time:
    not measured yet. Expected: no score was measured yet.
    """
    return Run(
        name="dalle",
        model=Part("dalle", {"codes": 128, "text": 16, "grid": 8, "dim": 192, "layers": 4, "heads": 4}),
        objective=Part("image_tokens", {}), data=PICTURES,
        train=Train(steps=800, batch=64, context=16, lr=1e-3, warmup=50))
