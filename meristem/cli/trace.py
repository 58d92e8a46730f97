"""`meristem trace`: from a text back to the training documents of a run."""
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meristem.cli.common import Answer
from meristem.cli.display import shown
from meristem.core.errors import RequestError

if TYPE_CHECKING:
    from meristem.govern.trace import Traced


def trace(
    text: Annotated[str, typer.Argument(help="The text, or - to read it from standard input.")],
    model: Annotated[Path, typer.Option(help="The run whose documents are searched: runs/NAME.")],
    watermark: Annotated[str, typer.Option(metavar="KEY", help="Instead: does the text carry this secret word's mark? "
                                           "The model need only be one of the same tokenizer.")] = "",
    shortest: Annotated[int, typer.Option(help="Characters of the shortest span that is shown.", min=1)] = 24,
) -> Answer:
    """Which parts of a text stand word for word in a run's training documents, and when the run was shown them.

    Each span is the longest of its place: document, source, licence, character, and the steps whose batches held it.
    The first call indexes the corpus (about 7 MB a second); later ones answer at once. Needs: pip install
    'meristem[trace]'.

    Example: meristem trace "def __init__(self, name, value):" --model runs/quickstart/base

    Example: meristem trace "Once upon ..." --model runs/llama --watermark "my secret"

    Exit status: 0 ok, also when nothing stands there; 1 the machine failed; 2 the request was wrong.
    """
    import dataclasses

    from meristem.govern import trace as tracing
    if text == "-":
        text = sys.stdin.read()
    if not text.strip():
        raise RequestError("there is no text to trace; give one, or - and pipe it in")
    if watermark:
        return _marked(text, model, watermark)
    with shown("trace") as progress:
        found = tracing.trace(text, model.expanduser(), shortest, progress)
    return Answer(dataclasses.asdict(found), "\n".join(_lines(found, shortest)))


def _marked(text: str, model: Path, key: str) -> Answer:
    """The detector's verdict on a text (generate.watermark)."""
    from meristem.cli.common import model_folder
    from meristem.generate.watermark import Key
    from meristem.hub import hf
    folder = model_folder(model)
    loaded = hf.load(folder)
    if loaded.codec is None:
        raise RequestError(f"{folder} has no tokenizer, so it has written no text")
    found = Key(key, loaded.config.vocab).found(loaded.codec.encode(text))
    chance = math.erfc(found.z / math.sqrt(2)) / 2
    return Answer({"model": str(folder), "z": found.z, "pairs": found.tokens, "chance": chance},
                  f"z = {found.z:.1f} over {found.tokens} pairs of tokens: text without the mark comes so high with "
                  f"probability {chance:.1g}")


def _lines(found: "Traced", shortest: int) -> list[str]:
    if not found.spans:
        return [f"nothing of it of {shortest} characters or more stands in the documents of {found.run} (corpus "
                f"{found.corpus[:12]}); --shortest 8 looks for shorter pieces"]
    lines = [f"{found.covered:.0%} of its characters stand in the documents of {found.run} "
             f"(corpus {found.corpus[:12]}); longest first:"]
    for span in found.spans:
        times = "once" if span.count == 1 else f"{span.count:,} times"
        lines.append(f"  {len(span.text)} characters, {times}: {span.text!r}")
        for place in span.places:
            steps = "" if place.steps is None else "; never shown" if not place.steps else \
                f"; shown at step{'s' * (len(place.steps) > 1)} {', '.join(map(str, place.steps))}"
            lines.append(f"    {place.path}, character {place.character:,} ({place.licence}){steps}")
    return lines
