"""One tiny chat model in a folder, and a server of it that the tests of a module share."""
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import uvicorn

from meristem.codecs import bpe, chat
from meristem.codecs.chat import CHATML_TOKENS
from meristem.generate.infill import STARCODER
from meristem.hub import hf
from meristem.models.llama import Config, Model
from meristem.serve.app import application_of
from meristem.serve.guard import Guard
from meristem.serve.keys import Keys
from meristem.serve.loading import Options, TextModel, load_text
from meristem.serve.server import Server
from meristem.serve.settings import Settings

TEXT = ("the quick brown fox jumps over the lazy dog; a wise man once said: "
        "{\"name\": [1, 2.5, true, null]} def add(a, b):\n")
SMALL = Settings(rows=16, chunk=64, queue=64, memory=8 << 20)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of 400 tokens with a chat template, saved as a run leaves it."""
    made = bpe.fit([TEXT * 3], vocab=360, special=[*CHATML_TOKENS, *STARCODER])
    torch.manual_seed(0)
    module = Model(Config(vocab=made.vocab, context=512, dim=32, layers=2, heads=4, groups=2)).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.15 * torch.randn(p.shape))
    out = tmp_path_factory.mktemp("models") / "tiny"
    hf.save(out, "llama", module.config, module, made, {"corpus": "c0ffee"}, chat.usual(made))
    return out


def server_of(*models: TextModel, guard: Guard | None = None, **more: object) -> Server:
    """A server in this process, its engines not started."""
    return Server({m.name: m for m in models}, guard or Guard(Keys([])), **more)


@contextlib.contextmanager
def listening(server: Server) -> Iterator[str]:
    """The server on a free port of this machine; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(application_of(server), host="127.0.0.1", port=port, log_level="error", ws="none",
                            h11_max_incomplete_event_size=16_384, loop="asyncio", http="h11")
    made = uvicorn.Server(config)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    while not made.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    made.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(folder: Path) -> Server:
    """A server of the tiny model."""
    return server_of(load_text(folder, Options(SMALL)), dev=True)


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    """Its address."""
    with listening(server) as address:
        yield address
