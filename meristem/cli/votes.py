"""`meristem votes`: which model people prefer, and how sure that is."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer


def votes(
    preferences: Annotated[Path, typer.Argument(help="The file that a page of two answers saved.",
                                                show_default=False)],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> Answer:
    """Count the votes of a preference file: shares with Wilson intervals, and a Bradley-Terry rank of the models.

    Example: meristem votes preferences.jsonl

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong.
    """
    from meristem.core.config import to_dict
    from meristem.evals.votes import read, tally
    found = tally(read(preferences.expanduser()), seed)
    return Answer(to_dict(found), "\n".join(found.lines()))
