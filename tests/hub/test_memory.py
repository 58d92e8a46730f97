"""Loading a folder of any family peaks at the model's size + 10 %, whatever is split, stacked or turned on the way."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from meristem.core import registry
from meristem.core.config import from_dict
from meristem.hub import hf

MEASURE = """
import gc, json, re, sys
from pathlib import Path
from meristem.hub import hf
hf.load(sys.argv[1])                                           # a small one: imports are paid
def status(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
out = []
for folder in sys.argv[2:]:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")              # the high-water mark starts anew
    before = status("VmRSS")
    loaded = hf.load(folder)
    out.append([status("VmHWM") - before, sum(p.nbytes for p in loaded.module.parameters())])
    del loaded
print(json.dumps(out))
"""
SHAPE = {"vocab": 8192, "dim": 320, "layers": 6, "heads": 4}
FAMILIES: dict[str, tuple[str, dict]] = {                      # what is done to their tensors on the way in
    "gpt2, turned, q k v split": ("gpt2", SHAPE),
    "neox, q k v split by head": ("neox", SHAPE),
    "starcoder2": ("starcoder2", SHAPE),
    "palm": ("palm", SHAPE),
    "mixtral, experts stacked": ("mixtral", {**SHAPE, "hidden": 320, "experts": 4}),
    "llama4, experts turned and split": ("llama4", {**SHAPE, "groups": 2, "head_dim": 80, "hidden": 320,
                                                    "dense_hidden": 640, "experts": 4}),
    "bert": ("bert", {**SHAPE, "head": "lm"}),
    "t5": ("t5", {**SHAPE, "head_dim": 80, "hidden": 640}),
    "lstm": ("lstm", {"vocab": 8192, "dim": 400, "hidden": 800}),
}


def write(folder: Path, family: str, fields: dict) -> Path:
    torch.manual_seed(0)
    entry = registry.load("models", family)
    config = from_dict(entry.Config, fields)
    hf.save(folder, family, config, entry.Model(config))
    return folder


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="resets Linux's high-water mark")
def test_loading_any_family_peaks_at_its_size(tmp_path: Path) -> None:
    """25 to 60 MB of weights each in fp32, one process; 3 MB are the interpreter's own."""
    small = write(tmp_path / "small", "llama", {"vocab": 64, "dim": 32, "layers": 1, "heads": 4})
    folders = [write(tmp_path / str(n), *one) for n, one in enumerate(FAMILIES.values())]
    # memory that is freed goes back to the system, so that each family begins at the same level
    done = subprocess.run([sys.executable, "-c", MEASURE, small, *folders], capture_output=True, text=True, check=True,
                          env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"})
    for name, (peak, size) in zip(FAMILIES, json.loads(done.stdout), strict=True):
        assert size > 20e6 and 0.9 * size < peak < 1.1 * size + 3e6, f"{name}: {peak / size:.2f} of {size / 1e6:.0f} MB"
