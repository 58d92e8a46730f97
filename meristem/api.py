"""Models from Python: `load`, `save`, and what a loaded model can do.

    model = meristem.load("runs/quickstart/base")
    model.generate("def add(a, b):", length=40)           # text
    model.score("import os\n").bits_per_byte              # how likely a text is
    model.embed("import os\n")                            # a vector
    model.module                                          # the plain torch.nn.Module
    meristem.save(model, "somewhere/else")                # a folder that transformers loads, too

docs/python.md walks through it.
"""
import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.adapt import lora
from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.generate import autoregressive
from meristem.generate.score import logprobs
from meristem.hub import hf

UNFINISHED = "\ufffd"                   # what a decoder writes for bytes that are not yet a whole character


@dataclass(frozen=True)
class TextScore:
    """How likely a model finds a text: natural log p of each token, the first one as the beginning of a document."""

    tokens: np.ndarray                  # int32 [n]
    logprobs: np.ndarray                # float32 [n]
    bytes: int                          # UTF-8 length of the text

    @property
    def nats(self) -> float:
        """-log p of the whole text."""
        return -float(self.logprobs.sum(dtype=np.float64))

    @property
    def bits_per_byte(self) -> float:
        """-log2 p over the text's UTF-8 bytes; comparable between tokenizers."""
        return self.nats / log(2) / max(self.bytes, 1)


@dataclass(frozen=True)
class Model:
    """A network, its codec and where it came from."""

    module: nn.Module
    codec: Codec
    family: str
    config: Any
    folder: Path

    def generate(self, prompt: str, *, length: int = 64, temperature: float = 0.8, top_k: int = 0,
                 top_p: float = 0.95, seed: int = 0, on_text: Callable[[str], None] | None = None) -> str:
        """What the model writes after `prompt`, taken as the beginning of a document.

        `on_text` gets it piece by piece as it appears, whole characters only; the pieces join to what is returned.
        """
        ids = np.concatenate([[self.codec.end], self.codec.encode(prompt)])
        tokens: list[int] = []
        shown = ""

        def show(row: int, token: int) -> None:
            nonlocal shown
            tokens.append(token)
            text = self.codec.decode(tokens)
            if on_text and len(text) > len(shown) and not text.endswith(UNFINISHED):
                on_text(text[len(shown):])
                shown = text

        made = autoregressive.generate(self.module, [ids], length=length, temperature=temperature, top_k=top_k,
                                       top_p=top_p, seed=seed, stop={self.codec.end},
                                       on_token=show if on_text else None)
        text = self.codec.decode(made[0].tokens)
        if on_text and len(text) > len(shown):                 # a character that was never finished
            on_text(text[len(shown):])
        return text

    def score(self, text: str) -> TextScore:
        """Log-probabilities of a text that fits the context; RequestError for a longer one."""
        ids = self._ids(text)
        return TextScore(ids[1:], logprobs(self.module, [ids])[0], len(text.encode()))

    @torch.no_grad()
    def embed(self, text: str) -> Float[Tensor, "D"]:
        """The mean over its tokens of the network's last features, fp32; RequestError for a text beyond the context."""
        ids = torch.as_tensor(self._ids(text), dtype=torch.long)
        return self.module.features(ids[None]).float().mean((0, 1))          # type: ignore[operator]

    def _ids(self, text: str) -> np.ndarray:
        ids = np.concatenate([[self.codec.end], self.codec.encode(text)]).astype(np.int32)
        if len(ids) > self.config.context + 1:
            raise RequestError(f"the text has {len(ids) - 1} tokens, the model's context is {self.config.context}; "
                               "shorten it, or score it in pieces")
        return ids


def load(path: str | Path) -> Model:
    """A model from a run folder, a model folder (ours or the Hub's layout) or a LoRA adapter folder (with its base).

    RequestError, one line, for whatever is wrong with the folder.
    """
    folder = Path(path).expanduser()
    base = lora.base_of(folder) if (folder / lora.CONFIG).is_file() else None
    if base == "":
        raise RequestError(f"{folder / lora.CONFIG} does not name its base model; load the base, then call "
                           f"lora.load({str(folder)!r}, ...)")
    loaded = hf.load(base or folder)
    if loaded.codec is None:
        raise RequestError(f"{loaded.folder} has no tokenizer.json, so it cannot be used on text")
    module = loaded.module
    if base:
        module = lora.load(folder, module, loaded.family, hf.identity(loaded.family, module)).eval()
    return Model(module, loaded.codec, loaded.family, loaded.config, loaded.folder)


def save(model: Model, folder: str | Path) -> None:
    """Write a model folder in the Hugging Face layout, whole or not at all; adapters are merged into a copy."""
    module = lora.merge(copy.deepcopy(model.module))
    hf.save(Path(folder), model.family, model.config, module, model.codec)
