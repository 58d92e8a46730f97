"""`meristem show`: a resolved recipe before anything is spent."""
from typing import TYPE_CHECKING, Annotated

import typer

from meristem.cli.common import Answer, table
from meristem.cli.pretrain import Edits

if TYPE_CHECKING:
    from meristem.core.run import Run


def show(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (meristem list recipes) or file.", show_default=False)],
    edits: Edits = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print YAML that can be edited and used as a recipe.")] = False,
) -> Answer:
    """Every field of a recipe, where each value comes from, the parameter count and the training FLOPs.

    Nothing is trained: the model is built without memory. The YAML of --yaml is a recipe file of your own.

    Example: meristem show llama model.layers=8 --yaml > mine.yaml

    Exit status: 0 ok; 2 the request was wrong (every mistake at once, with the nearest name).
    """
    from meristem.core.config import flat, parse_edits, to_dict
    from meristem.recipes import resolve
    run, origins = resolve(recipe, parse_edits(edits or []))
    tree = to_dict(run)
    if yaml:
        import yaml as writer
        return Answer({"recipe": tree}, writer.safe_dump(tree, sort_keys=False).rstrip())
    cost = {} if run.base or run.adapt else _cost(run)
    facts = {"recipe": tree, "origins": origins, **cost}
    rows = [(key, value, origins[key]) for key, value in flat(tree).items()]
    totals = "\n".join(f"  {key.replace('_', ' ')}: {value:,}" for key, value in cost.items())
    return Answer(facts, table(rows) + ("\n" + totals if totals else ""))


def _cost(run: "Run") -> dict[str, int]:
    """Parameters and FLOPs from a model on the meta device; a codec not yet fitted counts with its `vocab` field.

    Of pictures and sound a row's products are counted as they run; what an objective adds to the model is not in them.
    """
    import torch

    from meristem.core import registry
    from meristem.core.config import build, known
    from meristem.plan.cost import BACKWARD, flops_of, training_flops_per_token
    from meristem.plan.example import example
    entry = registry.load("models", run.model.name)
    vocab = run.data.codec.fields.get("vocab", 256)
    told = known(entry.Config, context=run.train.context)
    config = build(entry.Config, run.model, **{**told, **run.model.fields, **known(entry.Config, vocab=vocab)})
    with torch.device("meta"):
        model = entry.Model(config)
    count = sum(p.numel() for p in model.parameters())
    if "vocab" not in vars(config) or {"image", "rate"} & set(vars(config)):   # counted as a row runs on no device
        rows = run.train.steps * run.train.batch
        each = (1 + BACKWARD) * flops_of(model, example(model, run.train.context))
        return {"parameters": count, "rows": rows, "flops_per_row": each, "training_flops": each * rows}
    tokens = run.train.steps * run.train.batch * run.train.context
    flops = training_flops_per_token(model, run.train.context)
    return {"parameters": count, "tokens": tokens, "flops_per_token": round(flops),
            "training_flops": round(flops * tokens)}
