"""From a run folder to a painter, and the grids of pictures that a run leaves behind while it trains.

    painter = open_painter(Path("runs/diffusion"))             # or a folder in Stable Diffusion's layout
    images = generate.pictures.paint(painter, Wish(("a red circle",) * 16))

The objective of the run says how its model paints, because it owns what the model was trained with: the autoencoder,
the text tower, the schedule. `samples/STEP.png` in the run folder are the first SHOWN pictures of the run's seed, asked
with the first held-out captions or classes.
"""
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from meristem.codecs import video
from meristem.codecs.base import Codec
from meristem.codecs.image import encode, grid
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.files import read_json, write_bytes
from meristem.core.random import seed_of
from meristem.core.run import Run
from meristem.core.types import Batch
from meristem.generate.pictures import Diffuser, Painter, Told, Wish, by_caption, by_class, by_nothing, paint
from meristem.generate.watermark import mark
from meristem.hub import hf, pipeline
from meristem.hub.pipeline import Pipeline
from meristem.objectives.base import Objective, make
from meristem.objectives.diffusion import Diffusion

FOLDER = "samples"
SHOWN = 16                              # pictures of a grid


def is_pictures(folder: Path) -> bool:
    """Whether a folder is a run whose data are pictures, or in Stable Diffusion's layout; a run of text is none."""
    if (folder.expanduser() / pipeline.INDEX).is_file():
        return True
    path = folder.expanduser() / "recipe.json"
    if not path.is_file():
        return False
    tree = read_json(path)
    return isinstance(tree, dict) and from_dict(Run, tree).data.examples.startswith(("picture", "clips"))


def open_painter(folder: Path) -> Painter:
    """The painter of a finished run, or of a folder in Stable Diffusion's layout; RequestError if it paints nothing."""
    if (folder.expanduser() / pipeline.INDEX).is_file():
        return painter_of(pipeline.read(folder.expanduser()))
    objective, codec = open_run(folder)
    return objective.painter(codec)


def painter_of(made: Pipeline) -> Diffuser:
    """A painter of networks that were read together."""
    c: Any = made.network.config
    told: Told = by_nothing
    if made.text is not None and made.codec is not None:
        told = by_caption(made.text.text, made.codec)
    elif vars(c).get("classes", 0):
        told = by_class(made.labels, vars(made.network)["none"])
    return Diffuser(made.network, told, made.schedule, made.target, (c.inputs, c.image, c.image), made.sampler,
                    made.limit, made.autoencoder)


def pipeline_of(folder: Path) -> Pipeline:
    """What a finished run of diffusion would be in Stable Diffusion's layout; RequestError for any other run."""
    objective, _ = open_run(folder)
    painter = objective.painter()
    if not isinstance(painter, Diffuser) or not isinstance(objective, Diffusion):
        raise RequestError(f"{folder} is no run of diffusion; only those have a layout in diffusers")
    if painter.low or painter.edits:
        raise RequestError("diffusers has no layout for a model that is shown a picture this way")
    family = from_dict(Run, read_json(folder.expanduser() / "recipe.json")).model.name
    return Pipeline(family, painter.network, painter.schedule, painter.target, painter.usual, painter.limit,
                    painter.autoencoder, objective.text, objective.codec if objective.text is not None else None,
                    vars(objective.model.config).get("labels", ()))


def open_run(folder: Path) -> tuple[Objective, Codec | None]:
    """The objective of a finished run, around its model, and the codec that lies with the model."""
    folder = folder.expanduser()
    run, loaded = from_dict(Run, read_json(folder / "recipe.json")), hf.load(folder)
    fields = {key: found(value, folder) for key, value in run.objective.fields.items()}
    return make(run.objective.name, loaded.module, fields, loaded.codec), loaded.codec


def found(value: Any, folder: Path) -> Any:
    """A field of a recipe; a relative path that is not here is looked for from `folder` upwards."""
    if isinstance(value, str) and value and not Path(value).expanduser().exists():
        return next((str(up / value) for up in folder.absolute().parents if (up / value).exists()), value)
    return value


def as_bytes(images: Float[Tensor, "N *F C H W"]) -> UInt8[Tensor, "N *F C H W"]:
    """Pictures from -1 to 1 as bytes."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def as_grid(images: Float[Tensor, "N *F C H W"], columns: int = 0, form: Literal["gif", "mp4"] = "gif",
            key: str = "") -> bytes:
    """PNG of all pictures, row by row, GIF of films; a square of them unless told how many a row.

    With a `key` each picture, or each frame, carries its watermark (generate.watermark).
    """
    pixels = as_bytes(images).numpy()
    pixels = mark(pixels, key) if key else pixels
    if images.ndim == 5:
        return video.encode(video.side_by_side(pixels, columns), form=form)
    return encode(grid(pixels, columns))


def sampler(objective: Objective, batch: Batch, codec: Codec, folder: Path, seed: int) -> Callable[[int], Path] | None:
    """What paints `samples/STEP.png` of a run; None for an objective that paints nothing."""
    try:
        painter = objective.painter(codec)
    except RequestError:
        return illustrator(objective, batch, folder)
    if "new" not in painter.hows:
        return None
    texts = objective.asked(batch, codec, SHOWN)

    def draw(step: int) -> Path:
        (folder / FOLDER).mkdir(exist_ok=True)
        with torch.random.fork_rng(), torch.compiler.set_stance("force_eager"):
            images = paint(painter, Wish(texts, seed=seed_of(seed, "sample")))
        path = folder / FOLDER / f"{step}.{'gif' if images.ndim == 5 else 'png'}"
        write_bytes(path, as_grid(images))
        return path
    return draw


def illustrator(objective: Objective, batch: Batch, folder: Path) -> Callable[[int], Path] | None:
    """What draws `samples/STEP.png` of a run that paints nothing but can show what it sees; None where it cannot."""
    if not objective.illustrates:
        return None

    def draw(step: int) -> Path:
        (folder / FOLDER).mkdir(exist_ok=True)
        with torch.random.fork_rng(), torch.compiler.set_stance("force_eager"), torch.no_grad():
            torch.manual_seed(0)
            shown = objective.illustrate({key: value[:SHOWN] for key, value in batch.items()})
        path = folder / FOLDER / f"{step}.png"
        write_bytes(path, encode(grid(shown.numpy())))
        return path
    return draw
