"""Where a model is: a folder, or a Hugging Face Hub id that is in the local cache, or may be fetched into it.

    locate("runs/llama")                    # the folder itself, or model/ in a run folder
    locate("org/name"), locate("org/name@revision")
    locate("runs/base", near=Path("/elsewhere/runs/fill/adapter"))     # a relative path, said in that folder
    dataset("org/name", Path("runs/corpus"))                           # the files of a data set, in runs/corpus.hub

The cache is the one of `huggingface_hub` ($HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub): refs/NAME
holds a commit, snapshots/COMMIT the files. It is read without that package. What is not there is fetched by it, if it
is installed and HF_HUB_OFFLINE is not set: weights in safetensors, JSON and the chat template, nothing that runs.
"""
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from meristem.core.errors import MachineError, RequestError

ID = re.compile(r"(?!.*(?:--|\.\.))[\w][\w.-]{0,95}/[\w][\w.-]{0,95}(?:@[\w./-]+)?")
FETCHED = ("*.safetensors", "*.json", "chat_template.jinja")   # of the repository's top level
DATA = tuple(f"*{kind}{packed}" for kind in (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".md", ".html",
             ".warc", ".wet", ".fasta", ".tar") for packed in ("", ".gz", ".zst")) + ("LICENSE*", "COPYING*")
TAKEN = ".name"                         # OUT.hub.name: which data set OUT.hub holds, once all of it is there
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
    found = _fetch(missing, repository, revision=revision, allow_patterns=list(FETCHED), ignore_patterns=["*/*"])
    if not (found / CONFIG).is_file():
        raise RequestError(f"{repository} on the Hub holds no {CONFIG}, so it is no model that can be loaded")
    return found


def dataset(name: str, out: Path) -> Path:
    """The folder OUT.hub with the files of the data set `org/name` or `org/name@revision`, fetched unless it is there.

    Tables, texts, archives and licences alone, nothing that runs. RequestError: no such name, offline, or OUT.hub holds
    something else. MachineError: no network.
    """
    if not ID.fullmatch(name):
        raise RequestError(f"hub:{name} is no data set of the Hub; write hub:org/name or hub:org/name@revision")
    folder, own = out.with_name(f"{out.name}.hub"), out.with_name(f"{out.name}.hub{TAKEN}")
    if own.is_file() and own.read_text(encoding="utf-8").strip() == name:
        return folder
    begun = folder / ".cache"                                  # what huggingface_hub notes down while it fetches
    if own.exists() or (folder.exists() and not begun.is_dir() and any(folder.iterdir())):
        raise RequestError(f"{folder} holds something else than {name}; remove it, or choose another --out")
    repository, _, revision = name.partition("@")
    missing = f"the data set {name} is not in {folder}"
    _fetch(missing, repository, revision=revision or "main", repo_type="dataset", allow_patterns=list(DATA),
           local_dir=folder)
    shutil.rmtree(begun, ignore_errors=True)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise RequestError(f"{name} on the Hub holds no tables, texts or archives")
    own.write_text(f"{name}\n", encoding="utf-8")
    return folder


def _fetch(missing: str, repository: str, **how: Any) -> Path:
    """huggingface_hub's download; RequestError or MachineError in one line."""
    if any(os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE") for key in ("HF_HUB_OFFLINE",
                                                                                  "TRANSFORMERS_OFFLINE")):
        raise RequestError(f"{missing}; HF_HUB_OFFLINE forbids fetching it: unset it, or copy its folder here")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise RequestError(f"{missing}; to fetch it: pip install huggingface_hub") from None
    try:
        return Path(snapshot_download(repository, **how))
    except (HfHubHTTPError, HFValidationError) as error:
        raise RequestError(f"{missing}, and the Hub does not give it: {_line(error)}") from None
    except OSError as error:                                   # no network, a full disk
        raise MachineError(f"{missing}, and fetching it failed: {_line(error)}") from None


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
