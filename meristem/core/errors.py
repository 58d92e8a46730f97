"""The two ways a request ends badly, and how they reach the shell.

`RequestError`: what was asked for is wrong (unknown name, empty folder, foreign run): exit status 2.
`MachineError`: the request was right but this machine could not do it (full disk, damaged file): exit status 1;
its `NothingLeftError`, every checkpoint damaged: exit status 3.
The message is one line that says what is wrong and how to mend it; the command line prints it without a traceback.
Any other exception is a bug of ours and keeps its traceback.
"""
import difflib
from collections.abc import Iterable


class MeristemError(Exception):
    """A failure with one clear line for the user; `status` is the exit status of the command."""

    status = 1


class RequestError(MeristemError, ValueError):
    """The request was wrong; the line says what and how to mend it."""

    status = 2


class MachineError(MeristemError, RuntimeError):
    """The machine failed (disk, memory, damaged file); nothing that was good is lost."""

    status = 1


class NothingLeftError(MachineError):
    """Every checkpoint of a run is damaged: it must not start over unasked, so its exit status is one of its own."""

    status = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """'did you mean X?' for an unknown `name`, or the list of what exists when nothing is close."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(options)}" if options else "none exist"
