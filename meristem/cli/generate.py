"""`meristem generate`: a model goes on from a prompt."""
import sys
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, model_folder
from meristem.core.errors import RequestError


def generate(
    model: Annotated[Path, typer.Argument(help="A model folder or run folder.", show_default=False)],
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - reads standard input.", show_default=False)],
    length: Annotated[int, typer.Option(help="At most so many new tokens.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 = always the likeliest token.", min=0.0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="Sample among the k likeliest; 0 = all.", min=0)] = 0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest that hold this much probability.",
                                         min=0.0, max=1.0)] = 0.95,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal text.")] = 0,
) -> Answer:
    """Let a model go on from a prompt; the same seed gives the same text.

    Example: meristem generate runs/llama "def read_lines(path):" --temperature 0.5

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong (no model there, a prompt longer than the context).
    """
    folder = model_folder(model)
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        raise RequestError("the prompt is empty; give some text to go on from")
    from meristem.api import load
    made = load(folder).generate(text, length=length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return Answer({"model": str(folder), "prompt": text, "text": made, "seed": seed}, text + made)
