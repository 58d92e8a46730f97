"""Safetensors in and out: what is written is what is read, in shards too, and a damaged file is one clear line."""
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from meristem.core.errors import MeristemError, RequestError
from meristem.hub.tensors import FILE, INDEX, Tensors, content_hash, write

KINDS = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]


def several() -> dict[str, torch.Tensor]:
    """One tensor of every kind, a scalar and an empty one."""
    generator = torch.Generator().manual_seed(0)
    made = {f"w{i}": (torch.randn(3, 5, generator=generator) * 9).to(kind) for i, kind in enumerate(KINDS)}
    return {**made, "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}


@pytest.mark.parametrize("limit", [1, 100, 10**9])
def test_what_is_written_is_read_however_it_is_split(limit: int, tmp_path: Path) -> None:
    wanted = several()
    write(tmp_path, wanted, limit)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) == 1) == (limit == 10**9) == (not (tmp_path / INDEX).exists())
    found = Tensors.open(tmp_path)
    assert sorted(found) == sorted(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
    assert content_hash(found) == content_hash(wanted)
    theirs = {name: t for file in files for name, t in load_file(file).items()}        # and the library agrees
    assert all(torch.equal(theirs[name], wanted[name]) for name in wanted)
    if limit == 100:
        assert all(sum(t.nbytes for t in load_file(file).values()) <= 120 for file in files)   # w3 alone has 120
        assert found.where("w3") == str(tmp_path / json.loads((tmp_path / INDEX).read_text())["weight_map"]["w3"])


def test_the_hash_tells_every_change() -> None:
    hashes = [content_hash(several())]
    for change in ({"w0": several()["w0"] + 1e-6}, {"w0": several()["w0"].reshape(5, 3)}, {"extra": torch.ones(1)},
                   {"w4": several()["w4"].to(torch.int32)}):
        hashes.append(content_hash({**several(), **change}))
    assert len(set(hashes)) == 5
    assert content_hash(dict(reversed(several().items()))) == hashes[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good file of 3 tensors."""
    path = tmp_path_factory.mktemp("whole") / FILE
    save_file({"a": torch.ones(4, 4), "b": torch.arange(3), "c": torch.zeros(2, dtype=torch.bfloat16)}, path)
    return path.read_bytes()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_line_or_keeps_the_structure(whole: bytes, data: st.DataObject, tmp_path: Path) -> None:
    """One flipped bit, or a cut: never a crash, never a tensor of another size than its header says."""
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, 8 * len(whole) - 1))
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
    else:
        damaged = bytearray(whole[:data.draw(st.integers(0, len(whole) - 1))])
    (tmp_path / FILE).write_bytes(damaged)
    try:
        found = Tensors.open(tmp_path)
        sizes = sum(found[name].nbytes for name in found)
    except MeristemError as error:
        assert FILE in str(error) and "\n" not in str(error)
    else:
        assert len(damaged) == len(whole) and sizes == 64 + 24 + 4


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickles_are_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(RequestError, match=rf"{name} is a pickle.*save_pretrained"):
        Tensors.open(tmp_path)


def test_bad_folders_and_indices(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no model.safetensors"):
        Tensors.open(tmp_path)
    write(tmp_path, several(), 100)
    index = json.loads((tmp_path / INDEX).read_text())
    victim = tmp_path / index["weight_map"]["w0"]
    victim.unlink()
    with pytest.raises(RequestError, match=rf"{victim.name} is missing, though .* lists it"):
        Tensors.open(tmp_path)
    for table, line in (({"a": "../../w"}, "not a plain file name"), ({"a": 3}, "no weight_map"), ([], "no weight")):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": table}))
        with pytest.raises(RequestError, match=line):
            Tensors.open(tmp_path)
    (tmp_path / INDEX).unlink()
    save_file({}, tmp_path / FILE)
    with pytest.raises(RequestError, match="holds no tensors"):
        Tensors.open(tmp_path)
