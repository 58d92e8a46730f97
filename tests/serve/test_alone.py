"""Models without pages behind the server: pictures in a conversation, texts read and answered, recurrent networks."""
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from PIL import Image
from torch import nn

from meristem.codecs import bpe, chat
from meristem.codecs.base import Codec, begin
from meristem.codecs.chat import CHATML_TOKENS, IMAGE
from meristem.codecs.image import encode
from meristem.core import registry
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.data.conversations import Reader
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import Sampling
from meristem.generate.seeing import ask, opened
from meristem.generate.seq2seq import answers
from meristem.generate.text import complete
from meristem.hub import hf
from meristem.serve.alone import alone
from meristem.serve.jobs import Done, Piece
from meristem.serve.loading import Options, load_text
from meristem.serve.server import Server
from tests.serve.conftest import SMALL, TEXT, listening, server_of

LANGUAGE = {"name": "llama", "fields": {"dim": 32, "layers": 2, "heads": 2, "hidden": 64}}
SHAPES: dict[str, dict[str, Any]] = {
    "llava": {"context": 96, "language": LANGUAGE, "vision": {"name": "clip", "fields": {
        "image": 16, "patch": 8, "vision": {"dim": 32, "layers": 1, "heads": 2}}}},
    "flamingo": {"context": 96, "language": LANGUAGE, "latents": 2, "heads": 2, "every": 1, "vision": {
        "name": "vit", "fields": {"image": 16, "patch": 8, "dim": 32, "layers": 1, "heads": 2}}},
    "t5": {"dim": 32, "head_dim": 8, "hidden": 48, "layers": 1, "decoder_layers": 1, "heads": 2, "context": 64},
    "lstm": {"dim": 32, "layers": 1, "context": 64}}


def saved(folder: Path, name: str, codec: Codec) -> None:
    """A random model in a folder, every weight moved."""
    family = registry.load("models", name)
    image = {"image_token": codec.tokenizer.token_to_id(IMAGE)} if "language" in SHAPES[name] else {}
    config = from_dict(family.Config, {"vocab": codec.vocab, **SHAPES[name], **image})
    torch.manual_seed(1)
    module: nn.Module = family.Model(config).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    hf.save(folder / name, name, config, module, codec, None, chat.usual(codec) if name == "llava" else None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """All four."""
    folder = tmp_path_factory.mktemp("alone")
    codec = bpe.fit([TEXT * 3], vocab=330, special=[*CHATML_TOKENS, IMAGE])
    for name in SHAPES:
        saved(folder, name, codec)
    return server_of(*(load_text(folder / name, Options(SMALL)) for name in SHAPES))


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    """OpenAI's client."""
    with listening(server) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as made:
        yield made


def picture(level: int) -> bytes:
    """A grey square with a dark corner."""
    pixels = np.full((3, 16, 16), level, dtype=np.uint8)
    pixels[:, :6, :6] = 0
    return encode(pixels)


def said(*pictures: bytes | str, text: str = "the fox") -> list[dict[str, Any]]:
    """A conversation that shows pictures (a text: as their address)."""
    urls = [one if isinstance(one, str) else "data:image/png;base64," + base64.b64encode(one).decode()
            for one in pictures]
    return [{"role": "user", "content": [{"type": "text", "text": text},
                                         *({"type": "image_url", "image_url": {"url": url}} for url in urls)]}]


def wanted(server: Server, name: str, pictures: list[bytes], sampling: Sampling, copies: int = 1) -> list[Any]:
    """What the shell writes."""
    model = server.texts[name]
    content = [{"type": "text", "text": "the fox"}, *({"type": "image"} for _ in pictures)]
    row: dict[str, Any] = {"messages": [{"role": "user", "content": content}]} if model.template else \
        {"input": "the fox"}
    some = [opened(model.module, raw) for raw in pictures]
    prompts, shown = ask(model.module, Reader(model.codec, model.template), [row] * copies, [some] * copies)
    return complete(model.module, model.codec, prompts, sampling, also=model.stops, source=shown)


@pytest.mark.parametrize("name", ["llava", "flamingo"])
def test_a_picture_in_a_conversation(name: str, server: Server, client: openai.OpenAI) -> None:
    """The texts and log-probabilities are those of the shell, streamed and not; another picture has others."""
    sampling, given = Sampling(length=6, temperature=0.9, seed=3), {"max_tokens": 6, "temperature": 0.9, "seed": 3}
    made = client.chat.completions.create(model=name, messages=said(picture(200)), logprobs=True, n=2, **given)
    want = wanted(server, name, [picture(200)], sampling, 2)
    assert [c.message.content for c in made.choices] == [one.text for one in want]
    assert [c.finish_reason for c in made.choices] == [one.reason for one in want]
    found = [t.logprob for c in made.choices for t in c.logprobs.content]
    assert found == pytest.approx([p for one in want for p in one.logprobs], abs=1e-4)
    assert made.usage.completion_tokens == len(found) and made.usage.prompt_tokens > 4
    pieces = list(client.chat.completions.create(model=name, messages=said(picture(200)), stream=True, **given))
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == want[0].text
    other = client.chat.completions.create(model=name, messages=said(picture(40)), logprobs=True, **given)
    assert [t.logprob for t in other.choices[0].logprobs.content] != found[:len(want[0].tokens)]
    newer = client.responses.create(model=name, temperature=0, max_output_tokens=3, input=[
        {"role": "user", "content": [{"type": "input_image", "detail": "auto", "image_url": said(picture(9))[0][
            "content"][1]["image_url"]["url"]}]}])
    assert newer.usage.output_tokens <= 3
    plain = client.chat.completions.create(model=name, messages=[{"role": "user", "content": "fox"}], max_tokens=2)
    assert plain.choices[0].finish_reason in ("stop", "length")


def test_two_pictures_stand_where_they_are_named(server: Server, client: openai.OpenAI) -> None:
    both, swapped = ([t.logprob for t in client.chat.completions.create(
        model="llava", messages=said(*pair), max_tokens=4, temperature=0, logprobs=True).choices[0].logprobs.content]
        for pair in ((picture(30), picture(220)), (picture(220), picture(30))))
    assert both == pytest.approx(wanted(server, "llava", [picture(30), picture(220)], Sampling(length=4))[0].logprobs,
                                 abs=1e-4)
    assert both != swapped


def test_what_is_no_picture_is_refused_in_a_line(client: openai.OpenAI) -> None:
    bomb = io.BytesIO()
    Image.new("1", (8000, 8000)).save(bomb, format="PNG")      # 64 million pixels in 10 kB
    for wrong, line in (("https://example.org/x.png", "never fetched"), ("data:image/png;base64,AAAA", "picture 1"),
                        (bomb.getvalue(), "million pixels|pixels"), ("file:///etc/passwd", "data URL")):
        with pytest.raises(openai.BadRequestError, match=line):
            client.chat.completions.create(model="llava", messages=said(wrong), max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="16 pictures, not 17"):
        client.chat.completions.create(model="llava", messages=said(*[picture(1)] * 17), max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model="flamingo", messages=[*said(picture(1)), *said()], max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(model="llava", messages=said(*[picture(1)] * 16, text="fox " * 90))
    for name in ("t5", "lstm"):
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(model=name, messages=said(picture(1)), max_tokens=1)


def test_an_encoder_decoder_answers_what_it_reads(server: Server, client: openai.OpenAI) -> None:
    model = server.texts["t5"]
    asked = ["the lazy dog", "def add"]
    made = client.completions.create(model="t5", prompt=asked, max_tokens=6, temperature=0)
    assert [c.text for c in made.choices] == answers(model.module, model.codec, asked, length=6)
    assert made.usage.prompt_tokens == sum(len(model.codec.encode(one)) + 1 for one in asked)
    for more in ({"echo": True}, {"suffix": "x"}):
        with pytest.raises(openai.BadRequestError, match="neither echo nor suffix"):
            client.completions.create(model="t5", prompt="x", **more)
    with pytest.raises(openai.BadRequestError, match="does not do embeddings; it can: completions"):
        client.embeddings.create(model="t5", input="x")


def test_a_recurrent_network_goes_on_from_a_prompt(server: Server, client: openai.OpenAI) -> None:
    model = server.texts["lstm"]
    prompt = np.concatenate([[begin(model.codec)], model.codec.encode("the fox")])
    want = generate(model.module, [prompt], length=8, temperature=1.0, seed=5, stop=model.stops)[0]
    made = client.completions.create(model="lstm", prompt="the fox", max_tokens=8, temperature=1, seed=5, logprobs=0)
    assert made.choices[0].logprobs.token_logprobs == pytest.approx(want.logprobs, abs=1e-4)


def test_a_client_that_leaves_ends_its_text(server: Server) -> None:
    """At the next piece; the engine goes on."""
    model, heard = load_text(server.texts["lstm"].folder, Options(SMALL)), list[Any]()
    jobs = [alone(model, [5, 6], Sampling(length=30, temperature=1.0, seed=n), 1, "", float("inf")) for n in range(2)]
    jobs[0].tell = lambda event: (heard.append(event), model.engine.cancel(jobs[0]))
    jobs[1].tell = heard.append
    before = model.engine.counts.cancelled
    for job in jobs:
        model.engine.submit(job)
    with model.engine.ready():
        while model.engine.step():
            pass
    assert model.engine.counts.cancelled == before + 1
    assert isinstance(heard[0], Piece) and isinstance(heard[-1], Done) and heard[-1].facts["written"] <= 30
    with pytest.raises(RequestError, match="context of 64"):
        alone(model, [5] * 65, Sampling(), 1, "", float("inf"))
