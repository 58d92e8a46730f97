"""Codecs: the border between text and token ids. One file each; `load` tells from a folder which one it holds."""
from pathlib import Path
from types import ModuleType

from meristem.codecs import bpe, char, unigram, wordpiece
from meristem.codecs.base import Codec, read_tokenizer

# by the word that tokenizer.json has for a model; every other is a BPE or an error of its own
KINDS: dict[str, ModuleType] = {"WordLevel": char, "WordPiece": wordpiece, "Unigram": unigram}


def load(folder: Path) -> Codec:
    """The codec saved in `folder` (tokenizer.json and tokenizer_config.json); RequestError when there is none."""
    kind = read_tokenizer(folder)["model"].get("type")
    return KINDS.get(kind, bpe).load(folder)
