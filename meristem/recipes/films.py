"""Films: a causal autoencoder, towers that name actions, and a diffusion transformer told a text or a first frame.

    meristem curate toy:clips documents=2000 --out runs/clips
    meristem pretrain film_autoencoder data.corpus=runs/clips --out runs/film_autoencoder
    meristem pretrain film_clip data.corpus=runs/clips --out runs/film_clip
    meristem pretrain film data.corpus=runs/clips objective.autoencoder=runs/film_autoencoder
        objective.text=runs/film_clip --out runs/film
    meristem generate runs/film "a red circle moving right" --out films.gif

The sizes are for films of 17 frames of 16 x 16; docs/video.md has the whole way.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

FILMS = Data(codec=Part("bpe", {"vocab": 400}), examples="clips")


def film_autoencoder() -> Run:
    """17 frames of 16 x 16 become 5 of 4 x 4, of four numbers each.

    Command: `meristem pretrain film_autoencoder data.corpus=CORPUS --out runs/film_autoencoder` on the corpus
    `toy:clips`. CPU time: 2.3 minutes. Expected: what `film` reaches on it.
    """
    return Run(
        name="film_autoencoder",
        model=Part("video_autoencoder", {"channels": [16, 32, 32], "halve": [True, True], "image": 16, "frames": 17}),
        objective=Part("reconstruct", {"kl": 1e-5}), data=FILMS,
        train=Train(steps=400, batch=16, context=16, lr=2e-3, warmup=30, dtype="float32", compile=False, guard=False))


def film_clip() -> Run:
    """Towers that put a film and what happens in it in one place.

    Command: `meristem pretrain film_clip data.corpus=CORPUS --out runs/film_clip`, then `meristem evaluate
    runs/film_clip --corpus CORPUS --tasks film_classes`. CPU time: 0.4 minutes. Expected: on
    `toy:clips` no more than guessing (25 % of four directions); known actions of unseen characters are all named on
    sprites (docs/results.md, A28 and B26).
    """
    tower = {"dim": 64, "layers": 2, "heads": 4}
    return Run(
        name="film_clip",
        model=Part("clip", {"image": 16, "patch": 4, "frames": 17, "project": 64, "text": tower, "vision": tower}),
        objective=Part("contrastive", {"together": True}), data=FILMS,
        train=Train(steps=300, batch=32, context=16, lr=2e-3, warmup=30, compile=False, guard=False))


def film() -> Run:
    """A diffusion transformer over the latents of films, told by the text tower of film_clip.

    Command: `meristem pretrain film data.corpus=CORPUS objective.autoencoder=runs/film_autoencoder
    objective.text=runs/film_clip --out runs/film`. CPU time: 2.9 minutes. Expected: 17 % of films keep the colour
    asked for: this budget is too small (docs/results.md, A28).
    """
    return Run(
        name="film",
        model=Part("video_dit", {"inputs": 4, "image": 4, "frames": 5, "patch": 1, "dim": 128, "layers": 4, "heads": 4,
                                 "cross": 64}),
        objective=Part("film_diffusion", {}), data=FILMS,
        train=Train(steps=1000, batch=32, context=16, lr=1e-3, warmup=50, ema=0.995, compile=False, guard=False))
