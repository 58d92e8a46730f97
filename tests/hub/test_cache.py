"""Hub ids: from the cache, else fetched where that is allowed, else one line; relative paths hold from anywhere."""
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import meristem
from meristem.cli.main import main
from meristem.codecs import bpe
from meristem.core.errors import MachineError, RequestError
from meristem.corpus.store import Corpus
from meristem.hub import cache, hf
from meristem.models.llama import Config, Model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder."""
    codec = bpe.fit(["def add(a, b):\n    return a + b\n" * 9], 270)
    module = Model(Config(vocab=codec.vocab, context=32, dim=16, layers=1, heads=2))
    hf.save(tmp_path_factory.mktemp("cache") / "model", "llama", module.config, module, codec)
    return next(tmp_path_factory.getbasetemp().glob("cache*/model"))


@pytest.fixture
def home(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as huggingface_hub lays it out: blobs, links to them by commit, and a branch that names the commit."""
    at = tmp_path / "home" / "hub" / "models--org--name.v1"
    (at / "blobs").mkdir(parents=True)
    (at / "refs" / "pr").mkdir(parents=True)
    (at / "snapshots" / COMMIT).mkdir(parents=True)
    for ref in ("main", "pr/7"):
        (at / "refs" / ref).write_text(COMMIT)
    for number, path in enumerate(sorted(folder.iterdir())):
        if path.name != "MANIFEST.json":
            shutil.copy(path, at / "blobs" / str(number))
            (at / "snapshots" / COMMIT / path.name).symlink_to(os.path.join("..", "..", "blobs", str(number)))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    return at


def test_an_id_is_loaded_from_the_cache(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)              # neither package nor network is needed
    for name in ("org/name.v1", "org/name.v1@main", f"org/name.v1@{COMMIT}", "org/name.v1@pr/7"):
        assert meristem.load(name).folder == home / "snapshots" / COMMIT
    assert meristem.load("org/name.v1").score("def").nats == meristem.load(folder).score("def").nats
    monkeypatch.setenv("HF_HUB_CACHE", str(home.parent))
    monkeypatch.setenv("HF_HOME", "/nowhere")
    assert meristem.load(Path("org/name.v1")).family == "llama"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some")
    assert cache.root() == Path("/some/huggingface/hub")


def test_a_folder_goes_before_the_cache(home: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "org" / "name.v1")
    assert cache.locate("org/name.v1") == Path("org/name.v1")


@pytest.mark.parametrize(("name", "line"), [
    ("org/other", "no folder org/other, and the Hub model is not in the cache .*HF_HUB_OFFLINE forbids"),
    ("org/name.v1@v2", "not in the cache"), ("org/name.v1@../../x", "nor a Hub id"),
    ("../org/name.v1", "nor a Hub id"), ("org/na--me", "nor a Hub id"), ("name", "nor a Hub id"),
    ("https://example.org/a", "nor a Hub id"), ("", "neither a model folder")])
def test_what_cannot_be_found_is_one_line(home: Path, name: str, line: str) -> None:
    with pytest.raises(RequestError, match=line) as caught:
        cache.locate(name)
    assert "\n" not in str(caught.value)


def test_runs_files_and_folders_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(RequestError, match="a run that has no model yet; finish it with: meristem pretrain --from"):
        cache.locate(tmp_path)
    with pytest.raises(RequestError, match="is a file"):
        cache.locate(tmp_path / "recipe.json")


class Refused(Exception):
    """What huggingface_hub raises."""


@pytest.mark.parametrize(("answer", "line", "kind"), [
    (Refused("401\nClient Error"), "the Hub does not give it: 401 Client Error", RequestError),
    (OSError("no network"), "fetching it failed: no network", MachineError),
    ("", "holds no config.json", RequestError)])
def test_fetching(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, answer: object, line: str,
                  kind: type[Exception]) -> None:
    """The package is replaced by one that answers at once: what is asked of it, and what its failures become."""
    asked = []

    def snapshot_download(name: str, **words: object) -> str:
        asked.append((name, words))
        if isinstance(answer, Exception) and len(asked) == 1:
            raise answer
        return str(folder if len(asked) > 1 else home)
    package = SimpleNamespace(snapshot_download=snapshot_download, __path__=[])
    errors = SimpleNamespace(HfHubHTTPError=Refused, HFValidationError=Refused)
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(key, "0")
    with pytest.raises(kind, match=line):
        cache.locate("org/other")
    assert cache.locate("org/other@v2") == folder
    assert [name for name, _ in asked] == ["org/other"] * 2 and asked[1][1]["revision"] == "v2"
    assert asked[0][1]["allow_patterns"] == ["*.safetensors", "*.json", "chat_template.jinja"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RequestError, match="pip install huggingface_hub"):
        cache.locate("org/other")


def test_a_relative_path_in_a_file_is_found_from_anywhere(folder: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, tmp_path / "runs" / "base" / "model")
    adapter = tmp_path / "runs" / "fill" / "adapter"
    adapter.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    for near in (adapter, Path("runs")):
        assert cache.lasting("runs/base/model", near) == "runs/base/model"
    assert cache.lasting("org/name", adapter) == "org/name"
    (elsewhere / "mine").mkdir()
    monkeypatch.chdir(elsewhere)
    assert cache.lasting("mine", adapter) == str(elsewhere / "mine")
    (tmp_path / "runs" / "mine").mkdir()                       # another one of that name is nearer to the adapter
    assert cache.lasting("mine", adapter) == str(elsewhere / "mine")
    assert cache.locate("runs/base/model", near=adapter) == tmp_path / "runs" / "base" / "model"
    with pytest.raises(RequestError):
        cache.locate("runs/base")


def test_a_data_set_is_fetched_beside_the_corpus_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, **how) -> str:
        asked.append((repository, how["repo_type"], how["revision"]))
        where = how["local_dir"]
        (where / ".cache").mkdir(parents=True, exist_ok=True)
        if len(asked) == 1:
            raise OSError("no route")
        rows = [{"text": " ".join(f"word{k} and then" for k in range(9 * n, 9 * n + 9))} for n in range(9)]
        (where / "part.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(where)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=download, __path__=[]))
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", SimpleNamespace(HfHubHTTPError=Refused,
                                                                               HFValidationError=Refused))
    for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(key, "0")
    with pytest.raises(MachineError, match="fetching it failed: no route"):
        cache.dataset("org/set@v1", tmp_path / "out")
    for _ in range(2):                                                     # goes on after the failure; then is there
        assert main(["curate", "hub:org/set@v1", "--out", str(tmp_path / "out")]) == 0
    assert asked == [("org/set", "dataset", "v1")] * 2
    assert Corpus.open(tmp_path / "out").summary["seen"]["documents"] == 9
    with pytest.raises(RequestError, match="holds something else"):
        cache.dataset("org/other", tmp_path / "out")
    for name, why in (("plain", "is no data set"), ("../up/x", "is no data set")):
        with pytest.raises(RequestError, match=why):
            cache.dataset(name, tmp_path / "new")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RequestError, match="HF_HUB_OFFLINE forbids"):
        cache.dataset("org/other", tmp_path / "new")
