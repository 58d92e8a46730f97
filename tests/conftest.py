"""Before any test: no network, one thread, no compilation, and shape annotations that are executed.

jaxtyping's import hook makes beartype check every `Float[Tensor, "B T D"]` of the maths trunk each time a function is
called, so an annotation that lies fails a test.
"""
import atexit
import os
import tempfile
from pathlib import Path
from shutil import copy, rmtree

import pytest
from jaxtyping import install_import_hook

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="",
                  OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"), TORCHDYNAMO_DISABLE="1", NO_COLOR="1",
                  COLUMNS="100", MERISTEM_NO_RISK="1")           # each run would be judged; tests.cli.test_risk does it
if "XDG_CACHE_HOME" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="meristem-tests-")
    atexit.register(rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
os.environ.setdefault("XDG_STATE_HOME", os.environ["XDG_CACHE_HOME"])          # the history of plans
install_import_hook(["meristem.nn", "meristem.models", "meristem.objectives", "meristem.generate", "meristem.adapt",
                     "meristem.train.optim", "meristem.plan.scaling"], "beartype.beartype")


@pytest.fixture(scope="session")
def real_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 small real sources: modules of this Python's standard library, 3 to 16 kB each."""
    folder = tmp_path_factory.mktemp("real-files")
    sources = [p for p in sorted(Path(os.__file__).parent.glob("*.py")) if 3_000 < p.stat().st_size < 16_000]
    for path in sources[:60]:
        copy(path, folder / path.name)
    return folder
