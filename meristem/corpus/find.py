"""Real text that every Python machine already has: the sources and prose of the standard library.

About 30 MB where the `test` package is installed (most of it is tests), about 12 MB where a distribution leaves it
out. `curate.curate(find.standard_library(), out)` is the quickstart's first stage.
"""
import sysconfig
from pathlib import Path


def standard_library() -> list[Path]:
    """The folder of the standard library on this machine; `read` leaves out what others installed beneath it."""
    return [Path(sysconfig.get_path("stdlib")).resolve()]
