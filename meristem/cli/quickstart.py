"""`meristem quickstart`: the whole lifecycle on real input, in about five minutes on two cores."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, inputs, resumable, shell
from meristem.cli.display import shown
from meristem.plan.budget import duration


def quickstart(
    paths: Annotated[list[Path] | None, typer.Argument(
        help="Files or folders to learn from; none = the Python standard library of this machine.",
        show_default=False)] = None,
    budget: Annotated[str, typer.Option(help="Wall-clock for everything: 90s, 5m, 1h.")] = "5m",
    out: Annotated[Path, typer.Option(help="The folder for corpus, models and report.")] = Path("runs/quickstart"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard an earlier quickstart in OUT first.")] = False,
) -> Answer:
    """The whole lifecycle once: curate, plan, pretrain, adapt, evaluate, account.

    Finds real text on this machine (or reads PATHS), drops duplicates, trains a tokenizer, plans the best model for the
    time budget, pretrains it, adapts it to fill in function bodies, scores both beside a 5-gram baseline, and writes a
    report that opens without a network. Stopped half-way, the same command goes on where it was.

    Example: meristem quickstart ~/notes --budget 10m --out runs/notes

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong (say, a budget too small); 130 stopped, resumable.
    """
    budget_seconds, sources = duration(budget), inputs(paths or [])
    from meristem.recipes.quickstart import quickstart as run
    words = [*map(str, sources), "--budget", budget, "--out", str(out)]
    with resumable(shell("meristem", "quickstart", *words)), shown("quickstart") as progress:
        facts = run(sources, out.expanduser(), budget_seconds, fresh=fresh, progress=progress)
    return Answer(facts, facts["summary"])
