"""Parquet by pyarrow, a batch of rows at a time: one document a row, named `file#row`."""
from collections.abc import Iterator
from typing import BinaryIO

from meristem.corpus.formats import rows
from meristem.corpus.formats.base import Options, Record, Refusal, RefusedError, extra

ROWS = 64                               # decoded at once
GROUP = 2 << 30                         # unpacked bytes of a row group, as the file states them


def records(stream: BinaryIO, name: str, options: Options) -> Iterator[Record | Refusal]:
    """Every row; RefusedError when pyarrow is missing, the file is damaged, or no column is the text."""
    pa, pq = extra("pyarrow", "pyarrow"), extra("pyarrow.parquet", "pyarrow")
    if not stream.seekable():
        raise RefusedError("nested", "parquet inside another file")
    try:
        table = pq.ParquetFile(stream)
        columns = table.schema_arrow.names
        column = rows.column_of(columns, options)
        if column not in columns:
            raise RefusedError("no_text", rows.missing(column, columns))
        sizes = [table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups)]
        if max(sizes, default=0) > GROUP:
            raise RefusedError("too_large", max(sizes))
        wanted = [c for c in (column, *rows.LICENCES, *rows.KEPT) if c in columns]
        number = 0
        for batch in table.iter_batches(batch_size=ROWS, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield rows.record(row, f"{name}#{number}", options)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RefusedError("damaged", " ".join(str(error).split())[:100]) from None
