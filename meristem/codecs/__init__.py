"""Codecs: the border between text and token ids. One file each; `load` tells from a folder which one it holds."""
from pathlib import Path
from types import ModuleType

from meristem.codecs import bpe, char, protein, unigram, wordpiece
from meristem.codecs.base import TOKENIZER, Codec, read_tokenizer

# by the word that tokenizer.json has for a model; every other is a BPE or an error of its own
KINDS: dict[str, ModuleType] = {"WordLevel": char, "WordPiece": wordpiece, "Unigram": unigram}


def is_here(folder: Path) -> bool:
    """Whether a folder holds a codec."""
    return (folder / TOKENIZER).exists() or protein.is_list(folder)


def load(folder: Path) -> Codec:
    """The codec saved in `folder` (tokenizer.json and tokenizer_config.json); RequestError when there is none."""
    entry: ModuleType = protein
    if not protein.is_list(Path(folder)):
        model = read_tokenizer(folder)["model"]
        entry = protein if protein.is_one(model) else KINDS.get(model.get("type"), bpe)
    return entry.load(folder)
