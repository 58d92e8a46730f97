"""`meristem plan`: what a budget of time buys on this machine, before it is spent; or what a model takes elsewhere."""
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meristem.cli.common import Answer, model_folder, seconds
from meristem.cli.display import shown
from meristem.core.errors import RequestError

if TYPE_CHECKING:
    from meristem.core.config import Part

SIZES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def plan(
    corpus: Annotated[Path | None, typer.Option(help="The corpus folder to plan for (meristem curate).",
                                                show_default=False)] = None,
    budget: Annotated[str, typer.Option(help="Wall-clock for training: 90s, 5m, 10h.")] = "5m",
    out: Annotated[Path | None, typer.Option(help="Also write the plan to this file.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="Instead: a published size (llama2-70b) or a model folder, and what it "
                                            "takes elsewhere.", show_default=False)] = "",
    memory: Annotated[str, typer.Option(help="--model: memory of a device, 24G.", show_default=False)] = "",
    context: Annotated[int, typer.Option(help="--model --memory: positions to hold; 0 = the model's own.")] = 0,
    hours: Annotated[str, typer.Option(help="--model: device hours of training.", show_default=False)] = "",
    devices: Annotated[int, typer.Option(help="--model --hours: how many devices share them.")] = 1,
) -> Answer:
    """Before spending: the compute-optimal size, tokens, batch, learning rate, and the loss to expect.

    Measures what this machine does per second (once, then cached), times a few steps of the shape it would choose, and
    turns the budget into a model size and a step count. Nothing is trained.

    Example: meristem plan --corpus runs/corpus --budget 1h
             meristem plan --model llama2-70b --memory 24G          (does it fit; the least change that makes it fit)
             meristem plan --model llama-65b --hours 1022362 --devices 2048                       (how many days)

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong (a budget too small names the smallest).
    """
    if model:
        facts, lines = _elsewhere(model, memory, context, hours, devices)
        return _answer(facts, lines, out)
    if corpus is None:
        raise RequestError("give --corpus FOLDER to plan a training run here, or --model NAME with --memory 24G or "
                           "--hours 1000 to plan for another machine")
    budget_seconds = seconds(budget)
    from meristem.corpus.store import Corpus
    from meristem.recipes.quickstart import make_plan
    with shown("plan") as progress:
        made = make_plan(Corpus.open(corpus.expanduser()), budget_seconds, progress=progress)
    return _answer(made.to_dict(), made.explain(), out)


def _answer(facts: dict[str, Any], lines: list[str], out: Path | None) -> Answer:
    if out:
        from meristem.core.files import write_json
        write_json(out, facts)
    return Answer(facts, "\n".join(lines))


def _elsewhere(model: str, memory: str, context: int, hours: str, devices: int) -> tuple[dict[str, Any], list[str]]:
    from dataclasses import asdict

    from meristem.plan import elsewhere
    part, lines = _part(model), list[str]()
    facts: dict[str, Any] = {"model": model}
    if memory:
        found = elsewhere.fit(part, _number(memory, "--memory"), context)
        facts |= {**asdict(found), "best": found.best.name if found.best else None}
        lines += found.explain()
    if hours:
        if devices < 1:
            raise RequestError(f"--devices {devices} must be at least 1")
        facts["days"] = elsewhere.days(_number(hours, "--hours"), devices)
        lines.append(f"{_number(hours, '--hours'):,} device hours on {devices:,} devices: {facts['days']:.1f} days")
    if not lines:
        raise RequestError("--model needs --memory 24G (does it fit?) or --hours 1000 --devices 8 (how many days?)")
    return facts, lines


def _part(model: str) -> "Part":
    """A published size by name, or what a model folder's config.json describes."""
    from meristem.core.config import Part
    from meristem.plan.elsewhere import named
    if not Path(model).expanduser().is_dir():
        return named(model)
    from meristem.core.files import read_json
    from meristem.hub import hf
    config = model_folder(Path(model).expanduser()) / "config.json"
    tree = read_json(config)
    family, entry = hf.family_of(tree, config)
    return Part(family, entry.HF_CONFIG.restore(tree, str(config)))


def _number(text: str, option: str) -> int:
    """'24G' or '24GB' -> 24,000,000,000."""
    digits = text.strip().lower().removesuffix("b")
    scale = SIZES.get(digits[-1:], 1)
    try:
        return int(float(digits if scale == 1 else digits[:-1]) * scale)
    except (ValueError, OverflowError):
        raise RequestError(f"{option} {text!r} is not a number; write 24G, 500M or 1022362") from None
