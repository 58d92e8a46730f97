"""`meristem plan`: what a budget of time buys on this machine, before it is spent."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, seconds
from meristem.cli.display import shown


def plan(
    corpus: Annotated[Path, typer.Option(help="The corpus folder to plan for (meristem curate).", show_default=False)],
    budget: Annotated[str, typer.Option(help="Wall-clock for training: 90s, 5m, 10h.")] = "5m",
    out: Annotated[Path | None, typer.Option(help="Also write the plan to this file.", show_default=False)] = None,
) -> Answer:
    """Before spending: the compute-optimal size, tokens, batch, learning rate, and the loss to expect.

    Measures what this machine does per second (once, then cached), times a few steps of the shape it would choose, and
    turns the budget into a model size and a step count. Nothing is trained.

    Example: meristem plan --corpus runs/corpus --budget 1h

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong (a budget too small names the smallest).
    """
    budget_seconds = seconds(budget)
    from meristem.core.files import write_json
    from meristem.corpus.store import Corpus
    from meristem.recipes.quickstart import make_plan
    with shown("plan") as progress:
        made = make_plan(Corpus.open(corpus.expanduser()), budget_seconds, progress=progress)
    facts = made.to_dict()
    if out:
        write_json(out, facts)
    return Answer(facts, "\n".join(made.explain()))
