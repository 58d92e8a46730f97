"""An HTML file: one record; its charset and main text are found in `corpus.web`."""
from collections.abc import Iterator
from typing import BinaryIO

from meristem.corpus.formats.base import Options, Record, Refusal, RefusedError, at_most


def records(stream: BinaryIO, name: str, options: Options) -> Iterator[Record | Refusal]:
    """The file as it is; RefusedError when it is too large or empty."""
    raw = at_most(stream)
    if not raw:
        raise RefusedError("empty", 0)
    yield Record(name, raw, "html")
