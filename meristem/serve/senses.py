"""The other senses behind the server: sounds told by words, films painted, chains of residues, a policy in its world.

POST /v1/audio/zero-shot (CLAP), /v1/films (recipe film), /v1/residues (ESM-2) and /v1/act (recipe rt2), and GET
/v1/world, which gives a gridworld to act in. A film comes back as its frames and as a GIF; sounds and first frames come
as data URLs. The world of /v1/act is the client's: the server keeps none.
"""
import base64
import binascii
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from meristem import codecs
from meristem.codecs import image, video
from meristem.codecs.action import Bins
from meristem.codecs.audio import decode, fit
from meristem.codecs.protein import RESIDUES
from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.data import gridworld
from meristem.data.pictures import captions
from meristem.data.scenes import COLOURS, SHAPES
from meristem.data.sounds import Form
from meristem.generate.acting import Actor
from meristem.generate.films import Filmer
from meristem.generate.pictures import Wish, paint
from meristem.generate.residues import marginals
from meristem.hub import hf
from meristem.hub.cache import locate
from meristem.nn.image import between
from meristem.serve import pictures
from meristem.serve.engine import Engine
from meristem.serve.errors import Refused
from meristem.serve.hear import call
from meristem.serve.loading import Identity, Options, checked, run_of
from meristem.serve.pictures import DATA, STEPS, PictureModel
from meristem.serve.schema import Number, Request, Seed
from meristem.serve.server import Server
from meristem.train.painting import as_bytes, is_pictures

LABELS, RESIDUE, SIDE, TOP = 256, 2048, 16, 5
COST = 64                               # what a film, a sound or an action costs its client, in tokens


def load_senses(path: Path, options: Options) -> PictureModel | None:
    """A model of films, of sounds with words, or a policy; None where the folder holds something else."""
    path = path.expanduser()
    if is_pictures(path):
        found = pictures.load_pictures(path, options)
        if found is None or not isinstance(found.painter, Filmer):
            return None
        found.kind, found.can = "films", ["films.generate"]
        return found
    try:
        folder = locate(path)
        tree = read_json(folder / "config.json")
        if "audio_config" not in tree and not _moves(folder):
            return None
        loaded = hf.load(path)
    except (RequestError, OSError):
        return None                                            # the text side says what is wrong
    if loaded.codec is None:
        return None
    kind, can = ("hearing", ["audio.zero_shot"]) if "audio_config" in tree else ("policy", ["act"])
    manifest = checked(loaded.folder)
    identity = Identity(run_of(loaded.folder), hf.identity(loaded.family, loaded.module),
                        str(manifest.get("corpus") or ""), bool(manifest))
    engine = Engine(loaded.module.float().eval(), None, options.settings)
    return PictureModel(identity.run, kind, can, engine, identity, None, loaded.codec,
                        int(loaded.folder.stat().st_mtime))


def _moves(folder: Path) -> bool:
    """Whether a model reads pictures and its tokenizer has words for numbers."""
    if "image_token_index" not in read_json(folder / "config.json") or not codecs.is_here(folder):
        return False
    try:
        return bool(Bins.of(codecs.load(folder)))
    except RequestError:
        return False


class SoundZeroShot(Request):
    """POST /v1/audio/zero-shot: which of some words fits a sound (a data URL of WAV)."""

    audio: Annotated[str, Field(max_length=DATA)]
    labels: Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(min_length=1,
                                                                                      max_length=LABELS)]


class Film(Request):
    """POST /v1/films: a film of a prompt, which goes on from `image` (a data URL) where one is given."""

    prompt: Annotated[str, Field(max_length=10_000)] = ""
    seed: Seed | None = None
    steps: Annotated[int, Field(ge=1, le=STEPS)] = 20
    guidance: Annotated[Number, Field(ge=0, le=50)] = 3.0
    image: Annotated[str, Field(max_length=DATA)] | None = None


class Chain(Request):
    """POST /v1/residues: a chain of residues in capital letters."""

    input: Annotated[str, Field(min_length=1, max_length=RESIDUE)]


class Thing(Request):
    """One thing of a gridworld and the cell that it stands on."""

    x: Annotated[int, Field(ge=0, lt=SIDE)]
    y: Annotated[int, Field(ge=0, lt=SIDE)]
    colour: Annotated[str, Field(max_length=32)]
    shape: Annotated[str, Field(max_length=32)]


class Act(Request):
    """POST /v1/act: one step of a policy in a gridworld, as it is told in words."""

    instruction: Annotated[str, Field(max_length=1000)]
    things: Annotated[list[Thing], Field(min_length=1, max_length=SIDE)]
    at: tuple[Annotated[int, Field(ge=0, lt=SIDE)], Annotated[int, Field(ge=0, lt=SIDE)]]
    size: Annotated[int, Field(ge=3, le=SIDE)] = 5


async def zero_shot(server: Server, request: Any, body: SoundZeroShot) -> dict[str, Any]:
    """The probability of each label, of those given, for a sound."""
    model = pictures._model(server, request, body.model, "hearing")
    config, codec = model.module.config, model.codec
    assert codec is not None
    sound = decode(_bytes(body.audio), config.rate, "audio")
    given = Form.wanted(config).of(
        fit(sound, config.samples)[None], np.array([min(len(sound), config.samples)]))["mel"]

    @torch.no_grad()
    def work(module: Any) -> Tensor:
        tokens = torch.from_numpy(captions(codec, body.labels, config.context)[0][:, :-1].astype(np.int64))
        found: Tensor = module.logits(*module(given, tokens))[0].float()
        return found

    logits = await call(model.engine, work, request.state.client, cost=COST + len(body.labels), deadline=server.until())
    shares = logits.softmax(-1).tolist()
    server.spent(request, COST + len(body.labels), 0)
    return {"object": "list", "model": model.name, "data": [
        {"label": body.labels[i], "score": shares[i], "logit": float(logits[i])}
        for i in sorted(range(len(shares)), key=lambda i: -shares[i])]}


async def film(server: Server, request: Any, body: Film) -> dict[str, Any]:
    """A film as PNG frames and as a GIF."""
    model = pictures._model(server, request, body.model, "films")
    painter: Any = model.painter
    first = None
    if body.image is not None:
        pixels = image.decode(pictures.bytes_of(body.image, "image"), painter.side, painter.channels, "image")
        first = between(torch.from_numpy(np.array(pixels))[None])[0]
    wish = Wish((body.prompt,), secrets.randbits(48) if body.seed is None else body.seed, body.steps, body.guidance, "",
                "", "new" if first is None else "begin", first)
    frames = (await call(model.engine, lambda _: as_bytes(paint(painter, wish)).numpy(), request.state.client,
                         cost=COST, deadline=server.until()))[0]
    server.spent(request, 0, COST)
    return {"model": model.name, "frames": [_url(image.encode(frame)) for frame in frames],
            "gif": _url(video.encode(frames), "gif")}


async def residues(server: Server, request: Any, body: Chain) -> dict[str, Any]:
    """How likely each residue of a chain is where it stands, masked there alone, and what is likelier."""
    model, adapter = server.text(request, body.model)
    if "residues" not in model.can:
        raise Refused(400, f"{model.name} is no model of masked residues; it can: {', '.join(model.can)}",
                      "invalid_value", "model")
    chain = "".join(body.input.split()).upper()
    strange = "".join(sorted(set(chain) - set(RESIDUES)))
    if strange or not chain:
        raise Refused(400, f"a chain is written in the letters {RESIDUES}; this one has {strange[:100] or 'none'}",
                      "invalid_value", "input")
    codec = model.codec
    logp = await call(model.engine, lambda module: marginals(module, codec, chain), request.state.client,
                      cost=len(chain) ** 2, adapter=adapter, deadline=server.until())
    server.spent(request, len(chain), 0)
    ids = [int(codec.encode(letter)[0]) for letter in RESIDUES]
    table = logp[:, ids].log_softmax(-1)                       # among the twenty
    own = [RESIDUES.index(letter) for letter in chain]
    best = table.topk(TOP, dim=1)
    return {"object": "list", "model": request.state.facts["model"], "data": [
        {"index": i, "residue": letter, "logprob": float(table[i, own[i]]),
         "likeliest": [[RESIDUES[j], float(p)] for j, p in zip(best.indices[i], best.values[i], strict=True)]}
        for i, letter in enumerate(chain)]}


def world(seed: int, split: Literal["validation", "test"]) -> dict[str, Any]:
    """A gridworld to begin with; those of the split test name a pair that no demonstration shows."""
    episode = gridworld.Gridworld().episode(split, seed)
    return {"size": episode.size, "at": list(episode.at), "instruction": episode.instruction, "things": [
        {"x": x, "y": y, "colour": colour, "shape": shape} for (x, y), (colour, shape) in episode.things.items()],
        "frame": _url(image.encode(episode.frame()))}


async def act(server: Server, request: Any, body: Act) -> dict[str, Any]:
    """What the policy does now, and the world after it; `success` where it stopped on what the instruction names."""
    model = pictures._model(server, request, body.model, "policy")
    codec, size = model.codec, body.size
    assert codec is not None
    things = {(one.x, one.y): (one.colour, one.shape) for one in body.things}
    wrong = next((f"{c} {s}" for c, s in things.values() if c not in COLOURS or s not in SHAPES), "")
    if wrong or any(max(cell) >= size for cell in (*things, tuple(body.at))):
        raise Refused(400, f"a thing is one of {', '.join(COLOURS)} and of {', '.join(SHAPES)}, on a cell of the "
                      f"world; not {wrong or 'outside it'}", "invalid_value", "things")
    named = next((cell for cell, (c, s) in things.items() if c in body.instruction and s in body.instruction),
                 next(iter(things)))
    episode = gridworld.Episode(things, named, (body.at[0], body.at[1]), size, gridworld.Gridworld().cell, 2 * size)

    def work(module: Any) -> np.ndarray:
        found: np.ndarray = Actor(module, codec, gridworld.DIMS)([body.instruction], [episode.frame()])[0]
        return found

    action = await call(model.engine, work, request.state.client, cost=COST, deadline=server.until())
    over = episode.act(action)
    server.spent(request, COST, gridworld.DIMS)
    return {"model": model.name, "action": [float(x) for x in action], "at": list(episode.at), "over": over,
            "success": episode.success, "frame": _url(image.encode(episode.frame()))}


def add(app: Any, server: Server) -> None:
    """The routes of this file."""
    from fastapi import Request as Http

    from meristem.serve.app import answered

    @app.post("/v1/audio/zero-shot")
    async def sounding(body: SoundZeroShot, request: Http) -> Any:
        """Which of some words fits a sound."""
        return await answered(request, zero_shot(server, request, body))

    @app.post("/v1/films")
    async def filmed(body: Film, request: Http) -> Any:
        """A film of a prompt."""
        return await answered(request, film(server, request, body))

    @app.post("/v1/residues")
    async def coloured(body: Chain, request: Http) -> Any:
        """How likely each residue of a chain is."""
        return await answered(request, residues(server, request, body))

    @app.get("/v1/world")
    def begin(seed: Annotated[int, Field(ge=0, lt=2**31)] = 0, unseen: bool = False) -> dict[str, Any]:
        """A gridworld."""
        return world(seed, "test" if unseen else "validation")

    @app.post("/v1/act")
    async def acted(body: Act, request: Http) -> Any:
        """One step of a policy."""
        return await answered(request, act(server, request, body))


def _bytes(url: str) -> bytes:
    """The bytes of a data URL of a sound."""
    head, _, rest = url.partition(",")
    if not head.startswith("data:audio/") or not head.endswith(";base64"):
        raise Refused(400, "audio must be a data URL (data:audio/wav;base64,...); addresses are never fetched",
                      "invalid_value", "audio")
    try:
        return base64.b64decode(rest, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "audio is not base64", "invalid_value", "audio") from None


def _url(raw: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
