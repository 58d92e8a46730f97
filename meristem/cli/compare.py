"""`meristem compare`: a page on which a person says which of two models answers better."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, model_folder


def compare(
    model: Annotated[Path, typer.Argument(help="A model folder or run folder.", show_default=False)],
    prompts: Annotated[Path, typer.Argument(help="Rows with a prompt (JSON lines).", show_default=False)],
    other: Annotated[Path | None, typer.Option(help="The other model; default: the same, drawn again.",
                                               show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("compare.html"),
    count: Annotated[int, typer.Option(help="At most so many prompts.", min=1)] = 50,
    length: Annotated[int, typer.Option(help="At most so many new tokens an answer.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 = always the likeliest token.", min=0.0)] = 0.8,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal answers and sides.")] = 0,
) -> Answer:
    """Write a page that shows two answers to each prompt and saves the clicks as a preference file.

    The page is one file and needs no server. What it saves (preferences.jsonl) trains a reward model or DPO.

    Example: meristem compare runs/sft questions.jsonl --other runs/dpo --out compare.html

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong.
    """
    folders = [model_folder(model), model_folder(other or model)]
    from dataclasses import replace

    from meristem.corpus.labelled import labelled
    from meristem.data.conversations import Reader, of
    from meristem.generate.sampling import Sampling
    from meristem.generate.text import complete
    from meristem.govern.compare import Pair, write
    from meristem.hub import hf
    rows = of(labelled(prompts), "train", lambda fields: "prompt" in fields or "messages" in fields, "prompts")[:count]
    answers = []
    for number, folder in enumerate(folders):
        loaded = hf.load(folder)
        assert loaded.codec is not None
        reader = Reader(loaded.codec, loaded.chat)
        sampling = replace(Sampling(length=length, temperature=temperature), seed=seed + number)
        made = complete(loaded.module, loaded.codec, [reader.prompt(row) for row in rows], sampling, also=reader.ends)
        answers.append([one.text.strip() for one in made])
    names = (str(folders[0]), str(folders[1]))
    asked = [Pair(row.get("messages", row.get("prompt")), pair, names)
             for row, pair in zip(rows, zip(*answers, strict=True), strict=True)]
    shown = write(out, asked, seed)
    return Answer({"page": str(out), "pairs": shown}, f"{out}: {shown} pairs; open it in a browser, then: "
                  f"meristem votes preferences.jsonl, or meristem adapt {model} reward data.corpus=preferences.jsonl")
