"""Models of pictures behind the server: painting, editing by mask, variations, words for a picture, clicks, runs."""
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import torch
from PIL import Image
from torch import nn

from meristem.codecs import audio
from meristem.codecs.char import Char
from meristem.codecs.image import decode, encode
from meristem.generate.listen import transcribe
from meristem.generate.pictures import Wish
from meristem.hub import hf
from meristem.models import whisper
from meristem.serve.engine import Engine
from meristem.serve.loading import Identity, Options
from meristem.serve.pictures import PictureModel, load_pictures
from meristem.serve.server import Server
from meristem.serve.settings import Settings
from tests.serve.conftest import listening, server_of


class Flat:
    """A painter of one colour a picture: that of its seed and row, except where a picture is given and kept."""

    side, channels, hows = 8, 3, frozenset({"new", "edit", "vary"})

    def paint(self, wish: Wish) -> torch.Tensor:
        """[N, 3, 8, 8]."""
        level = torch.tensor([(wish.seed + i) % 9 / 4 - 1 for i in range(len(wish.texts))])
        made = level[:, None, None, None].expand(-1, 3, 8, 8).clone()
        if wish.image is not None:
            keep = torch.zeros(8, 8, dtype=torch.bool) if wish.mask is None else ~wish.mask
            made[:, :, keep] = wish.image[:, keep]
        return made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server of a painter, with a folder of runs and a file of preferences."""
    runs = tmp_path_factory.mktemp("runs")
    (runs / "base").mkdir()
    (runs / "base" / "recipe.json").write_text('{"name": "base"}')
    (runs / "base" / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    (runs / "link").symlink_to(runs / "base")
    made = PictureModel("paint", "pictures", ["images.generate"], Engine(nn.Identity(), None, Settings()),
                        Identity("paint", "abc"), Flat())
    server = server_of(runs=runs, preferences=runs / "preferences.jsonl")
    server.pictures["paint"] = made
    torch.manual_seed(0)
    codec = Char("".join(chr(97 + i) for i in range(26)))
    ear = whisper.Model(whisper.Config(vocab=codec.vocab, context=12, places=10, mels=8, dim=16, layers=1, heads=2,
                                       start=0, end=0)).eval()
    hf.save(runs / "ear", "whisper", ear.config, ear, codec)
    heard = load_pictures(runs / "ear", Options())
    assert heard is not None and heard.can == ["audio.transcriptions"]
    server.pictures["ear"] = heard
    return server


@pytest.fixture(scope="module")
def client(pictures: Server) -> Iterator[openai.OpenAI]:
    """OpenAI's client."""
    with listening(pictures) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as made:
        yield made


def pixels(answer: Any, which: int = 0) -> np.ndarray:
    """A picture of an answer."""
    return decode(base64.b64decode(answer.data[which].b64_json))


def png(array: np.ndarray) -> bytes:
    """A PNG, with transparency where the array has four channels."""
    if len(array) == 3:
        return encode(array)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))).save(out, "PNG")
    return out.getvalue()


def test_pictures_of_a_prompt(client: openai.OpenAI) -> None:
    made = client.images.generate(model="paint", prompt="grey", n=2, size="8x8", extra_body={"seed": 4})
    assert pixels(made).shape == (3, 8, 8) and pixels(made).mean() == 128 and pixels(made, 1).mean() > 128
    raw = client.images.with_raw_response.generate(model="paint", prompt="", extra_body={"seed": 1})
    assert raw.headers["x-meristem-checkpoint"] == "abc"
    with pytest.raises(openai.BadRequestError, match="8x8"):
        client.images.generate(model="paint", prompt="x", size="1024x1024")


def test_a_transparent_mask_says_what_is_painted_anew(client: openai.OpenAI) -> None:
    picture, mask = np.zeros((3, 8, 8), np.uint8), np.full((4, 8, 8), 255, np.uint8)
    mask[3, :, :4] = 0
    made = client.images.edit(model="paint", image=("a.png", png(picture)), mask=("m.png", png(mask)), prompt="white",
                              extra_body={"seed": 8})
    assert pixels(made)[:, :, :4].min() == 255 and pixels(made)[:, :, 4:].max() == 0
    url = "data:image/png;base64," + base64.b64encode(png(picture)).decode()
    body = {"model": "paint", "image": url, "mask": url, "seed": 8}
    plain = httpx2.post(f"{client.base_url}images/edits", json=body).json()        # black: nothing is painted anew
    assert decode(base64.b64decode(plain["data"][0]["b64_json"])).max() == 0
    with pytest.warns(DeprecationWarning):                     # the client's own: OpenAI has retired the endpoint
        made = client.images.create_variation(model="paint", image=("a.png", png(picture)), extra_body={"seed": 4})
    assert pixels(made).mean() == 128


@pytest.mark.parametrize("image", ["http://127.0.0.1/x.png", "data:image/png;base64,AAAA", "data:image/png;base64,!"])
def test_a_picture_that_is_none_is_refused(client: openai.OpenAI, image: str) -> None:
    answer = httpx2.post(f"{client.base_url}images/variations", json={"image": image})
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert httpx2.post(f"{client.base_url}images/edits", content=b"{").status_code == 400
    assert httpx2.post(f"{client.base_url}completions", json={"prompt": "x"}).status_code == 404


def test_a_sound_is_written_down(client: openai.OpenAI, pictures: Server) -> None:
    model = pictures.pictures["ear"]
    sound = np.sin(np.arange(3200) / 9).astype(np.float32)
    made = client.audio.transcriptions.create(model="ear", file=("a.wav", audio.encode(sound, 16_000)))
    whole = audio.decode(audio.encode(sound, 16_000), 16_000)
    assert made.text == transcribe(model.module, model.codec, [whole])[0]
    more = client.audio.transcriptions.create(model="ear", file=("a.wav", audio.encode(sound, 16_000)),
                                              response_format="verbose_json")
    assert more.duration == pytest.approx(0.2) and more.text == made.text
    with pytest.raises(openai.BadRequestError, match="file"):
        client.audio.transcriptions.create(model="ear", file=("a.wav", b"nonsense"))
    with pytest.raises(openai.NotFoundError):
        client.audio.transcriptions.create(model="paint", file=("a.wav", b"nonsense"))


def test_runs_are_looked_up_and_preferences_kept(client: openai.OpenAI, pictures: Server) -> None:
    root = str(client.base_url).removesuffix("/v1/")
    assert [r["name"] for r in httpx2.get(f"{root}/api/runs").json()] == ["base"]
    assert httpx2.get(f"{root}/api/runs/base").json()["log"] == [{"step": 1, "loss": 2.5}]
    assert isinstance(pictures.runs, Path)
    for planned, seen in (("other", {}), ("base", {"run": {"name": "base"}, "loss": 2.0})):
        (pictures.runs / "plan.json").write_text(json.dumps({"run": {"name": planned}, "loss": 2.0}))
        assert httpx2.get(f"{root}/api/runs/base").json()["plan"] == seen
    for name in ("link", "..%2Fbase", "....", "nope"):
        assert httpx2.get(f"{root}/api/runs/{name}").status_code == 404
    body = {"prompt": "a", "chosen": "b", "rejected": "c", "model_chosen": "x"}
    assert httpx2.post(f"{root}/v1/preferences", json=body).status_code == 200
    path = pictures.preferences
    assert isinstance(path, Path) and json.loads(path.read_text())["chosen"] == "b"
