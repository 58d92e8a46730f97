"""A model folder for the server: checked against its manifest before anything is answered, and what it is called.

    text = load_text(Path("runs/chat"), Options())             # the engine, the tokenizer, the template, the identity

Everything that decides an answer must be what the manifest recorded: weights, tokenizer, chat template, settings. A
file that the manifest does not list is refused, too: a planted chat_template.jinja would change every answer.
"""
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from meristem.codecs.base import Codec
from meristem.codecs.chat import FILE, Chat
from meristem.core.errors import RequestError
from meristem.core.files import MANIFEST, read_json, verify
from meristem.generate.encode import Pooling
from meristem.generate.seeing import sees
from meristem.generate.seq2seq import EncoderDecoder
from meristem.hub import hf
from meristem.hub.cache import adapter_of
from meristem.nn.attention import two_way
from meristem.nn.linear import compute_in
from meristem.nn.paged import pageable
from meristem.nn.quantise import quantise
from meristem.serve.adapters import Bank
from meristem.serve.engine import Engine
from meristem.serve.settings import Settings
from meristem.train import adapted

DECIDES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", FILE, "modules.json",
           "sentence_bert_config.json", "additional_chat_templates")
GROUP = {8: 0, 4: 32}                   # columns that share a scale


@dataclass(frozen=True)
class Options:
    """How a model is served."""

    settings: Settings = Settings()     # noqa: RUF009, it is frozen
    dtype: Literal["", "float32", "bfloat16"] = ""             # "" = as the folder has it
    bits: int = 0                       # 8 or 4: weights are quantised when they are loaded
    adapters: Path | None = None
    places: int = 256                   # adapters in memory
    draft: Path | None = None           # a smaller model of the same tokenizer, for `settings.ahead`


@dataclass(frozen=True)
class Identity:
    """Where answers come from; every response carries it, so that `meristem trace` can go from a text to documents."""

    run: str
    checkpoint: str                     # hash of the weights
    corpus: str = ""                    # hash of the training corpus, "" where the folder has no record of it
    verified: bool = False              # the files are what a manifest recorded

    def headers(self) -> dict[str, str]:
        """As headers of a response."""
        plain = self.run.encode("ascii", "replace").decode()
        return {"x-meristem-run": plain, "x-meristem-checkpoint": self.checkpoint,
                **({"x-meristem-corpus": self.corpus} if self.corpus else {})}


@dataclass
class TextModel:
    """A decoder or an encoder of text, ready to be asked."""

    name: str
    engine: Engine
    codec: Codec
    identity: Identity
    folder: Path
    template: Chat | None = None
    ends: frozenset[int] = frozenset()
    bank: Bank | None = None
    created: int = 0
    pooling: Pooling = field(default_factory=Pooling)

    @property
    def kind(self) -> str:
        """What it is made for."""
        return "text" if self.writes else "encoder"

    @property
    def can(self) -> list[str]:
        """Which endpoints answer for it."""
        if not self.writes:
            head = vars(self.module.config).get("head")
            masked = ["residues"] if head == "lm" and self.codec.name == "protein" else []
            return ["classify"] if head == "sequence" else ["embeddings", *masked]
        if self.sees:
            return ["chat", "see"]
        if self.reads:
            return ["completions"]
        return ["completions", *(["chat"] if self.template else []), "score", "embeddings"]

    def offer(self, what: str) -> None:
        """RequestError where a model that writes cannot do this."""
        if self.writes and what not in self.can:
            raise RequestError(f"{self.name} does not do {what}; it can: {', '.join(self.can)}")

    @property
    def context(self) -> int:
        """The most tokens of a text."""
        return self.engine.context

    @property
    def module(self) -> Any:
        """The network."""
        return self.engine.module

    @property
    def paged(self) -> bool:
        """Whether many of its texts are written at once, from pages; else one after another (`serve.alone`)."""
        return self.engine.writes

    @cached_property
    def sees(self) -> bool:
        """Whether it reads pictures among words."""
        return not self.paged and sees(self.module)

    @cached_property
    def reads(self) -> bool:
        """Whether it reads one text and writes another: an encoder-decoder."""
        return not self.paged and isinstance(self.module, EncoderDecoder)

    @cached_property
    def writes(self) -> bool:
        """Whether it goes on from a prompt."""
        return not two_way(self.module)

    @cached_property
    def stops(self) -> frozenset[int]:
        """Tokens at which a text ends."""
        return frozenset({self.codec.end}) | self.ends | (self.template.ends if self.template else frozenset())

    def adapters(self) -> list[str]:
        """The names of the adapters that may be asked for."""
        return self.bank.look() if self.bank else []


def checked(folder: Path) -> dict[str, Any]:
    """The manifest of a folder after every file was compared with it; {} where it has none (a folder of the Hub)."""
    if not (folder / MANIFEST).is_file():
        return {}
    if problem := verify(folder):
        raise RequestError(f"{folder}: {problem}; it is not served. Fetch or export it again")
    tree = read_json(folder / MANIFEST)
    strange = [name for name in DECIDES if (folder / name).exists()
               and not any(listed == name or listed.startswith(f"{name}/") for listed in tree["files"])]
    if strange:
        raise RequestError(f"{folder}: {strange[0]} is not in {MANIFEST}, though it would decide what is answered; "
                           "remove it, or export the folder again with it")
    return tree


def identity_of(folder: Path, weights: str) -> Identity:
    """The identity of a model folder whose weights have this hash; RequestError where the manifest says another."""
    tree = checked(folder)
    if tree.get("weights", weights) != weights:
        raise RequestError(f"{folder}: the weights are {weights}, {MANIFEST} says {tree['weights']}; it is not served")
    return Identity(run_of(folder), weights, str(tree.get("corpus") or ""), bool(tree))


def run_of(folder: Path) -> str:
    """The name of the run that a model folder belongs to, else the folder's own."""
    parent = folder.absolute().parent
    return parent.name if folder.name == "model" and (parent / "recipe.json").is_file() else folder.absolute().name


def load_text(path: Path, options: Options, name: str = "") -> TextModel:
    """A model of text, its engine not yet started. RequestError for whatever is wrong with the folder."""
    loaded = adapted.opened(path)
    if loaded.codec is None:
        raise RequestError(f"{loaded.folder} has no tokenizer.json, so it cannot be asked for text")
    adapter, checkpoint = adapter_of(path.expanduser()), adapted.identity(path, loaded)
    if adapter is None:
        identity = identity_of(loaded.folder, checkpoint)
    else:                                                      # its base was checked when it was opened
        tree = checked(loaded.folder)
        run = adapter.absolute().parent.name if adapter.name == "adapter" else adapter.absolute().name
        identity = Identity(run, checkpoint, str(tree.get("corpus") or ""), bool(tree))
    module = loaded.module
    if options.bits:
        quantise(module, options.bits, GROUP[options.bits])
    if options.dtype:
        dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
        for p in module.parameters():
            if p.is_floating_point():
                p.data = p.data.to(dtype)
        compute_in(module, None)
    paged, bank = pageable(module), None
    if not paged and (options.adapters or options.draft):
        raise RequestError(f"a {loaded.family} keeps no pages of keys and values, so it takes neither adapters beside "
                           "it nor a draft; serve an adapter alone")
    if options.adapters:
        bank = Bank(module, loaded.family, checkpoint, options.adapters, options.places, not options.settings.exact)
    draft = _draft(options.draft, loaded.codec) if options.draft else None
    engine = Engine(module, loaded.codec if paged else None, options.settings, bank, draft)
    return TextModel(name or identity.run, engine, loaded.codec, identity, loaded.folder, loaded.chat, loaded.ends,
                     bank, int(loaded.folder.stat().st_mtime), Pooling.read(loaded.folder))


def _draft(path: Path, codec: Codec) -> Any:
    """The network of a draft; RequestError where its tokenizer is another."""
    found = hf.load(path)
    checked(found.folder)
    if found.codec is None or found.codec.hash != codec.hash:
        raise RequestError(f"{found.folder} has another tokenizer than the model, so it cannot guess for it")
    return found.module
