"""The page at /, used in headless Chromium as a person does; its screenshots are those of docs/pictures.

    MERISTEM_SCREENSHOTS=docs/pictures pytest tests/serve/test_page.py

Skipped where there is no Chromium (Debian: apt install chromium).
"""
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from meristem.codecs import bpe, chat
from meristem.codecs import load as load_codec
from meristem.codecs.image import encode
from meristem.core import registry
from meristem.core.config import from_dict
from meristem.data import scenes
from meristem.hub import hf
from meristem.recipes import resolve
from meristem.serve.loading import Options, load_text
from meristem.serve.pictures import load_pictures
from meristem.serve.server import Server
from meristem.train.run import pretrain
from tests.serve.conftest import SMALL, TEXT, server_of
from tests.serve.test_alone import saved
from tests.train.test_pictures import EDITS
from tests.train.test_pictures import SMALL as SHORT

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), "")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync",
         "--disable-component-update"]
Page, expect = sync_api.Page, sync_api.expect


def written_run(folder: Path) -> None:
    """A run folder as far as the page reads it."""
    (folder / "evals").mkdir(parents=True)
    (folder / "recipe.json").write_text("{}")
    rows = [{"step": n, "loss": 4 - n / 20, **({} if n % 5 else {"validation": 4.1 - n / 20})} for n in range(1, 41)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "samples.jsonl").write_text('{"step": 40, "text": "once upon a <b>time</b>"}\n')
    (folder / "plan.json").write_text('{"loss": 2.2, "loss_low": 2.0, "loss_high": 2.5}')
    (folder / "result.json").write_text('{"step": 40, "validation": 2.1, "tokens": 4096}')
    (folder / "energy.json").write_text('{"joules": 720.0, "low": 360.0, "high": 1800.0, "method": "estimated"}')
    score = {"name": "bits_per_byte", "value": 1.25, "n": 80, "interval": {"low": 1.1, "high": 1.4},
             "baseline": {"value": 1.5, "what": "5-gram"}, "contamination": {"exact": 0, "gram13": 3}}
    (folder / "evals" / "bits_per_byte.json").write_text(json.dumps({"scores": [score]}))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given") / "picture.png"
    pixels = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    pixels[0, 8:24, 8:24] = 20
    path.write_bytes(encode(pixels.numpy()))
    return path


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A chat model twice, a painter, towers and a segmenter, all tiny; a run; and a file of preferences."""
    place = tmp_path_factory.mktemp("page")
    options = Options(dataclasses.replace(SMALL, exact=True))  # no native kernel to build
    shutil.copytree(folder, place / "other")
    corpus = scenes.make(place / "corpus", {"documents": 24, "side": 16, "held_out": 0.0})
    edits = {**SHORT, **EDITS["diffusion"], "train.steps": 1, "data.corpus": str(corpus.folder)}
    pretrain(resolve("diffusion", edits)[0], place / "diffusion")
    sam, clip, codec = registry.load("models", "sam"), registry.load("models", "clip"), load_codec(folder)
    config = sam.Config(image=32, patch=8, dim=32, layers=1, heads=2, width=32, window=2, decoder_hidden=32)
    hf.save(place / "sam", "sam", config, sam.Model(config))
    tower = {"dim": 32, "layers": 1, "heads": 2}
    config = from_dict(clip.Config, {"vocab": codec.vocab, "end": codec.end, "context": 16, "image": 16, "patch": 4,
                                     "project": 16, "text": tower, "vision": tower})
    hf.save(place / "clip", "clip", config, clip.Model(config), codec)
    written_run(place / "runs" / "first")
    saved(place, "llava", bpe.fit([TEXT * 3], vocab=330, special=[*chat.CHATML_TOKENS, chat.IMAGE]))
    texts = [load_text(path, options) for path in (folder, place / "other", place / "llava")]
    made = server_of(*texts, runs=place / "runs", preferences=place / "preferences.jsonl")
    for name, path in (("painter", "diffusion"), ("towers", "clip"), ("segmenter", "sam")):
        model = load_pictures(place / path, options)
        assert model is not None
        model.name = name
        made.pictures[name] = model
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as play:
        made = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def page(browser: sync_api.Browser, server: Server, url: str) -> Iterator[Page]:
    """The page, just opened; any error of a script fails the test."""
    made = browser.new_page(viewport={"width": 1000, "height": 760})
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    ours = (url, "data:", "blob:")
    made.on("request", lambda asked: None if asked.url.startswith(ours) else wrong.append(f"asked {asked.url}"))
    made.set_default_timeout(60_000)
    made.goto(url)
    made.get_by_role("tab", name="Chat").wait_for()
    yield made
    made.close()
    assert not wrong, wrong


def shot(page: Page, name: str) -> None:
    if folder := os.environ.get("MERISTEM_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"page-{name}.png"))


def opened(page: Page, name: str) -> sync_api.Locator:
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel")


def send(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def done(page: Page, text: str) -> None:
    page.get_by_role("status").get_by_text(text).wait_for()


def test_a_conversation(page: Page) -> None:
    panel = opened(page, "Chat")
    panel.get_by_label("Tokens at most").fill("12")
    send(page, "the quick brown")
    done(page, "The answer is complete.")
    answer = page.locator("article.assistant .text")
    first = answer.text_content()
    assert first and "%" in (answer.locator(".token").first.get_attribute("title") or "")
    panel.get_by_label("Colour tokens by probability").check()
    assert answer.locator(".token").first.get_attribute("style")
    shot(page, "chat")
    panel.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Regenerate").click()
    done(page, "The answer is complete.")
    assert answer.text_content() != first
    page.get_by_role("button", name="Edit").click()
    assert page.get_by_label("Message").input_value() == "the quick brown" and answer.count() == 0


def test_a_picture_is_attached(page: Page, picture: Path) -> None:
    panel = opened(page, "Chat")
    files = panel.get_by_label("Pictures")
    expect(files).to_be_hidden()                               # this model sees none
    panel.get_by_label("Model").select_option("llava")
    files.set_input_files(picture)
    panel.get_by_label("Tokens at most").fill("6")
    with page.expect_request("**/v1/chat/completions") as asked:
        send(page, "what is it?")
    parts = asked.value.post_data_json["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]
    assert parts[0]["image_url"]["url"].startswith("data:image/png;base64,")
    done(page, "The answer is complete.")
    assert panel.get_by_alt_text("Picture 1 of the message").count() == 1
    assert files.input_value() == ""
    shot(page, "sees")


def test_a_stopped_answer_frees_the_server(page: Page, server: Server) -> None:
    panel = opened(page, "Chat")
    panel.get_by_label("Tokens at most").fill("400")
    panel.get_by_label("Temperature").fill("1.5")
    send(page, "a wise man")
    expect(page.locator("article.assistant .text")).to_have_text(re.compile(r"\S{3}"), timeout=60_000)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Regenerate").wait_for()
    engine = server.texts["tiny"].engine
    page.wait_for_timeout(300)
    assert not engine.rows, "the request is still written though nobody listens"


def test_a_schema_binds_the_answer_and_a_wrong_one_is_one_line(page: Page) -> None:
    page.get_by_text("Instructions, examples").click()
    page.get_by_label("JSON schema of the answer").fill("{")
    send(page, "hello")
    page.get_by_role("alert").get_by_text("the schema is not JSON").wait_for()
    page.get_by_label("JSON schema of the answer").fill(json.dumps({"enum": ["lazy", "quick"]}))
    page.get_by_role("button", name="Add an example").click()
    page.get_by_label("Question of an example").fill("fox?")
    page.get_by_label("Answer of an example").fill('"quick"')
    send(page, "dog?")
    done(page, "The answer is complete.")
    assert page.locator("article.assistant .text").last.text_content() in ('"lazy"', '"quick"')


def test_a_tool_is_called_and_answered(page: Page) -> None:
    page.get_by_text("Instructions, examples").click()
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    page.get_by_label("Tools").fill(json.dumps([tool]))
    page.evaluate("""() => { const real = fetch; window.forced = {tool_choice: "required"};
        window.fetch = (path, given) => real(path, given?.body
            ? {...given, body: JSON.stringify({...JSON.parse(given.body), ...window.forced})} : given); }""")
    send(page, "is it raining?")
    page.get_by_label("Answer of weather").wait_for()
    page.evaluate("window.forced = {tool_choice: 'none'}")
    page.get_by_label("Answer of weather").fill("no")
    page.get_by_role("button", name="Give back").click()
    page.locator("article.tool").wait_for()


def test_two_answers_side_by_side_and_a_preference(page: Page, server: Server) -> None:
    panel = opened(page, "Compare")
    panel.get_by_label("Prompt").fill("the lazy dog")
    panel.get_by_label("Tokens at most").fill("8")
    panel.get_by_role("button", name="Ask all").click()
    panel.get_by_role("button", name="Answer 2 is better").click()
    done(page, "Kept.")
    shot(page, "compare")
    assert server.preferences is not None
    line = json.loads(server.preferences.read_text().splitlines()[-1])
    assert {line["model_chosen"], line["model_rejected"]} == {"tiny", "other"} and line["prompt"] == "the lazy dog"
    assert sorted(panel.locator("article h2").all_text_contents()) == ["other", "tiny"]


def test_a_gap_is_filled_and_a_text_is_scored(page: Page) -> None:
    panel = opened(page, "Complete")
    panel.get_by_label("Text", exact=True).fill("def add(a, b):")
    panel.get_by_label("After the gap").fill(" said")
    panel.get_by_label("Tokens at most").fill("6")
    panel.get_by_role("button", name="Go on").click()
    done(page, "The text is complete.")
    text = panel.get_by_label("Result").text_content() or ""
    assert text.startswith("def add(a, b):") and text.endswith(" said")
    shot(page, "complete")
    panel.get_by_role("button", name="How likely").click()
    done(page, "bits per byte")
    assert panel.get_by_label("Result").text_content() == "def add(a, b):"


def test_pictures_are_painted_edited_with_a_brush_and_varied(page: Page, picture: Path) -> None:
    panel = opened(page, "Pictures")
    panel.get_by_label("Steps").fill("2")
    panel.get_by_label("How many").fill("2")
    panel.get_by_role("button", name="Paint", exact=True).click()
    done(page, "2 painted.")
    assert panel.locator("figure img").count() == 2
    panel.get_by_label("Picture").first.set_input_files(picture)
    board = panel.locator("canvas")
    expect(board).to_have_attribute("width", "32")
    board.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    panel.get_by_role("button", name="Paint anew").click()
    done(page, "2 painted.")
    shot(page, "pictures")


def test_words_for_a_picture_and_the_object_under_a_click(page: Page, picture: Path) -> None:
    panel = opened(page, "See")
    files = panel.get_by_label("Picture", exact=True)
    files.first.set_input_files(picture)
    panel.get_by_label("Labels").fill("a circle\na square")
    panel.get_by_role("button", name="Classify").click()
    panel.locator("table td").last.wait_for()
    shares = [float(text.split()[0]) for text in panel.locator("table td:last-child").all_text_contents()]
    assert len(shares) == 2 and sum(shares) == pytest.approx(100, abs=0.2)
    files.last.set_input_files(picture)
    expect(panel.locator("canvas")).to_have_attribute("width", "32")
    panel.locator("canvas").click(position={"x": 30, "y": 30})
    done(page, "3 masks")
    shot(page, "see")


def test_runs_show_curve_forecast_scores_and_samples_as_text(page: Page) -> None:
    panel = opened(page, "Runs")
    panel.locator("svg path.validation").wait_for()
    assert panel.locator("svg .forecast").count() == 1
    cells = panel.locator("table").last.locator("td").all_text_contents()
    assert cells[:4] == ["bits_per_byte", "1.25", "1.1 to 1.4", "80"]
    assert panel.get_by_text("once upon a <b>time</b>").count() == 1 and panel.locator("b").count() == 0
    shot(page, "runs")


def test_keys_move_between_tabs_and_everything_has_a_name(page: Page) -> None:
    page.get_by_role("tab", name="Chat").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="Compare").get_attribute("aria-selected") == "true"
    nameless = page.evaluate("""() => [...document.querySelectorAll('button, input, select, textarea, canvas, img')]
        .filter(one => !(one.textContent.trim() && one.tagName === 'BUTTON') && !one.labels?.length
            && !one.getAttribute('aria-label') && !one.alt).map(one => one.outerHTML)""")
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_schemes(browser: sync_api.Browser, server: Server, url: str, scheme: str) -> None:
    phone = browser.new_page(viewport={"width": 360, "height": 640}, color_scheme=scheme)
    phone.goto(url)
    phone.get_by_role("tab", name="Chat").wait_for()
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    ground = phone.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    shot(phone, f"phone-{scheme}")
    phone.close()
