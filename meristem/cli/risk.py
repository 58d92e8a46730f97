"""The risk battery at the end of a run: `pretrain` and `adapt` ask it unless told not to."""
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from meristem.core.progress import Progress

NoRisk = Annotated[bool, typer.Option("--no-risk", envvar="MERISTEM_NO_RISK", show_envvar=False,
                                      help="Leave out the risk battery; the model card shows the gap.")]


def judge_risks(folder: Path, seconds: float, progress: "Progress") -> str:
    """Ask the battery about a finished run, as many items a task as it was trained `seconds`; says what came of it.

    A run whose model cannot be opened, or whose corpus is gone, keeps its gap; so does whatever goes wrong: an account
    of a run must not end it. Of several processes the first one asks.
    """
    from meristem.cli.evaluate import corpus_for
    from meristem.evals.risk import FEWEST, MOST, battery
    from meristem.evals.subject import Subject
    if os.environ.get("RANK", "0") != "0":
        return ""
    try:
        made = battery(Subject.open(folder), corpus_for(folder, None), progress=progress,
                       limit=min(MOST, max(FEWEST, int(seconds))))
    except Exception as error:
        return f"\nrisk battery: not run: {error}"
    left = f"; left out: {', '.join(made.left_out)}" if made.left_out else ""
    return f"\nrisk battery: {len(made.asked)} tasks asked{left}"
