"""`meristem card`: the model card and report of a run, from what the run folder records."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer
from meristem.core.errors import RequestError


def card(run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]) -> Answer:
    """Write the model card (README.md in model/, or adapter/), the bill of materials (bom.json) and report.html.

    Every number comes from a file of the run folder: recipe, manifest, log, score certificates, energy, forecast.

    Example: meristem card runs/llama

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong (not a finished run).
    """
    folder = run.expanduser()
    if not (folder / "recipe.json").is_file():
        raise RequestError(f"{folder} is not a run folder (it has no recipe.json)")
    if not ((folder / "model" / "config.json").is_file() or (folder / "adapter" / "adapter_config.json").is_file()):
        raise RequestError(f"{folder} has no model yet; finish it with: meristem pretrain --from {folder}")
    from meristem.govern import bom as boms
    from meristem.govern import card as cards
    from meristem.govern import report as reports
    written, materials, page = cards.write(folder), boms.write(folder), reports.write(folder)
    return Answer({"card": str(written), "bom": str(materials), "report": str(page)},
                  f"{written}\n{materials}\n{page}")
