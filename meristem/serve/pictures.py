"""Models of pictures: painted, edited, varied; what a picture shows among given words; the object under a click.

POST /v1/images/generations, /v1/images/edits, /v1/images/variations (https://platform.openai.com/docs/api-reference/
images), /v1/zero-shot and /v1/segment. Work goes through the model's own queue like everything else. A picture comes
as a data URL or in a form, never from an address: the server fetches nothing.
"""
import base64
import binascii
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.codecs.image import decode, encode, transparent
from meristem.core.errors import RequestError
from meristem.data.pictures import captions
from meristem.generate.pictures import How, Painter, Wish, paint
from meristem.generate.segment import ask, everything, promptable, see
from meristem.hub import hf
from meristem.nn.image import between
from meristem.nn.segment import AWAY, OBJECT, prompts
from meristem.serve.engine import Engine
from meristem.serve.errors import Refused
from meristem.serve.hear import call
from meristem.serve.loading import Identity, Options, checked, run_of
from meristem.serve.schema import Number, Request, Seed
from meristem.serve.server import Server
from meristem.serve.sounds import hears
from meristem.serve.texts import now
from meristem.train.painting import as_bytes, is_pictures, open_painter

PICTURES, STEPS, LABELS, POINTS, SIDE, MASKS = 10, 250, 1000, 64, 4096, 64
DATA = 22_000_000                       # characters of a data URL: 16 MB of picture
COST = 64                               # what a picture costs its client, in tokens


@dataclass
class PictureModel:
    """A model of pictures or sounds, ready to be asked; `painter` or `module`, by `kind`."""

    name: str
    kind: str                           # pictures, towers, segmenter or sounds
    can: list[str]
    engine: Engine
    identity: Identity
    painter: Painter | None = None
    codec: Codec | None = None
    created: int = 0
    context: int = 0
    bank: None = None

    @property
    def module(self) -> Any:
        """The network, of towers and segmenters."""
        return self.engine.module

    def adapters(self) -> list[str]:
        """None: they are served merged."""
        return []


def load_pictures(path: Path, options: Options) -> PictureModel | None:
    """A model of pictures or sounds; None where the folder holds something else."""
    path = path.expanduser()
    if is_pictures(path):
        painter = _painter(path)
        if painter is not None:
            folder = path / "model" if (path / "model").is_dir() else path
            tree = checked(folder)
            identity = Identity(run_of(folder), str(tree.get("weights") or ""), str(tree.get("corpus") or ""),
                                bool(tree))
            hows = {"new": "images.generate", "edit": "images.edit", "vary": "images.vary"}
            return PictureModel(identity.run, "pictures", [hows[h] for h in hows if h in painter.hows],
                                Engine(nn.Identity(), None, options.settings), identity, painter,
                                created=int(folder.stat().st_mtime))
    try:
        loaded = hf.load(path)
    except RequestError:
        return None                                            # the text side says what is wrong
    towers = vars(loaded.config).get("part") == "both" and loaded.codec is not None
    if hears(loaded.config, loaded.codec):
        kind, can = "sounds", ["audio.transcriptions"]
    elif towers:
        kind, can = "towers", ["zero_shot"]
    elif not promptable(loaded.module):
        kind, can = "segmenter", ["segment"]
    else:
        return None
    tree = checked(loaded.folder)
    identity = Identity(run_of(loaded.folder), hf.identity(loaded.family, loaded.module),
                        str(tree.get("corpus") or ""), bool(tree))
    engine = Engine(loaded.module.float().eval(), None, options.settings)
    return PictureModel(identity.run, kind, can, engine, identity, None, loaded.codec,
                        int(loaded.folder.stat().st_mtime))


def _painter(path: Path) -> Painter | None:
    try:
        return open_painter(path)
    except RequestError:
        return None                                            # it learns from pictures and paints none


class Painted(Request):
    """POST /v1/images/*: `image`, `mask` are data URLs; where `mask` is transparent (or white) it is painted anew."""

    prompt: Annotated[str, Field(max_length=10_000)] = ""
    n: Annotated[int, Field(ge=1, le=PICTURES)] | None = None
    size: Annotated[str, Field(pattern=r"^(auto|\d{1,4}x\d{1,4})$")] | None = None
    seed: Seed | None = None
    steps: Annotated[int, Field(ge=1, le=STEPS)] = 20
    guidance: Annotated[Number, Field(ge=0, le=50)] = 3.0
    strength: Annotated[Number, Field(gt=0, le=1)] = 0.6
    avoid: Annotated[str, Field(max_length=10_000)] = ""
    sampler: Annotated[str, Field(max_length=32)] = ""
    image: Annotated[str, Field(max_length=DATA)] | None = None
    mask: Annotated[str, Field(max_length=DATA)] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    quality: str | None = None
    style: str | None = None
    output_format: Literal["png"] | None = None


class ZeroShot(Request):
    """POST /v1/zero-shot: which of some words fits a picture; {} in the template stands for each."""

    image: Annotated[str, Field(max_length=DATA)]
    labels: Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(min_length=1,
                                                                                      max_length=LABELS)]
    template: Annotated[str, Field(max_length=1000)] = "{}"


class Segment(Request):
    """POST /v1/segment: points [x, y, 1 on the object or 0 beside it] and a box, in pixels of the given picture."""

    image: Annotated[str, Field(max_length=DATA)]
    points: Annotated[list[tuple[Number, Number, Literal[0, 1]]], Field(max_length=POINTS)] = []
    box: tuple[Number, Number, Number, Number] | None = None


async def painted(server: Server, request: Any, body: Painted, how: How) -> dict[str, Any]:
    """Pictures of a prompt, or made from one."""
    model = _model(server, request, body.model, "pictures")
    painter = model.painter
    assert painter is not None
    if body.size not in (None, "auto", f"{painter.side}x{painter.side}"):
        raise Refused(400, f"{model.name} paints {painter.side}x{painter.side}, not {body.size}", "invalid_value",
                      "size")
    seed, count = secrets.randbits(48) if body.seed is None else body.seed, body.n or 1
    wish = Wish((body.prompt,) * count, seed, body.steps, body.guidance, body.sampler, body.avoid, how,
                strength=body.strength)
    if how != "new":
        if body.image is None:
            raise Refused(400, "give the picture as `image`", "invalid_value", "image")
        pixels = decode(bytes_of(body.image, "image"), painter.side, painter.channels, "image")
        wish = replace(wish, image=between(torch.from_numpy(np.array(pixels))[None])[0])
        if body.mask is not None:
            clear = transparent(bytes_of(body.mask, "mask"), painter.side, "mask")
            wish = replace(wish, mask=torch.from_numpy(clear))
    made = await call(model.engine, lambda _: as_bytes(paint(painter, wish)).numpy(), request.state.client,
                      cost=COST * count, deadline=server.until())
    if made.ndim != 4:
        raise Refused(400, f"{model.name} paints films; ask meristem generate", "invalid_value", "model")
    server.spent(request, 0, COST * count)
    whole = [base64.b64encode(encode(one)).decode() for one in made]
    urls = body.response_format == "url"
    return {"created": now(), "data": [{"url": f"data:image/png;base64,{one}"} if urls else {"b64_json": one}
                                       for one in whole], "size": f"{painter.side}x{painter.side}"}


async def zero_shot(server: Server, request: Any, body: ZeroShot) -> dict[str, Any]:
    """The probability of each label, of those given."""
    model = _model(server, request, body.model, "towers")
    if body.template.count("{}") != 1:
        raise Refused(400, "the template needs {} once, where the label stands", "invalid_value", "template")
    config, codec = model.module.config, model.codec
    assert codec is not None
    pixels = decode(bytes_of(body.image, "image"), config.image, config.channels, "image")
    texts = [body.template.replace("{}", label) for label in body.labels]

    @torch.no_grad()
    def work(module: Any) -> Tensor:
        tokens = torch.from_numpy(captions(codec, texts, config.context)[0][:, :-1].astype(np.int64))
        image = module.embed_images(between(torch.from_numpy(np.array(pixels))[None]))
        found: Tensor = module.logits(image.float(), module.embed_texts(tokens).float())[0].float()
        return found

    logits = await call(model.engine, work, request.state.client, cost=COST + len(texts), deadline=server.until())
    shares = logits.softmax(-1).tolist()
    order = sorted(range(len(texts)), key=lambda i: -shares[i])
    server.spent(request, COST + len(texts), 0)
    return {"object": "list", "model": model.name,
            "data": [{"label": body.labels[i], "score": shares[i], "logit": float(logits[i])} for i in order]}


async def segment(server: Server, request: Any, body: Segment) -> dict[str, Any]:
    """Masks for clicks and a box, or of everything where there are none; best first."""
    model = _model(server, request, body.model, "segmenter")
    side, channels = (vars(model.module.config)[key] for key in ("image", "channels"))
    raw = bytes_of(body.image, "image")
    height, width = decode(raw, 0, 1, "image").shape[1:]
    least = min(height, width)
    left, top, scale = (width - least) // 2, (height - least) // 2, side / least       # it sees the middle square
    pixels = decode(raw, side, channels, "image")

    def seen(x: float, y: float) -> tuple[float, float]:
        u, v = (x - left) * scale, (y - top) * scale
        if not (0 <= u < side and 0 <= v < side):
            raise Refused(400, f"the point {x:g},{y:g} lies outside the middle square of the picture, which is what "
                          "the model sees", "invalid_value", "points")
        return u, v

    points = [seen(x, y) for x, y, _ in body.points]
    signs = [OBJECT if sign else AWAY for *_, sign in body.points]
    box = (*seen(*body.box[:2]), *seen(*body.box[2:])) if body.box else None

    def work(module: Any) -> tuple[Tensor, Tensor]:
        if not points and box is None:
            return everything(module, pixels)
        found = ask(module, see(module, pixels), *prompts(
            points=torch.tensor(points)[None] if points else None, signs=torch.tensor(signs)[None] if points else None,
            boxes=None if box is None else torch.tensor([box])))
        alone = len(points) == 1 and box is None
        return (found.all_masks[0, 1:], found.all_quality[0, 1:]) if alone else (found.masks, found.quality)

    masks, quality = await call(model.engine, work, request.state.client, cost=COST, deadline=server.until())
    server.spent(request, COST, 0)
    best = quality.argsort(descending=True)[:MASKS]
    return {"object": "list", "model": model.name, "side": side, "square": [left, top, left + least, top + least],
            "masks": [{"png": "data:image/png;base64," + base64.b64encode(encode(
                (masks[i].numpy() * 255).astype(np.uint8)[None])).decode(), "score": float(quality[i])}
                for i in best.tolist()]}


def bytes_of(url: str, name: str) -> bytes:
    """The bytes of a data URL; `Refused` for an address: nothing is ever fetched."""
    head, _, rest = url.partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise Refused(400, f"{name} must be a data URL (data:image/png;base64,...); addresses are never fetched",
                      "invalid_image_url", name)
    try:
        return base64.b64decode(rest, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, f"{name} is not base64", "invalid_image_url", name) from None


def _model(server: Server, request: Any, name: str, kind: str) -> PictureModel:
    """The model of a kind that a request names, or the first of the kind."""
    known = {n: m for n, m in server.pictures.items() if m.kind == kind}
    model = known.get(name) if name else next(iter(known.values()), None)
    if model is None and name in server.names():
        raise Refused(400, f"{name[:200]} cannot do that; it can: {', '.join(server.names()[name].can)}",
                      "invalid_value", "model")
    if model is None:
        some = f"known: {', '.join(known)}" if known else f"this server has none of the kind {kind}"
        raise Refused(404, f"there is no model {name[:200]!r}; {some}", "model_not_found", "model")
    server.identify(request, model)
    return model
