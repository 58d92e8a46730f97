"""The tokenizer of another model's folder, for a run that must read as that model does.

    meristem pretrain diffusion ... objective.text=runs/clip data.codec.name=saved data.codec.folder=runs/clip
"""
from collections.abc import Iterable
from pathlib import Path

from meristem import codecs
from meristem.codecs.base import TOKENIZER, Codec
from meristem.core.errors import RequestError

SPLITS = ()                             # nothing is learned from the corpus
PLACES = ("", "model", "tokenizer", "../tokenizer")            # beside text_encoder/ in Stable Diffusion's layout


def fit(texts: Iterable[str], folder: str) -> Codec:
    """The codec in a model folder, a run folder or a pipeline; RequestError when there is none."""
    for place in PLACES:
        if (Path(folder).expanduser() / place / TOKENIZER).is_file():
            return codecs.load(Path(folder).expanduser() / place)
    raise RequestError(f"{folder} has no {TOKENIZER}; name a model or run folder that reads text")
