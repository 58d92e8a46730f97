"""A git repository's history: one document a commit, its message and its diff (StarCoder, Li et al. 2023, section 3.4).

`meristem curate project/.git` reads it; the files themselves are read by naming the project's folder. The text is the
message, a blank line and the unified diff. git is asked with every hook and filter that a repository may configure
switched off: its own configuration could otherwise name programs to run.
"""
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from meristem.corpus.formats.base import LARGEST, Record, Refusal, RefusedError

MARK = b"\x1e\x1e"                      # stands before each commit; a commit's own text has no such control characters
SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "protocol.allow=never",
        "-c", "log.showSignature=false", "-c", "safe.directory=*")


def is_repository(path: Path) -> bool:
    """Whether a folder is a .git folder or a bare repository."""
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()


def commits(path: Path, name: str) -> Iterator[Record | Refusal]:
    """Every commit that is no merge, newest first, named `name@hash`; a commit over 8 MiB is a refusal."""
    command = ["git", *SAFE, "--git-dir", str(path), "log", "--no-merges", "--no-ext-diff", "--no-textconv",
               "--no-color", "--patch", "--format=%x1e%x1e%H%n%B"]
    env = {"PATH": os.environ.get("PATH", ""), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
           "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    try:
        git = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        raise RefusedError("needs_package", "git, the program") from None
    with git:
        assert git.stdout is not None
        commit, size = "", 0
        parts: list[bytes] = []
        while line := git.stdout.readline(LARGEST):
            if line.startswith(MARK):
                yield from _commit(name, commit, parts, size)
                commit, parts, size = line[len(MARK):].strip().decode("ascii", "replace"), [], 0
            elif (size := size + len(line)) <= LARGEST:
                parts.append(line)
        yield from _commit(name, commit, parts, size)
        if git.wait():
            yield Refusal(name, 0, "damaged", f"git log ended with status {git.returncode}")


def _commit(name: str, commit: str, parts: list[bytes], size: int) -> Iterator[Record | Refusal]:
    if not commit:
        return
    place = f"{name}@{commit}"
    if size > LARGEST:
        yield Refusal(place, size, "too_large", size)
    else:
        yield Record(place, b"".join(parts).strip() + b"\n", kind="code")
