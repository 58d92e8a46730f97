"""`meristem verify`: every hash of a run's chain, from its corpus to its scores."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, table
from meristem.core.errors import MachineError


def verify(run: Annotated[Path, typer.Argument(help="A run folder: runs/NAME.")]) -> Answer:
    """Recompute every hash of a run: corpus, tokenizer, base, weights, and what each score was computed for.

    A link whose file is elsewhere counts as unknown, never as good.

    Example: meristem verify runs/quickstart/base

    Exit status: 0 ok, no link is broken; 1 one is, or the machine failed; 2 the request was wrong.
    """
    import dataclasses

    from meristem.govern.lineage import verify as links
    found = links(run.expanduser())
    if broken := [link for link in found if link.ok is False]:
        raise MachineError(f"{len(broken)} of {len(found)} links of {run} do not hold: "
                           + "; ".join(f"{link.what} ({link.why})" for link in broken[:3]))
    says = {True: "holds", None: "unknown"}
    rows = [(link.what, link.hash[:12], says[link.ok], link.why) for link in found]
    return Answer({"run": str(run), "links": [dataclasses.asdict(link) for link in found]}, table(rows))
