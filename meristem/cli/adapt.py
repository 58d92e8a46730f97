"""`meristem adapt`: from a trained model to one that does a task better."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, model_folder
from meristem.cli.pretrain import Drift, Edits, Fresh, execute, requested
from meristem.cli.risk import NoRisk


def adapt(
    model: Annotated[Path, typer.Argument(help="A model folder or run folder.", show_default=False)],
    recipe: Annotated[str, typer.Argument(help="A recipe's name (meristem list recipes) or file.", show_default=False)],
    edits: Edits = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/RECIPE.", show_default=False)] = None,
    fresh: Fresh = False,
    allow_drift: Drift = False,
    no_risk: NoRisk = False,
) -> Answer:
    """Adapt a model to a task with a few added weights or all of them; goes on by itself when run again.

    adapt.name says how: lora (with adapt.rslora=true or adapt.dora=true), qlora, ia3, bottleneck, prefix, prompt,
    gated_prefix; adapt=null trains every weight, but those that train.groups freezes. The run folder gets the adapter
    in PEFT's format (adapter/) and, where plain weights compute the same, the merged model (model/). What the base
    has forgotten (its own loss before and after) is printed and stands in result.json.

    Example: meristem adapt runs/llama function_bodies data.corpus=runs/corpus adapt.rank=8 --out runs/fill

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong; 130 or 143 stopped and saved.
    """
    base = model_folder(model)
    run, folder = requested(recipe, [*(edits or []), f"base={str(base)!r}"], out, None)
    return execute(run, folder, fresh, allow_drift, risk=not no_risk)
