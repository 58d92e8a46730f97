"""`meristem plan`: what a budget buys, here or on named devices, before it is spent; what plans promised; what fits."""
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meristem.cli.common import Answer, model_folder
from meristem.cli.display import shown
from meristem.core.errors import RequestError
from meristem.plan.budget import parse

if TYPE_CHECKING:
    from meristem.core.config import Part

SIZES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def plan(
    corpus: Annotated[Path | None, typer.Option(help="The corpus folder to plan for (meristem curate).",
                                                show_default=False)] = None,
    budget: Annotated[str, typer.Option(help="What may be spent: 5m, 10h, '1e15 FLOPs', '50 dollars'; or what is to be "
                                             "reached: 'loss 1.2'.")] = "5m",
    out: Annotated[Path | None, typer.Option(help="Also write the plan to this file: meristem pretrain plan.json "
                                                  "trains it and scores its forecast.", show_default=False)] = None,
    pilots: Annotated[int, typer.Option(help="Tiny runs on this corpus that the forecast rests on: 4 to 8, kept in the "
                                             "corpus folder; 0 = none; -1 = where they take a twentieth of the "
                                             "budget.")] = -1,
    device: Annotated[str, typer.Option(help="Instead of this machine: h100-sxm, a100-sxm-80gb, tpu-v4, ...",
                                        show_default=False)] = "",
    devices: Annotated[int, typer.Option(help="--device, --model --hours: how many.")] = 1,
    price: Annotated[float, typer.Option(help="Dollars an hour of this machine or of one device.",
                                         show_default=False)] = 0.0,
    grid: Annotated[str, typer.Option(help="Whose electricity: world, USA, FRA, DEU, ...")] = "world",
    history: Annotated[bool, typer.Option("--history", help="Only show what earlier plans promised and what came of "
                                                            "it.")] = False,
    model: Annotated[str, typer.Option(help="Instead: a published size (llama2-70b) or a model folder, and what it "
                                            "takes elsewhere.", show_default=False)] = "",
    memory: Annotated[str, typer.Option(help="--model: memory of a device, 24G.", show_default=False)] = "",
    context: Annotated[int, typer.Option(help="--model --memory: positions to hold; 0 = the model's own.")] = 0,
    hours: Annotated[str, typer.Option(help="--model: device hours of training.", show_default=False)] = "",
    tokens: Annotated[str, typer.Option(help="--model --device: tokens to train on, 1.4T.", show_default=False)] = "",
) -> Answer:
    """Before spending: the compute-optimal size, tokens, batch, learning rate, the loss to expect with its 80 %
    interval, memory, time, energy, carbon and money.

    Measures what this machine does per second (once, then cached), trains tiny runs on the corpus where the budget is
    long enough for them (kept, read again), and times a few steps of the shape it would choose. With --device it plans
    for accelerators that are not here and names the mesh that fits.

    Example: meristem plan --corpus runs/corpus --budget 10h --out plan.json && meristem pretrain plan.json
             meristem plan --budget "30 d" --device h100-sxm --devices 64 --price 2
             meristem plan --model llama2-70b --memory 24G          (does it fit; the least change that makes it fit)
             meristem plan --model llama-65b --tokens 1.4T --device a100-sxm-80gb --devices 2048 --price 2

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong (a budget too small names the smallest).
    """
    if history:
        from meristem.plan import history as kept
        rows = kept.read()
        return Answer({**kept.summary(rows), "rows": rows}, "\n".join(kept.lines(rows)))
    if model:
        facts, lines = _elsewhere(model, memory, context, hours, devices)
        if tokens:
            more, told = _training(model, _number(tokens, "--tokens"), device, devices, price, grid)
            facts, lines = {**facts, **more}, [*lines, *told]
        if not lines:
            raise RequestError("--model needs --memory 24G (does it fit?), --hours 1000 --devices 8 (how many days?), "
                               "or --tokens 1T --device h100-sxm (what does training take?)")
        return _answer(facts, lines, out)
    asked = parse(budget)
    if device:
        from meristem.train import abroad
        found = abroad.plan(asked, device, devices, price=price, grid=grid)
        return _answer(found.to_dict(), found.explain(), out)
    if corpus is None:
        raise RequestError("give --corpus FOLDER to plan a training run here, --device NAME to plan one elsewhere, or "
                           "--model NAME with --memory 24G or --hours 1000")
    from meristem.corpus.store import Corpus
    from meristem.recipes.quickstart import make_plan
    with shown("plan") as progress:
        made = make_plan(Corpus.open(corpus.expanduser()), asked, pilots=pilots, price=price, grid=grid,
                         progress=progress)
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
    return facts, lines


def _training(model: str, tokens: int, device: str, devices: int, price: float,
              grid: str) -> tuple[dict[str, Any], list[str]]:
    from dataclasses import asdict

    from meristem.plan import elsewhere
    from meristem.plan.devices import DEVICES
    if not device:
        raise RequestError(f"on which device? --device one of {', '.join(DEVICES)}")
    found = elsewhere.training(_part(model), tokens, device, price=price, grid=grid)
    return asdict(found), found.explain(devices)


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
