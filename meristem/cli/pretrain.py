"""`meristem pretrain`: a model from scratch; goes on by itself from the run folder."""
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meristem.cli.common import Answer, resumable, shell
from meristem.cli.display import shown
from meristem.cli.risk import NoRisk, judge_risks
from meristem.core.errors import RequestError

if TYPE_CHECKING:
    from meristem.core.run import Run

Edits = Annotated[list[str] | None, typer.Argument(
    metavar="FIELD=VALUE", help="Any field of the run: model.layers=8 train.lr=1e-3.", show_default=False)]
Drift = Annotated[bool, typer.Option("--allow-drift", help="Go on although machine, threads or versions changed.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start at the first step; discard what the run folder holds.")]
MeshText = Annotated[str, typer.Option("--mesh", help="Processes and what they divide: dp=64,tp=8,pp=4 (the field "
                                                      "train.mesh).", show_default=False)]
DeviceName = Annotated[str, typer.Option(help="An accelerator: h100-sxm, a100-sxm-80gb, tpu-v4, ...",
                                         show_default=False)]
PAINTS = ("diffusion", "image_tokens", "unclip")               # objectives whose models paint


def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (meristem list recipes) or a YAML, TOML or JSON file.",
                                          show_default=False)] = "",
    edits: Edits = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/RECIPE.", show_default=False)] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Repeat or go on with the run of this folder.",
                                                show_default=False)] = None,
    size: Annotated[str, typer.Option(help="One dial for width and depth: nano, micro, mini, small, medium, large, xl.",
                                      show_default=False)] = "",
    fresh: Fresh = False,
    allow_drift: Drift = False,
    check: Annotated[bool, typer.Option("--check", help="Look at disk, tokenizer, first loss, a checkpoint and one "
                                                        "batch, then stop.")] = False,
    mesh: MeshText = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print placement, memory, step time and cost on a mesh of "
                                                            "--device, then stop; no device is needed.")] = False,
    device: DeviceName = "",
    price: Annotated[float, typer.Option(help="--dry-run: dollars a device-hour.", show_default=False)] = 0.0,
    no_risk: NoRisk = False,
) -> Answer:
    """Train a model from scratch; run the same command again and it goes on from the newest good checkpoint.

    Writes a run folder: the resolved recipe, a manifest of everything the numbers depend on, a log line a step,
    checkpoints, and model/ in the Hugging Face layout. A folder that holds another run is refused. At the end the risk
    battery is asked (docs/risk.md), as many items a task as training took seconds.

    Example: meristem pretrain llama data.corpus=runs/corpus train.steps=2000 --out runs/llama
             meristem pretrain llama --size mini data.corpus=runs/corpus
             meristem pretrain llama --mesh dp=64,tp=2 --dry-run --device h100-sxm            (what it would take)

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong (every mistake at once, with the nearest name);
    3 every checkpoint is damaged; 130 or 143 stopped by Ctrl-C or SIGTERM, and saved.
    """
    run, folder = requested(recipe, meshed(edits, mesh), out, source, size)
    if run.adapt or run.base:
        raise RequestError(f"{run.name} adapts a model; use: meristem adapt MODEL {recipe or run.name}")
    if dry_run:
        return rehearse(run, device, price)
    if check:
        return examine(run, folder)
    return execute(run, folder, fresh, allow_drift, source, planned(recipe), risk=not no_risk)


def meshed(edits: list[str] | None, mesh: str) -> list[str]:
    """The edits with the mesh of --mesh."""
    return [*(edits or []), *([f"train.mesh={mesh}"] if mesh else [])]


def rehearse(run: "Run", device: str, price: float) -> Answer:
    """What the run would take on a mesh of devices; RequestError without a device names the known ones."""
    from dataclasses import asdict

    from meristem.plan.devices import DEVICES
    from meristem.train.placement import place
    if not device:
        raise RequestError(f"on which device? --device one of {', '.join(DEVICES)}")
    found = place(run, device, price=price)
    return Answer(asdict(found), "\n".join(found.explain()))


def examine(run: "Run", folder: Path) -> Answer:
    """Everything that is known before the first step; RequestError when something of it is bad."""
    from meristem.train.run import check
    with shown("check") as progress:
        found = check(run, folder, progress)
    lines = "\n".join(c.line() for c in found)
    if bad := [c.name for c in found if not c.well]:
        raise RequestError(f"{run.name} should not be begun like this: {', '.join(bad)}: "
                           f"{'; '.join(c.found for c in found if not c.well)}")
    return Answer({c.name: c.found for c in found}, lines)


def requested(recipe: str, words: list[str], out: Path | None, source: Path | None,
              size: str = "") -> tuple["Run", Path]:
    """The run that a command line asks for, and its folder; fields that are named count over those of `size`."""
    from meristem.core.config import edit, from_dict, parse_edits, read_file
    from meristem.core.run import Run
    from meristem.recipes import resolve
    if source is None:
        if not recipe:
            raise RequestError("which recipe? name one (meristem list recipes), or go on with a run: "
                               "meristem pretrain --from RUN")
        run, _ = resolve(recipe, parse_edits(words))
        if size:
            from meristem.plan.sizes import sized
            run = edit(sized(run, size), parse_edits(words))
        return run, (out or Path("runs") / run.name).expanduser()
    if size:
        raise RequestError(f"the run of {source} has its size; --size is for a new one")
    if recipe and "=" not in recipe:
        raise RequestError(f"give either a recipe ({recipe}) or --from {source}, not both")
    if not (source / "recipe.json").is_file():
        raise RequestError(f"{source} is not a run folder (it has no recipe.json)")
    changes = parse_edits([w for w in [recipe, *words] if w])
    return edit(from_dict(Run, read_file(source / "recipe.json")), changes), (out or source).expanduser()


def planned(recipe: str) -> Path | None:
    """The plan file (meristem plan --out) that a recipe is the name of, or None."""
    import json
    path = Path(recipe).expanduser()
    try:
        return path if path.suffix == ".json" and "nats_per_token" in json.loads(path.read_text()) else None
    except (OSError, ValueError, TypeError):
        return None


def execute(run: "Run", folder: Path, fresh: bool, allow_drift: bool, source: Path | None = None,
            plan: Path | None = None, risk: bool = True) -> Answer:
    """Train, watched; the answer is result.json and what to do next. A plan is kept beside, and scored at the end; with
    `risk` the battery is asked then."""
    import shutil

    from meristem.core.files import read_json
    from meristem.plan import history
    from meristem.train.run import SKIPS
    from meristem.train.run import pretrain as train
    verb = "adapt" if run.adapt or run.base else "pretrain"
    try:
        with resumable(shell("meristem", "pretrain", "--from", folder)), shown(verb) as progress:
            train(run, folder, progress=progress, fresh=fresh, skips=source / SKIPS if source else None,
                  allow_drift=allow_drift)
    finally:
        if plan and (folder / "recipe.json").is_file():
            shutil.copyfile(plan, folder / history.PLAN)
    settled = history.settle(folder)
    result = read_json(folder / "result.json")
    loss = f", validation loss {result['validation']:.4f}" if result.get("validation") is not None else ""
    if kept := result.get("forgetting"):
        loss += f"; the base's loss {kept['before']:.4f} -> {kept['after']:.4f} ({kept['rise']:+.4f}) on {kept['on']}"
    if settled:
        loss += f"\n{history.lines([settled])[0]}"
    if risk:
        with resumable(shell("meristem", "evaluate", folder, "--risk")), shown("risk") as progress:
            loss += judge_risks(folder, result.get("train_seconds") or 0.0, progress)
    model = folder / ("model" if (folder / "model").is_dir() else "adapter")
    return Answer({"run": str(folder), **result, "model": str(model)}, f"{model}: {result['step']} steps{loss}\n"
                  f"next: {shell('meristem', *following(run, folder))}")


def following(run: "Run", folder: Path) -> list[str | Path]:
    """The words of the command that makes sense after a run: a model of pictures paints, or is judged."""
    if run.data.examples not in ("pictures", "segments"):
        return ["generate", folder, "def "]
    if run.objective.name in PAINTS:
        shown = ["--enlarge", "PICTURE"] if run.objective.fields.get("low") else []
        return ["generate", folder, *shown, "--out", "grid.png"]
    return ["evaluate", folder, "--corpus", run.data.corpus]
