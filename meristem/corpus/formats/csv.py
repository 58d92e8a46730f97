"""CSV and TSV with a header: one document a row, named `file#row`. The separator is the one the header has most of."""
import csv
from collections.abc import Iterator
from typing import BinaryIO

from meristem.corpus.formats import rows
from meristem.corpus.formats.base import LARGEST, Options, Record, Refusal, RefusedError, lines


def records(stream: BinaryIO, name: str, options: Options) -> Iterator[Record | Refusal]:
    """Every row below the header; RefusedError when no column is the text."""
    csv.field_size_limit(LARGEST)
    text = _texts(stream)
    first = next(text, "")
    separator = max("\t,;", key=first.count)
    try:
        columns = next(csv.reader([first], delimiter=separator), [])
    except csv.Error as error:                                 # a carriage return within the header
        raise RefusedError("not_csv", str(error)[:100]) from None
    column = rows.column_of(columns, options)
    if column not in columns:
        raise RefusedError("no_text", rows.missing(column, columns))
    reader = csv.reader(text, delimiter=separator)
    number = 0
    while True:
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Refusal(f"{name}#{number}", 0, "not_csv", str(error)[:100])
            continue
        if len(cells) != len(columns):
            yield Refusal(f"{name}#{number}", 0, "not_csv", f"{len(cells)} cells in {len(columns)} columns")
        else:
            yield rows.record(dict(zip(columns, cells, strict=True)), f"{name}#{number}", options)


def _texts(stream: BinaryIO) -> Iterator[str]:
    """Decoded lines; csv joins those of a quoted cell. RefusedError for bytes that are not UTF-8."""
    for number, line in lines(stream):
        if line is None:
            raise RefusedError("too_large", LARGEST)
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8") + "\n"
        except UnicodeDecodeError as error:
            raise RefusedError("invalid_utf8", f"line {number}, byte {error.start}") from None
