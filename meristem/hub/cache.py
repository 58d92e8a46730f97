"""Where a model is: a folder, or a Hugging Face Hub id that is in the local cache, or may be fetched into it.

    locate("runs/llama")                    # the folder itself, or model/ in a run folder
    locate("org/name"), locate("org/name@revision")
    locate("runs/base", near=Path("/elsewhere/runs/fill/adapter"))     # a relative path, said in that folder

The cache is the one of `huggingface_hub` ($HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub): refs/NAME
holds a commit, snapshots/COMMIT the files. It is read without that package. What is not there is fetched by it, if it
is installed and HF_HUB_OFFLINE is not set: weights in safetensors, JSON and the chat template, nothing that runs.
"""
import os
import re
from contextlib import suppress
from pathlib import Path

from meristem.core.errors import MachineError, RequestError

ID = re.compile(r"(?!.*(?:--|\.\.))[\w][\w.-]{0,95}/[\w][\w.-]{0,95}(?:@[\w./-]+)?")
FETCHED = ("*.safetensors", "*.json", "chat_template.jinja")   # of the repository's top level
CONFIG, ADAPTER = "config.json", "adapter_config.json"


def locate(name: str | Path, near: Path | None = None) -> Path:
    """The model folder (with config.json) that a path or a Hub id means; RequestError, one line, when there is none.

    A relative path is looked for from `near` and each folder above it, then from the working folder.
    """
    path = Path(name).expanduser()
    above = [] if near is None or path.is_absolute() else [near.absolute(), *near.absolute().parents]
    for start in (*above, Path()):
        for candidate in (start / path, start / path / "model"):
            if (candidate / CONFIG).is_file():
                return candidate
    if (path / "recipe.json").is_file():
        raise RequestError(f"{path} is a run that has no model yet; finish it with: meristem pretrain --from {path}")
    if path.is_dir():
        raise RequestError(f"{path} is neither a model folder (it has no {CONFIG}) nor a run folder with model/ inside")
    if path.is_file():
        raise RequestError(f"{path} is a file; name the folder that holds it")
    if ID.fullmatch(str(name)):
        return snapshot(str(name))
    raise RequestError(f"no folder {path}; {name} is neither a model folder, nor a run folder, nor a Hub id (org/name)")


def adapter_of(path: Path) -> Path | None:
    """The adapter folder that a path means: itself, or that of a run which has no model of plain weights; else None."""
    if (path / ADAPTER).is_file():
        return path
    inner = path / "adapter"
    return inner if (inner / ADAPTER).is_file() and not (path / "model" / CONFIG).is_file() else None


def lasting(name: str, near: Path) -> str:
    """How a file in `near` should name a model: as it is where `locate` finds it again from there, else absolute."""
    path = Path(name).expanduser()
    if path.is_absolute() or not path.exists():
        return name
    for start in (near.absolute(), *near.absolute().parents):
        if (start / path).exists():
            return name if (start / path).samefile(path) else str(path.absolute())
    return str(path.absolute())


def snapshot(name: str) -> Path:
    """The files of `org/name` or `org/name@revision` in the cache, fetched first where that is possible."""
    repository, _, revision = name.partition("@")
    revision = revision or "main"
    if found := cached(repository, revision):
        return found
    missing = f"no folder {name}, and the Hub model is not in the cache {root()}"
    if any(os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE") for key in ("HF_HUB_OFFLINE",
                                                                                  "TRANSFORMERS_OFFLINE")):
        raise RequestError(f"{missing}; HF_HUB_OFFLINE forbids fetching it: unset it, or copy the model's folder here")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise RequestError(f"{missing}; to fetch it: pip install huggingface_hub") from None
    try:
        found = Path(snapshot_download(repository, revision=revision, allow_patterns=list(FETCHED),
                                       ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError) as error:
        raise RequestError(f"{missing}, and the Hub does not give it: {_line(error)}") from None
    except OSError as error:                                   # no network, a full disk
        raise MachineError(f"{missing}, and fetching it failed: {_line(error)}") from None
    if not (found / CONFIG).is_file():
        raise RequestError(f"{repository} on the Hub holds no {CONFIG}, so it is no model that can be loaded")
    return found


def cached(repository: str, revision: str = "main") -> Path | None:
    """The folder of a snapshot in the cache that has a config.json, or None. `revision`: branch, tag or commit."""
    folder = root() / f"models--{repository.replace('/', '--')}"
    commit = revision                                          # unless it is the name of one
    with suppress(OSError, ValueError):
        commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    found = folder / "snapshots" / commit
    return found if Path(commit).name == commit and (found / CONFIG).is_file() else None


def root() -> Path:
    """The folder of the cache, as huggingface_hub finds it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
