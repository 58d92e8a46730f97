"""`meristem export`: a model for other programs, refused unless it computes the same after reloading."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, model_folder
from meristem.core.errors import RequestError, nearest

FORMATS = {"hf": "Hugging Face folder: config.json, model.safetensors, tokenizer.json"}


def export(
    model: Annotated[Path, typer.Argument(help="A model folder or run folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    to: Annotated[str, typer.Option(help=f"The format: {', '.join(FORMATS)}.")] = "hf",
) -> Answer:
    """Write a model for other programs; what was written is loaded again and must give equal logits, or it is removed.

    The folder loads with transformers: AutoModelForCausalLM.from_pretrained(OUT).

    Example: meristem export runs/fill --to hf --out ~/models/fill

    Exit status: 0 ok; 1 the machine failed or the reloaded model differs; 2 the request was wrong.
    """
    if to not in FORMATS:
        raise RequestError(f"no format {to!r}; {nearest(to, FORMATS)}")
    from meristem.hub.hf import export as write
    facts = write(model_folder(model), out.expanduser())
    return Answer(facts, f"{out}: {facts['parameters']:,} parameters, {facts['bytes']:,} bytes; reloaded, logits equal")
