"""Models from Python: `load`, `save`, and what a loaded model can do.

    model = meristem.load("runs/quickstart/base")
    model.generate("def add(a, b):", length=40)           # text
    model.chat([{"role": "user", "content": "Hello"}])    # an answer, where the model has a chat template
    model.score("import os\n").bits_per_byte              # how likely a text is
    model.embed("import os\n")                            # a vector
    model.classify("a moving film")                       # {"positive": 0.98, ...}, a fine-tuned encoder
    model.module                                          # the plain torch.nn.Module
    meristem.save(model, "somewhere/else")                # a folder that transformers loads, too

docs/python.md walks through it.
"""
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from meristem.adapt import files
from meristem.codecs.base import Codec, begin
from meristem.codecs.chat import Chat, Message
from meristem.core.errors import RequestError
from meristem.data.conversations import Reader
from meristem.generate import encode, infill, seeing
from meristem.generate.encode import Pooling
from meristem.generate.pictures import Painter
from meristem.generate.sampling import Sampling
from meristem.generate.score import logprobs
from meristem.generate.seq2seq import EncoderDecoder
from meristem.generate.text import Completion, complete, whole
from meristem.hub import hf
from meristem.train.adapted import opened

CREATIVE = Sampling(temperature=0.8, top_p=0.95)


@dataclass(frozen=True)
class TextScore:
    """How likely a model finds a text: natural log p of each token, the first one as the beginning of a document."""

    tokens: np.ndarray                  # int32 [n]
    logprobs: np.ndarray                # float32 [n]
    bytes: int                          # UTF-8 length of the text
    exact: bool = True                  # whether the tokens give back the text

    @property
    def nats(self) -> float:
        """-log p of the whole text."""
        return -float(self.logprobs.sum(dtype=np.float64))

    @property
    def bits_per_byte(self) -> float:
        """-log2 p over the text's UTF-8 bytes; comparable between tokenizers. RequestError when tokens lost some."""
        if not self.exact:
            raise RequestError("the tokenizer does not give this text back, so bits per byte mean nothing with it; "
                               "compare nats per token")
        return self.nats / log(2) / max(self.bytes, 1)


@dataclass(frozen=True)
class Model:
    """A network, its codec and where it came from."""

    module: nn.Module
    codec: Codec
    family: str
    config: Any
    folder: Path
    template: Chat | None = None        # of a chat model
    ends: frozenset[int] = frozenset()  # tokens that end a text, beside the codec's

    def generate(self, prompt: str, sampling: Sampling | None = None, *, length: int | None = None,
                 temperature: float | None = None, top_k: int | None = None, top_p: float | None = None,
                 seed: int | None = None, on_text: Callable[[str], None] | None = None,
                 draft: "Model | None" = None) -> str:
        """What the model writes after `prompt`, taken as the beginning of a document.

        Settings given by name go over those of `sampling` (default: temperature 0.8, top_p 0.95). `on_text` gets the
        text piece by piece as it appears, whole characters only; the pieces join to what is returned. A smaller model
        of the same vocabulary may `draft` for `sampling.ahead`. RequestError also when a text that must satisfy a
        schema or a regular expression is cut off before it does.
        """
        given: dict[str, Any] = {"length": length, "temperature": temperature, "top_k": top_k, "top_p": top_p,
                                 "seed": seed}
        sampling = replace(sampling or CREATIVE, **{name: value for name, value in given.items() if value is not None})
        made = self.complete([prompt], sampling, on_text=on_text and (lambda row, piece: on_text(piece)), draft=draft)
        return whole(made[0], sampling).text

    def infill(self, prefix: str, suffix: str, sampling: Sampling | None = None, *, length: int | None = None,
               temperature: float | None = None, seed: int | None = None, spm: bool = False) -> str:
        """What the model writes between two texts; it must have been trained to (objectives.fill_in_the_middle).

        Where both are too long for the context, what lies farthest from the gap is left out. Settings as in
        `generate`; `spm` gives the suffix before the prefix. RequestError for a tokenizer without sentinels.
        """
        given: dict[str, Any] = {"length": length, "temperature": temperature, "seed": seed}
        sampling = replace(sampling or CREATIVE, **{name: value for name, value in given.items() if value is not None})
        return whole(self.complete([prefix], sampling, suffix=suffix, spm=spm)[0], sampling).text

    def complete(self, prompts: Sequence[str], sampling: Sampling | None = None, *,
                 on_text: Callable[[int, str], None] | None = None, draft: "Model | None" = None,
                 suffix: str | None = None, spm: bool = False,
                 images: Sequence[bytes] = ()) -> list[Completion]:
        """As `generate`, many prompts in a batch, with tokens, log-probabilities and why each one ended.

        With a `suffix`, what belongs between each prompt and it, as in `infill`. `images` (PNG, JPEG, ...) stand before
        each prompt, which is a question about them; RequestError for a model that does not see.
        """
        encode.one_way(self.module)
        sampling = sampling or CREATIVE
        source: Any = None
        if images:
            shown = [[seeing.opened(self.module, raw) for raw in images]] * len(prompts)
            rows, source = seeing.ask(self.module, Reader(self.codec), [{"input": p} for p in prompts], shown)
        elif isinstance(self.module, EncoderDecoder) and suffix is None:         # the prompt is what it reads
            source = [np.append(ids, self.codec.end) for ids in self.codec.encode_batch(list(prompts))]
            rows = [np.array([self.config.start])] * len(source)
        elif suffix is None:
            rows = [np.concatenate([[begin(self.codec)], self.codec.encode(prompt)]) for prompt in prompts]
        else:
            room = max(1, self.config.context - sampling.length)
            rows = [infill.prompt(self.codec, prompt, suffix, spm, room) for prompt in prompts]
        return complete(self.module, self.codec, rows, sampling, on_text=on_text,
                        draft=draft.module if draft else None, also=self.ends, source=source)

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None, *, tools: Sequence[Message] = (),
             variables: Mapping[str, Any] | None = None, on_text: Callable[[str], None] | None = None,
             images: Sequence[bytes] = ()) -> str:
        """The assistant's answer to `messages`, {"role": ..., "content": ...}, rendered by the model's chat template.

        `tools` (JSON schemas) and further `variables` go to the template. Special tokens spelled out in a message are
        ordinary text. `images` stand, in their order, where a user's content, a list of {"type": "text", "text": ...}
        and {"type": "image"}, has one. RequestError for a model without a template, and for what it does not take.
        """
        if self.template is None:
            raise RequestError(f"{self.folder} has no chat template: it completes text and does not converse; "
                               "use generate, or add the template that it was trained with as chat_template.jinja")
        ids, _ = self.template.encode(messages, tools=tools, generation_prompt=True, variables=variables)
        sampling, source = sampling or CREATIVE, None
        if images:
            asked, reader = {"messages": messages, "tools": tools}, Reader(self.codec, self.template)
            (ids,), source = seeing.ask(self.module, reader, [asked], [[seeing.opened(self.module, raw)
                                                                        for raw in images]])
        made = complete(self.module, self.codec, [ids], sampling, also=self.ends | self.template.ends, source=source,
                        on_text=on_text and (lambda row, piece: on_text(piece)))
        return whole(made[0], sampling).text

    def score(self, text: str) -> TextScore:
        """Log-probabilities of a text that fits the context; RequestError for a longer one."""
        ids = self._ids(text)
        return TextScore(ids[1:], logprobs(self.module, [ids])[0], len(text.encode()),
                         self.codec.decode(ids[1:]) == text)

    def embed(self, text: str, pooling: Pooling | None = None) -> Float[Tensor, "D"]:
        """A vector, fp32: the network's last features, pooled as its folder says, else their mean.

        Folders of sentence-transformers say it. RequestError for a text beyond the context.
        """
        return self.embed_batch([text], pooling)[0]

    def embed_batch(self, texts: Sequence[str], pooling: Pooling | None = None) -> Float[Tensor, "N D"]:
        """As `embed`, many texts."""
        return encode.embed(self.module, self.codec, texts, pooling or Pooling.read(self.folder))

    def classify(self, text: str) -> dict[str, float]:
        """The probability of each class, largest first; RequestError for a model without a head of classes."""
        shares = encode.classify(self.module, self.codec, [text])[0].tolist()
        return dict(sorted(zip(self.config.labels, shares, strict=True), key=lambda item: -item[1]))

    def _ids(self, text: str) -> np.ndarray:
        ids = np.concatenate([[begin(self.codec)], self.codec.encode(text)]).astype(np.int32)
        if len(ids) > self.config.context + 1:
            raise RequestError(f"the text has {len(ids) - 1} tokens, the model's context is {self.config.context}; "
                               "shorten it, or score it in pieces")
        return ids


def load(path: str | Path) -> Model:
    """A model from a run folder, a model folder (ours or the Hub's layout), an adapter folder or a Hub id.

    An adapter's base is looked for from its folder upwards, then from the working folder, then as a Hub id. A Hub id is
    `org/name` or `org/name@revision`, see `hub.cache`. RequestError, one line, for whatever is wrong.
    """
    loaded = opened(path)
    if loaded.codec is None:
        raise RequestError(f"{loaded.folder} has no tokenizer.json, so it cannot be used on text")
    return Model(loaded.module, loaded.codec, loaded.family, loaded.config, loaded.folder, loaded.chat, loaded.ends)


def painter(path: str | Path) -> Painter:
    """What paints with the model of a run folder or of a folder in Stable Diffusion's layout (model_index.json).

    `generate.pictures.paint(painter(path), Wish(texts=("a red circle",) * 16))` gives pictures [16, C, H, W].
    """
    from meristem.train.painting import open_painter
    return open_painter(Path(path))


def save(model: Model, folder: str | Path) -> None:
    """Write a model folder in the Hugging Face layout, whole or not at all; adapters are merged into a copy."""
    module = files.merge(copy.deepcopy(model.module))
    hf.save(Path(folder), model.family, model.config, module, model.codec, chat=model.template)
