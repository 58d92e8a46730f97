"""`meristem launch`: the file that starts a run on many processes, printed."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer
from meristem.cli.pretrain import DeviceName, Edits, MeshText, meshed, requested


def launch(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (meristem list recipes) or file.", show_default=False)],
    edits: Edits = None,
    way: Annotated[str, typer.Option("--print", help="torchrun, slurm or sky.")] = "torchrun",
    mesh: MeshText = "",
    device: DeviceName = "",
    per_node: Annotated[int, typer.Option(help="Processes on a machine; 0 = the device's usual node, or all.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/RECIPE.", show_default=False)] = None,
) -> Answer:
    """Print what starts a run on many processes: a torchrun script, a SLURM batch script or a SkyPilot task.

    Nothing is started. With --device the mesh is checked first, as by pretrain --dry-run.

    Example: meristem launch llama --mesh dp=16,tp=2 --device h100-sxm --print slurm > job.sh

    Exit status: 0 ok; 2 the request was wrong (a mesh that does not fit, in one line).
    """
    from meristem.core.errors import RequestError
    from meristem.core.mesh import Mesh
    from meristem.plan.devices import device as named
    from meristem.plan.launch import Job, text
    run, folder = requested(recipe, meshed(edits, mesh), out, None)
    world = Mesh.of(run.train.mesh).world
    if per_node < 0:
        raise RequestError(f"--per-node {per_node} must be at least 1")
    if device:
        from meristem.train.placement import place
        place(run, device)
    here = per_node or (named(device).node if device else world)
    kept = [word for word in edits or [] if not word.startswith("train.mesh=")]
    words = ("pretrain", recipe, *kept, f"train.mesh={run.train.mesh}", "--out", str(folder))
    job = Job(run.name, words, world, here, str(folder), device)
    made = text(way, job)
    return Answer({"way": way, "nodes": job.nodes, "processes": world, "text": made}, made.rstrip("\n"))
