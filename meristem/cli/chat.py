"""`meristem chat`: talk to a model, or let it go on from what is typed."""
import sys
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, model_folder

HONEST = ("This is a base model: it completes text, it does not converse. Type the beginning of something, say a def "
          "line; /exit or end of input leaves.")


def chat(
    model: Annotated[Path, typer.Argument(help="A model folder or run folder.", show_default=False)],
    length: Annotated[int, typer.Option(help="At most so many new tokens an answer.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 = always the likeliest token.", min=0.0)] = 0.8,
    seed: Annotated[int, typer.Option(help="Equal seeds and lines give equal answers.")] = 0,
) -> Answer:
    """Type a line, read how the model goes on; works at a terminal and in a pipe.

    Today's models complete rather than converse (instruction tuning is on the roadmap): type the beginning of
    something. Each line starts anew. /exit or the end of input leaves.

    Example: echo "def add(a, b):" | meristem chat runs/quickstart/base

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong.
    """
    folder = model_folder(model)
    from meristem.api import load
    loaded = load(folder)
    print(HONEST, file=sys.stderr)
    turns: list[dict[str, str]] = []
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "/exit":
            return Answer({"model": str(folder), "turns": turns})
        text = line.rstrip("\n")
        if text.strip():
            made = loaded.generate(text, length=length, temperature=temperature, seed=seed + len(turns))
            print(text + made, flush=True)
            turns.append({"prompt": text, "text": made})
