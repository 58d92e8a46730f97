"""What every codec of text can do, and the two files in which one is kept: tokenizer.json, tokenizer_config.json.

The files are those of the `tokenizers` and `transformers` libraries: `PreTrainedTokenizerFast.from_pretrained(folder)`
gives the same ids. A codec's `hash` names its ids: shards made with another codec are other shards.
"""
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int32

from meristem.core import files
from meristem.core.errors import RequestError

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
END = "<|end|>"                         # stands after every document; id 0 in the codecs that we fit


class Codec(Protocol):
    """Text to ids and back; `decode(encode(text)) == text` for every text that can be written in UTF-8."""

    name: str
    vocab: int
    end: int
    hash: str

    def encode(self, text: str) -> Int32[np.ndarray, "n"]:
        """The ids of a text; special tokens that are spelled out in it are ordinary text."""
        ...

    def encode_batch(self, texts: list[str]) -> list[Int32[np.ndarray, "n"]]:
        """`encode` of each, on all cores where the codec can."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids; special tokens give none."""
        ...

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into an existing folder."""
        ...


def write(folder: Path, tokenizer: str) -> None:
    """Write the two files; `split_special_tokens` is what keeps a spelled-out `<|end|>` in user text harmless."""
    files.write_bytes(folder / TOKENIZER, tokenizer.encode())
    files.write_json(folder / CONFIG, {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END, "split_special_tokens": True,
        "clean_up_tokenization_spaces": False, "add_bos_token": False, "add_eos_token": False,
        "model_input_names": ["input_ids", "attention_mask"],
    })


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """tokenizer.json, parsed; RequestError when it is missing or not one."""
    tree = files.read_json(Path(folder) / TOKENIZER)
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise RequestError(f"{Path(folder) / TOKENIZER} is not a tokenizer: it has no model")
    return tree


def digest(tree: dict[str, Any]) -> str:
    """The hash of a codec: of its tokenizer.json, whatever the spacing and the order of its keys."""
    return files.digest_bytes(json.dumps(tree, sort_keys=True))
