"""Named points where a test may break the program: `MERISTEM_FAULT="ckpt.manifest:2:kill"` kills it there, second time.

`name:count:what[,name:count:what]`, with `what` one of kill (SIGKILL to itself, as the kernel's out-of-memory killer
does), term (SIGTERM, as a scheduler does before it takes the machine) and error (OSError "no space left", as a disk
does). `count` is the visit at which it happens, from 1. Without the variable a point costs one test of an empty
dictionary.

| point | where |
| --- | --- |
| step.begin step.backward step.end | the trainer: before a step, between backward and update, after the update |
| ckpt.begin | a save has started, nothing is written |
| ckpt.tensors | after each file of tensors |
| ckpt.written ckpt.manifest | all files are written; the manifest too, but the folder has its temporary name |
| ckpt.renamed | the new checkpoint is committed, older ones not yet pruned |
| curate.segment | a segment of what curation has read is whole on disk |
| ckpt.prune | an old checkpoint is out of the way and about to be deleted |
"""
import errno
import os
import signal

from meristem.core.errors import RequestError

KINDS = ("kill", "term", "error")
_left: dict[str, list[tuple[int, str]]] = {}                   # point -> [(visits to go, what)]


def arm(plan: str) -> None:
    """Replace the planned faults by those of `plan` (the variable's syntax; "" disarms)."""
    _left.clear()
    for item in filter(None, plan.split(",")):
        name, _, rest = item.partition(":")
        count, _, what = rest.partition(":")
        if not name or not count.isdigit() or what not in KINDS:
            raise RequestError(f"MERISTEM_FAULT: {item!r} is not name:count:what with what one of {', '.join(KINDS)}")
        _left.setdefault(name, []).append((int(count), what))


def point(name: str) -> None:
    """Break here if that is planned; else nothing."""
    if not _left:
        return
    due = [what for count, what in _left.get(name, ()) if count == 1]
    _left[name] = [(count - 1, what) for count, what in _left.get(name, ()) if count > 1]
    for what in due:
        if what == "error":
            raise OSError(errno.ENOSPC, f"injected at {name}")
        os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGTERM)


arm(os.environ.get("MERISTEM_FAULT", ""))
