"""JSON lines, plain or packed: one document a row, named `file#line`. A line that is no JSON is a refusal."""
import json
from collections.abc import Iterator
from typing import BinaryIO

from meristem.corpus.formats import rows
from meristem.corpus.formats.base import LARGEST, Options, Record, Refusal, lines


def records(stream: BinaryIO, name: str, options: Options) -> Iterator[Record | Refusal]:
    """Every line that is not blank."""
    for number, line in lines(stream):
        if line is None:
            yield Refusal(f"{name}#{number}", LARGEST, "too_large", LARGEST)
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:      # UnicodeDecodeError is a ValueError
                yield Refusal(f"{name}#{number}", len(line), "not_json", " ".join(str(error).split())[:100])
            else:
                yield rows.record(row, f"{name}#{number}", options, len(line))
