"""`meristem doctor`: what this machine can do."""
import shutil
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, table

SHOWN = ("torch", "numpy", "tokenizers", "safetensors", "pydantic", "transformers", "peft")


def doctor(
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again instead of reading the cache.")] = False,
) -> Answer:
    """What this machine can do: measured peaks, memory, compiler, disk, sandbox, versions.

    The rates are measured once (about two seconds) and cached; plans and shares of peak are judged by them.

    Example: meristem doctor --json

    Exit status: 0 ok; 1 the machine failed.
    """
    import dataclasses

    from meristem.core import machine, sandbox
    found = machine.measured(fresh=fresh)
    disk = shutil.disk_usage(Path.cwd())
    versions = {name: metadata.version(name) for name in SHOWN if _installed(name)}
    trouble = sandbox.trouble()
    facts = {"machine": dataclasses.asdict(found), "identity": machine.identity(), "disk_free": disk.free,
             "sandbox": trouble or "works", "versions": versions}
    rows = [("bf16 matrix product", f"{found.matmul_bf16 / 1e9:,.0f} GFLOP/s"),
            ("fp32 matrix product", f"{found.matmul_fp32 / 1e9:,.0f} GFLOP/s"),
            ("memory read", f"{found.read_bandwidth / 1e9:,.0f} GB/s"),
            ("cores, threads", f"{found.cores}, {machine.threads()}"),
            ("memory", f"{found.memory / 2**30:,.1f} GiB"),
            ("disk free here", f"{disk.free / 2**30:,.1f} GiB"),
            ("C++ compiler", "yes: torch.compile works" if found.compiler else "no: training is about a third slower"),
            ("sandbox", f"no: {trouble}" if trouble else "yes: untrusted code runs in bubblewrap"),
            *versions.items()]
    return Answer(facts, table(rows))


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
