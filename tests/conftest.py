"""Before any test: no network, one thread, no compilation, and shape annotations that are executed.

jaxtyping's import hook makes beartype check every `Float[Tensor, "B T D"]` of the maths trunk each time a function is
called, so an annotation that lies fails a test.

Of several processes (`--dist loadfile`) each takes a file at a time, or a page of the documentation, the longest first.
"""
import atexit
import os
import sys
import tempfile
from pathlib import Path
from shutil import copy, rmtree
from typing import Any

import pytest
from jaxtyping import install_import_hook

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="",
                  OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"), TORCHDYNAMO_DISABLE="1", NO_COLOR="1",
                  COLUMNS="100", MERISTEM_NO_RISK="1")           # each run would be judged; tests.cli.test_risk does it
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)               # 40 interpreters are started: one compiles, others read
sys.dont_write_bytecode = False
if "XDG_CACHE_HOME" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="meristem-tests-")
    atexit.register(rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
os.environ.setdefault("XDG_STATE_HOME", os.environ["XDG_CACHE_HOME"])          # the history of plans
install_import_hook(["meristem.nn", "meristem.models", "meristem.objectives", "meristem.generate", "meristem.adapt",
                     "meristem.train.optim", "meristem.plan.scaling"], "beartype.beartype")

# What takes 6 to 20 s of the processor, the longest first.
LONG = ("faults/test_elastic.py", "faults/test_runs.py", "train/test_many.py", "faults/test_interruption.py",
        "train/test_adapted.py", "hub/test_hf.py", "models/test_published.py", "train/test_pictures.py",
        "train/test_guard.py", "plan/test_scaling.py", "train/test_pipeline.py", "adapt/test_methods.py",
        "hub/test_memory.py", "nn/test_decode.py", "generate/test_speculative.py", "docs/planning.md",
        "docs/generation.md", "generate/test_infill.py", "cli/test_bad_models.py", "train/test_picture_adapters.py")


def unit(nodeid: str) -> str:
    """What one process runs without a break: a file of tests, or a page of the documentation."""
    path, _, test = nodeid.removeprefix("tests/").partition("::")
    return "docs/" + test.partition("[")[2].partition(":")[0].rstrip("]") if path == "test_docs.py" else path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process is left alone with one at the end."""
    place = {name: n for n, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(unit(item.nodeid), len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of `--dist loadfile`: units in the order of collection."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Units(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit(nodeid)
    config.option.loadscopereorder = False                     # else files with many tests come first
    return Units(config, log)


@pytest.fixture(scope="session")
def real_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 small real sources: modules of this Python's standard library, 3 to 16 kB each."""
    folder = tmp_path_factory.mktemp("real-files")
    sources = [p for p in sorted(Path(os.__file__).parent.glob("*.py")) if 3_000 < p.stat().st_size < 16_000]
    for path in sources[:60]:
        copy(path, folder / path.name)
    return folder
