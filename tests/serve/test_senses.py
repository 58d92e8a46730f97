"""Sounds, films, chains and a policy behind the server, and their tabs of the page in headless Chromium."""
import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from torch import nn

from meristem.codecs import action, audio, protein, video
from meristem.codecs.char import Char
from meristem.core import registry
from meristem.core.config import from_dict
from meristem.data.gridworld import Gridworld
from meristem.generate.acting import Actor
from meristem.generate.pictures import Wish
from meristem.generate.residues import marginals
from meristem.hub import hf
from meristem.serve.engine import Engine
from meristem.serve.loading import Identity, Options, load_text
from meristem.serve.pictures import PictureModel, load_pictures
from meristem.serve.senses import load_senses
from meristem.serve.server import Server
from meristem.serve.settings import Settings
from tests.models.test_clap import OURS
from tests.serve.conftest import listening, server_of

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
                "")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync",
         "--disable-component-update", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
EXACT = Settings(rows=4, queue=16, memory=8 << 20, exact=True)                  # no native kernel to build
CHAIN = "MKTAYW"
SHAPES = {
    "esm": {"dim": 16, "layers": 1, "heads": 2, "context": 32},
    "clap": {key: value for key, value in OURS.items() if key not in ("vocab", "end")},
    "whisper": {"context": 12, "places": 10, "mels": 8, "dim": 16, "layers": 1, "heads": 2, "start": 0},
    "llava": {"context": 64, "image_token": 1, "layer": -1,
              "language": {"name": "llama", "fields": {"dim": 32, "layers": 1, "heads": 2, "hidden": 64}},
              "vision": {"name": "clip", "fields": {"image": 40, "patch": 20, "vision": {"dim": 32, "layers": 1,
                                                                                         "heads": 2}}}}}


class Filmed:
    """A painter of films of three frames, each brighter; the first is the one that is given."""

    side, channels, hows = 8, 3, frozenset({"new", "begin"})

    def paint(self, wish: Wish) -> torch.Tensor:
        """[N, 3, 3, 8, 8]."""
        film = torch.linspace(-1, 1, 3)[None, :, None, None, None].expand(1, 3, 3, 8, 8).clone()
        if wish.image is not None:
            film[:, 0] = wish.image
        return film


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """One random model of each sense, as `meristem serve` opens their folders."""
    place, letters = tmp_path_factory.mktemp("senses"), Char("".join(chr(97 + i) for i in range(26)) + " ")
    words = action.fit(["go to the red circle", "is there a blue square?"], 640)
    made = {"esm": protein.fit(), "clap": letters, "whisper": letters, "llava": words}
    for name, codec in made.items():
        torch.manual_seed(0)
        entry = registry.load("models", name)
        config = from_dict(entry.Config, {**SHAPES[name], "vocab": codec.vocab, **({} if name == "llava" else
                                                                                 {"end": codec.end})})
        module = entry.Model(config).eval()
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.05 * torch.randn(p.shape))
        hf.save(place / name, name, config, module, codec)
    server, options = server_of(), Options(EXACT)
    for name in made:
        model = load_senses(place / name, options) or load_pictures(place / name, options)
        if model is None:
            server.texts[name] = load_text(place / name, options)
        else:
            server.pictures[name] = model
    server.pictures["film"] = PictureModel("film", "films", ["films.generate"], Engine(nn.Identity(), None, EXACT),
                                           Identity("film", "abc"), Filmed())
    return server


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    with listening(server) as address:
        yield address


def sound() -> bytes:
    return audio.encode(np.sin(np.arange(3200) / 9).astype(np.float32), 8000)


def pixels(given: str) -> bytes:
    return base64.b64decode(given.partition(",")[2])


def test_what_each_can(server: Server) -> None:
    can = {name: model.can for name, model in server.models().items()}
    assert can == {"esm": ["embeddings", "residues"], "clap": ["audio.zero_shot"], "llava": ["act"],
                   "whisper": ["audio.transcriptions"], "film": ["films.generate"]}


def test_residues_are_masked_one_by_one(url: str, server: Server) -> None:
    told = httpx2.post(f"{url}/v1/residues", json={"model": "esm", "input": "mkta yw"}).json()["data"]
    model = server.texts["esm"]
    logp = marginals(model.module, model.codec, CHAIN)
    twenty = [int(model.codec.encode(letter)[0]) for letter in protein.RESIDUES]
    want = logp[:, twenty].log_softmax(-1)
    assert [one["residue"] for one in told] == list(CHAIN)
    assert told[2]["logprob"] == pytest.approx(float(want[2, protein.RESIDUES.index("T")]), abs=1e-5)
    assert told[0]["likeliest"][0][1] == pytest.approx(float(want[0].max()), abs=1e-5)
    for given, what in ((CHAIN + "1", "written in the letters"), (" ", "has none")):
        answer = httpx2.post(f"{url}/v1/residues", json={"model": "esm", "input": given})
        assert answer.status_code == 400 and what in answer.json()["error"]["message"]


def test_words_for_a_sound(url: str, server: Server) -> None:
    given = "data:audio/wav;base64," + base64.b64encode(sound()).decode()
    told = httpx2.post(f"{url}/v1/audio/zero-shot", json={"audio": given, "labels": ["a dog", "rain", "wind"]}).json()
    assert {one["label"] for one in told["data"]} == {"a dog", "rain", "wind"}
    assert sum(one["score"] for one in told["data"]) == pytest.approx(1, abs=1e-5)
    for wrong in ("http://127.0.0.1/a.wav", "data:audio/wav;base64,!", "data:audio/wav;base64,AAAA"):
        assert httpx2.post(f"{url}/v1/audio/zero-shot", json={"audio": wrong, "labels": ["a"]}).status_code == 400


def test_a_film_goes_on_from_a_frame(url: str) -> None:
    told = httpx2.post(f"{url}/v1/films", json={"prompt": "x", "seed": 1, "steps": 2}).json()
    assert len(told["frames"]) == 3 and video.decode(pixels(told["gif"])).shape == (3, 3, 8, 8)
    again = httpx2.post(f"{url}/v1/films", json={"image": told["frames"][2], "steps": 2}).json()
    assert again["frames"][0] == told["frames"][2] != told["frames"][0]
    assert httpx2.post(f"{url}/v1/films", json={"model": "clap"}).status_code == 400


def test_a_policy_takes_a_step_in_a_world_of_the_clients(url: str, server: Server) -> None:
    world = httpx2.get(f"{url}/v1/world", params={"seed": 3}).json()
    episode = Gridworld().episode("validation", 3)
    assert world["instruction"] == episode.instruction and tuple(world["at"]) == episode.at
    body = {key: world[key] for key in ("instruction", "things", "at", "size")}
    told = httpx2.post(f"{url}/v1/act", json=body, timeout=60).json()             # it may build the native kernel
    model = server.pictures["llava"]
    want = Actor(model.module, model.codec, 3)([episode.instruction], [episode.frame()])[0]
    assert told["action"] == pytest.approx(want.tolist()) and told["over"] == episode.act(want)
    assert tuple(told["at"]) == episode.at and told["success"] == episode.success
    wrong = {**body, "things": [{"x": 9, "y": 0, "colour": "red", "shape": "circle"}]}
    assert httpx2.post(f"{url}/v1/act", json=wrong).status_code == 400
    assert httpx2.post(f"{url}/v1/act", json={**body, "things": [{**body["things"][0], "colour": "x"}]}
                       ).status_code == 400


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_the_tabs_of_the_senses(url: str, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    (tmp_path / "a.wav").write_bytes(sound())
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 900, "height": 700})
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.set_default_timeout(60_000)
        page.goto(url)

        def opened(name: str) -> sync_api.Locator:
            page.get_by_role("tab", name=name).click()
            return page.get_by_role("tabpanel")

        def done(text: str | re.Pattern[str]) -> None:
            page.get_by_role("status").get_by_text(text).wait_for()

        panel = opened("Hear")
        panel.get_by_label("Sound").set_input_files(tmp_path / "a.wav")
        done("0.4 seconds")
        panel.get_by_role("button", name="What is said?").click()
        done("Heard.")
        assert panel.get_by_label("Words").text_content()
        panel.get_by_label("Labels").fill("a dog\nrain")
        panel.get_by_role("button", name="Name it").click()
        panel.locator("table td").last.wait_for()
        shares = [float(text.split()[0]) for text in panel.locator("table td:last-child").all_text_contents()]
        assert len(shares) == 2 and sum(shares) == pytest.approx(100, abs=0.2)
        panel.get_by_role("button", name="Record").click()     # Chromium's own microphone of beeps
        page.wait_for_timeout(1500)                            # longer than the 0.4 s of before, on a busy machine too
        panel.get_by_role("button", name="Stop recording").click()
        sync_api.expect(page.get_by_role("status")).not_to_have_text("Heard.")
        sync_api.expect(panel.locator("canvas.wave")).not_to_have_attribute("aria-label", "a sound of 0.4 seconds")

        panel = opened("Films")
        panel.get_by_role("button", name="Paint a film").click()
        done("frame 1 of 3")
        first = panel.locator("img.film").get_attribute("src")
        panel.get_by_label("Frame", exact=True).fill("2")
        done("frame 3 of 3")
        assert panel.locator("img.film").get_attribute("src") != first
        assert (panel.get_by_text("Save as GIF").get_attribute("href") or "").startswith("data:image/gif")

        panel = opened("Proteins")
        panel.get_by_label("Chain").fill(CHAIN)
        panel.get_by_role("button", name="Colour").click()
        done("6 residues")
        assert panel.locator(".token").count() == 6 and panel.locator(".token").first.get_attribute("style")

        panel = opened("Act")
        done("A new world.")
        panel.get_by_label("Instruction").fill("go to the red circle")
        panel.get_by_role("button", name="One step").click()
        panel.locator("ol li").first.wait_for()
        assert wrong == []
        browser.close()


def test_a_folder_of_text_is_left_to_the_text_side(folder: Path) -> None:
    assert load_senses(folder, Options()) is None and load_senses(folder / "nothing", Options()) is None
