"""Codecs: the border between text and token ids. One file each; `load` tells from a folder which one it holds."""
from pathlib import Path

from meristem.codecs import bpe, char
from meristem.codecs.base import Codec, read_tokenizer


def load(folder: Path) -> Codec:
    """The codec saved in `folder` (tokenizer.json and tokenizer_config.json); RequestError when there is none."""
    kind = read_tokenizer(folder)["model"].get("type")
    return char.load(folder) if kind == "WordLevel" else bpe.load(folder)
