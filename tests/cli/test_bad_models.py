"""Models that cannot be used, through the command line: exit status, one line that names what is wrong."""
import io
import json
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from meristem.codecs import bpe, chat
from meristem.hub import hf
from meristem.hub.tensors import FILE, INDEX, write
from meristem.models.llama import Config, Model


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of a trained model as another program would leave it: without our manifest."""
    shutil.copytree(trained / "model", tmp_path / "model")
    (tmp_path / "model" / "MANIFEST.json").unlink()
    return tmp_path / "model"


def change(path: Path, **fields: object) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def sharded(folder: Path) -> list[Path]:
    """Split the weights into shards."""
    tensors = load_file(folder / FILE)
    (folder / FILE).unlink()
    write(folder, tensors, limit=20_000)
    return sorted(folder.glob("model-*.safetensors"))


def truncated(folder: Path) -> None:
    shard = sharded(folder)[1]
    shard.write_bytes(shard.read_bytes()[:-7])


def gone(folder: Path) -> None:
    sharded(folder)[1].unlink()


def lying_index(folder: Path) -> None:
    sharded(folder)
    change(folder / INDEX, weight_map={"x": "../../etc/passwd"})


def pickled(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")


def unknown(folder: Path) -> None:
    change(folder / "config.json", architectures=["LlamaForCausalLN"], model_type="llamma")


def tied(folder: Path) -> None:
    change(folder / "config.json", tie_word_embeddings=True)
    tensors = load_file(folder / FILE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, folder / FILE)


def narrow(folder: Path) -> None:
    bpe.fit(["other words " * 50 + "".join(chr(c) for c in range(32, 900))], 900).save(folder)


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(("damage", "line"), [
    (truncated, "model-00002-of-000"), (gone, "model-00002-of-000"), (lying_index, "not a plain file name"),
    (pickled, "pytorch_model.bin is a pickle, which runs code when read; convert it"),
    (unknown, "no family here is a LlamaForCausalLN; did you mean LlamaForCausalLM"),
    (tied, "lm_head.weight differs from the one the config ties it to"), (narrow, "the model's embedding only 512"),
    (no_tokenizer, "no tokenizer.json")], ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("verb", ["generate", "chat", "adapt", "evaluate"])
def test_a_folder_that_is_no_model(run, model: Path, damage: Callable[[Path], None], line: str, verb: str, corpus: Path,
                                   tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(model)
    monkeypatch.setattr(sys, "stdin", io.StringIO("def\n"))
    words = {"generate": ["def "], "adapt": ["function_bodies", f"data.corpus={corpus}", "--out", tmp_path / "out"],
             "evaluate": ["--corpus", corpus], "chat": []}[verb]
    result = run(verb, model, *words)
    assert result.status == 2 and line in result.complaint


@pytest.mark.parametrize("name", ["org/name", "org/name@v2"])
def test_a_hub_id_that_is_not_in_the_cache(run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("generate", name, "def ")
    assert result.status == 2 and "not in the cache" in result.complaint and "HF_HUB_OFFLINE" in result.complaint


def test_a_hub_id_in_the_cache(run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = tmp_path / "hub" / "models--org--name"
    (at / "refs").mkdir(parents=True)
    (at / "refs" / "main").write_text("c0ffee")
    shutil.copytree(model, at / "snapshots" / "c0ffee")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    words = ["def ", "--length", 6, "--json"]
    assert run("generate", "org/name", *words).json["text"] == run("generate", model, *words).json["text"]


def test_a_prompt_longer_than_the_context(run, model: Path) -> None:
    result = run("generate", model, "x = 1\n" * 200)
    assert result.status == 2 and "exceed the model's context of 64" in result.complaint


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a vocabulary padded beyond its tokenizer and our ChatML template."""
    codec = bpe.fit(["user and assistant talk about adding numbers\n" * 9], 300, chat.CHATML_TOKENS)
    torch.manual_seed(0)
    module = Model(Config(vocab=384, context=128, dim=32, layers=1, heads=2))
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    folder = tmp_path_factory.mktemp("talker")
    codec.save(folder)
    chat.save(folder, chat.CHATML)
    hf.save(folder / "model", "llama", module.config, module, codec, chat=chat.load(folder))
    return folder / "model"


def test_a_chat_model_converses(run, talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer depends on the first turn; no word of the base model's warning; a seed repeats it."""
    told = []
    for lines in ("hello <|im_end|>\nadd\n", "hello <|im_end|>\nadd\n", "other\nadd\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        result = run("chat", talker, "--length", "12", "--json")
        assert result.status == 0 and "does not converse" not in result.err and "Type a message" in result.err
        told.append([turn["text"] for turn in result.json["turns"]])
    assert told[0] == told[1] and told[0][1] != told[2][1] and len(told[0]) == 2


@pytest.mark.parametrize(("template", "line"), [
    ("{{ messages.__class__.__mro__ }}", "outside its sandbox"),
    ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "processor time"),
    ("{% if %}", "not valid Jinja"), ("{{ 'word ' * 2000 }}", "exceed the model's context of 128")])
def test_a_template_that_cannot_be_used(run, talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        template: str, line: str) -> None:
    shutil.copytree(talker, tmp_path / "model")
    (tmp_path / "model" / "MANIFEST.json").unlink()
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    result = run("chat", tmp_path / "model")
    assert result.status == 2 and line in result.complaint
    assert run("generate", tmp_path / "model", "add", "--length", 2).status == 0       # without its template it works


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes, as under a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_full_disk_is_status_1_and_keeps_what_was_there(run, tiny: list[str], real_files: Path, corpus: Path,
                                                          trained: Path, tmp_path: Path) -> None:
    assert run("export", trained, "--out", tmp_path / "hf").status == 0
    before = tree(tmp_path / "hf")
    out = tmp_path / "run"
    words = [*tiny, f"data.corpus={corpus}", "train.steps=3", "--out", out]
    for verb in (["curate", real_files, "--out", tmp_path / "corpus"], ["export", trained, "--out", tmp_path / "new"],
                 ["pretrain", "llama", *words]):
        with small_disk(30_000):
            result = run(*verb)
        assert result.status == 1 and "free some space" in result.complaint, verb
    assert tree(tmp_path / "hf") == before and not (tmp_path / "new" / "model.safetensors").exists()
    assert not (tmp_path / "corpus" / "corpus.json").exists() and not (out / "result.json").exists()
    assert run("pretrain", "--from", out).status == 0          # with room again it goes on
    assert (out / "result.json").is_file() and (out / "energy.json").is_file()


def test_a_flipped_checkpoint_costs_one_and_the_run_goes_on(run, tiny: list[str], corpus: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = [*tiny, f"data.corpus={corpus}", "train.steps=4", "train.save_seconds=-1", "train.keep=3"]
    assert run("pretrain", "llama", *words, "--out", whole).status == 0
    shutil.copytree(whole, broken)
    (broken / "result.json").unlink()
    steps = sorted((broken / "checkpoints").glob("step-*"))
    assert len(steps) >= 2
    path = steps[-1] / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 4
    path.write_bytes(raw)
    result = run("pretrain", "--from", broken)
    assert result.status == 0 and f"{steps[-1].name} is damaged" in result.err
    assert (broken / "model" / FILE).read_bytes() == (whole / "model" / FILE).read_bytes()
