"""Tar archives, read as a stream: every member is a file of its own, named `archive/member`. Nothing is ever unpacked.

A member's name reaches no file system, so `../../etc/passwd` is a name like any other; links and devices are refusals.
"""
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from meristem.corpus.formats.base import Options, Record, Refusal, RefusedError


def records(stream: BinaryIO, name: str, options: Options) -> Iterator[Record | Refusal]:
    """What the members give; RefusedError when the archive is damaged."""
    from meristem.corpus.read import records_of
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                shown = f"{name}/{member.name.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')}"
                if member.isdir():
                    continue
                if not member.isreg():
                    yield Refusal(shown, 0, "link" if member.islnk() or member.issym() else "not_a_file",
                                  member.linkname[:200])
                    continue
                inside = cast(BinaryIO, archive.extractfile(member))
                yield from records_of(inside, shown, member.size, options, nested=True)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise RefusedError("damaged", " ".join(str(error).split())[:100]) from None
