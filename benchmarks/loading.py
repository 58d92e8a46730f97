"""A model whose fp32 weights are twice the memory there is (row G8): which ways of holding it load and write a token?

    python -m benchmarks.loading [--out FOLDER] [--tiny]

A Llama of random weights is saved in bf16 and, as `meristem export --bits` does, with 8 and 4 bits. Each folder is then
loaded and asked for four tokens in a fresh process that may hold no more private memory (RLIMIT_DATA: interpreter,
libraries and weights together) than half of what its fp32 weights take. Beside stands what the planner
(`plan.elsewhere.fit`) says of the same machine. Reported: whether it wrote, and the peak of resident memory.
"""
import argparse
import json
import re
import resource
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.common import record, worker

SHAPE = {"vocab": 16_000, "dim": 1280, "layers": 16, "heads": 10, "groups": 10, "hidden": 3456, "context": 512}
TINY = {**SHAPE, "vocab": 512, "dim": 256, "layers": 2, "heads": 4, "groups": 4, "hidden": 512}
WAYS = {"bf16": 0, "int8": 8, "int4": 4}


def make(folder: Path, shape: dict[str, int]) -> dict[str, Any]:
    """The three folders, those that are not there yet; how many parameters."""
    import torch

    from meristem.hub import hf
    from meristem.models.llama import Config, Model
    from meristem.nn.quantise import quantise
    torch.manual_seed(0)
    config = Config(**shape)
    with torch.device("meta"):
        module = Model(config)
    if not (folder / "bf16").is_dir():
        module = module.bfloat16().to_empty(device="cpu")
        with torch.no_grad():
            for p in module.parameters():
                p.normal_(0.0, 0.02)
        hf.save(folder / "bf16", "llama", config, module)
    for name, bits in WAYS.items():
        if bits and not (folder / name).is_dir():
            small = hf.load(folder / "bf16")
            quantise(small.module, bits, 32 if bits == 4 else 0)
            hf.save(folder / name, "llama", config, small.module)
    return {"parameters": sum(p.numel() for p in module.parameters())}


def asked(folder: Path, limit: int) -> dict[str, Any]:
    """Load and write under a limit of private bytes; the peak of resident ones."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    said = ""
    try:
        import numpy as np

        from meristem.core import machine
        from meristem.generate.autoregressive import generate
        from meristem.hub import hf
        machine.set_threads()
        loaded = hf.load(folder)
        written = len(generate(loaded.module, [np.array([1, 2, 3])], length=4)[0].tokens)
    except (MemoryError, RuntimeError, OSError) as error:
        written, said = 0, (str(error) or type(error).__name__).splitlines()[0][:160]
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak is not None
    return {"tokens": written, "peak_mb": int(peak[1]) // 1024, **({"error": said} if said else {})}


def planned(shape: dict[str, int], limit: int) -> list[str]:
    """What the planner says."""
    from meristem.core.config import Part
    from meristem.plan.elsewhere import fit
    return fit(Part("llama", dict(shape)), limit).explain()


def main() -> None:
    """Write the folders, then ask each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small shape, to see that it runs")
    parser.add_argument("--out", type=Path, help="where the folders are made and kept; else a temporary place")
    parser.add_argument("--worker", nargs="+")
    given = parser.parse_args()
    if given.worker:
        kind, folder, number = given.worker
        print(json.dumps(make(Path(folder), json.loads(number)) if kind == "make" else
                         asked(Path(folder), int(number))))
        return
    shape = TINY if given.tiny else SHAPE
    with ExitStack() as stack:
        place = given.out or stack.enter_context(tempfile.TemporaryDirectory())
        Path(place).mkdir(parents=True, exist_ok=True)
        found = worker("benchmarks.loading", "make", str(place), json.dumps(shape))
        limit = (1 << 30) if given.tiny else found["parameters"] * 4 // 2
        found |= {"limit_mb": limit >> 20, "fp32_mb": found["parameters"] * 4 >> 20,
                  "planner": planned(shape, limit)}
        for name in WAYS:
            size = sum(p.stat().st_size for p in (Path(place) / name).glob("*.safetensors"))
            found[name] = {**worker("benchmarks.loading", "ask", f"{place}/{name}", str(limit)),
                           "file_mb": size >> 20}
    record("loading-tiny" if given.tiny else "loading", found)


if __name__ == "__main__":
    main()
