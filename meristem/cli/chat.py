"""`meristem chat`: talk to a model, or let it go on from what is typed."""
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, model_folder

HONEST = ("This is a base model: it completes text, it does not converse. Type the beginning of something, say a def "
          "line; /exit or end of input leaves.")
CHATS = "Type a message; /exit or end of input leaves."


def show(piece: str) -> None:
    """Print a piece of the answer as it comes."""
    print(piece, end="", flush=True)


def chat(
    model: Annotated[Path, typer.Argument(help="A model folder or run folder.", show_default=False)],
    length: Annotated[int, typer.Option(help="At most so many new tokens an answer.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 = always the likeliest token.", min=0.0)] = 0.8,
    seed: Annotated[int, typer.Option(help="Equal seeds and lines give equal answers.")] = 0,
) -> Answer:
    """Type a line, read the answer, or how a base model goes on; works at a terminal and in a pipe.

    A model with a chat template converses: it sees the whole conversation. A base model completes: type the beginning
    of something; each line starts anew. /exit or the end of input leaves.

    Example: echo "def add(a, b):" | meristem chat runs/quickstart/base

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong.
    """
    folder = model_folder(model)
    from meristem.api import CREATIVE, load
    loaded = load(folder)
    print(CHATS if loaded.template else HONEST, file=sys.stderr)
    messages: list[dict[str, str]] = []
    turns: list[dict[str, str]] = []
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "/exit":
            return Answer({"model": str(folder), "turns": turns})
        text = line.rstrip("\n")
        if text.strip() and loaded.template:
            messages.append({"role": "user", "content": text})
            made = loaded.chat(messages, replace(CREATIVE, length=length, temperature=temperature,
                                                 seed=seed + len(turns)), on_text=show)
            print(flush=True)
            messages.append({"role": "assistant", "content": made})
            turns.append({"prompt": text, "text": made})
        elif text.strip():
            print(text, end="", flush=True)
            made = loaded.generate(text, length=length, temperature=temperature, seed=seed + len(turns),
                                   on_text=show)
            print(flush=True)
            turns.append({"prompt": text, "text": made})
