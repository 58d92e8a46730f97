"""A PDF file: one record; `corpus.web.pdf` takes its text with pypdf."""
from collections.abc import Iterator
from typing import BinaryIO

from meristem.corpus.formats.base import Options, Record, Refusal, at_most

LARGEST = 64 << 20                      # pictures weigh more than text


def records(stream: BinaryIO, name: str, options: Options) -> Iterator[Record | Refusal]:
    """The file as it is."""
    yield Record(name, at_most(stream, LARGEST), "pdf", kind="prose")
