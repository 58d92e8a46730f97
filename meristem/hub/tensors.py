"""Safetensors files in and out: one file or shards with an index, read one tensor at a time.

    tensors = Tensors.open(folder)      # a Mapping: names at once, numbers when asked for
    write(folder, {"w": w})             # model.safetensors, or model-00001-of-0000N.safetensors with an index

Format: https://github.com/huggingface/safetensors (8-byte little-endian header length, JSON header, raw numbers).
The library checks headers and writes; numbers are read by offset straight into the tensor that is returned, so that
loading peaks at the model's own size (a memory map would be counted beside the copy). Pickled checkpoints are refused.
"""
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from meristem.core.errors import MachineError, RequestError
from meristem.core.files import MANIFEST, digest_bytes, read_json, verify

STEMS = ("model", "diffusion_pytorch_model")                    # transformers' and diffusers' names of the file
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000             # the Hub's own habit
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
          "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


@dataclass(frozen=True)
class _Place:
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int                          # byte offset in the file


class Tensors(Mapping[str, Tensor]):
    """The tensors of some safetensors files by name; each access reads that tensor from disk into new memory."""

    def __init__(self, places: dict[str, _Place]):
        self.places = places

    @classmethod
    def open(cls, folder: Path) -> "Tensors":
        """Every tensor of a model folder; RequestError names what is missing, damaged or a pickle."""
        whole = [folder / f"{stem}.safetensors" for stem in STEMS]
        if index := next((i for file in whole if (i := _index(file)).exists()), None):
            files = _shards(index)
        elif file := next((file for file in whole if file.exists()), None):
            files = [file]
        elif pickles := sorted(p.name for pattern in PICKLES for p in folder.glob(pattern)):
            raise RequestError(f"{folder / pickles[0]} is a pickle, which runs code when read; convert it to "
                               f"{FILE} first, on a machine you can lose: transformers' "
                               "from_pretrained(FOLDER).save_pretrained(NEW) writes safetensors")
        else:
            raise RequestError(f"{folder} holds no {FILE}")
        places = {name: place for file in files for name, place in _header(file).items()}
        if not places:
            raise RequestError(f"{files[0]} holds no tensors")
        return cls(places)

    def __getitem__(self, name: str) -> Tensor:
        place = self.places[name]
        tensor = torch.empty(place.shape, dtype=place.dtype)
        if not tensor.numel():
            return tensor
        room = tensor.view(-1).view(torch.uint8).numpy().data
        try:
            with open(place.file, "rb", buffering=0) as f:
                f.seek(place.start)
                done = 0
                while done < len(room) and (got := f.readinto(room[done:])):       # one read stops at 2 GiB
                    done += got
        except OSError as error:
            raise MachineError(f"could not read {place.file}: {error.strerror}") from error
        if done < len(room):
            raise MachineError(f"{place.file} became shorter while it was read (tensor {name})")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def part(self, begin: str) -> "Tensors":
        """Those whose names begin so, without that beginning."""
        return Tensors({n.removeprefix(begin): place for n, place in self.places.items() if n.startswith(begin)})

    def where(self, name: str) -> str:
        """The file that holds a tensor, or should (the folder's first file), for error lines."""
        return str((self.places.get(name) or next(iter(self.places.values()))).file)


def write(folder: Path, tensors: Mapping[str, Tensor], limit: int = SHARD_BYTES, stem: str = STEMS[0]) -> None:
    """Write tensors as `STEM.safetensors`, or in shards of at most `limit` bytes with an index.

    MachineError when the disk fails. The caller makes the folder appear whole (`core.files.committed`).
    """
    shards: list[dict[str, Tensor]] = [{}]
    room = limit
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = limit
        shards[-1][name] = tensor
        room -= tensor.nbytes
    count = len(shards)
    whole = folder / f"{stem}.safetensors"
    files = [whole.name] if count == 1 else [f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    try:
        for file, shard in zip(files, shards, strict=True):
            save_file(shard, folder / file, metadata={"format": "pt"})
        if count > 1:
            index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
                     "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard}}
            _index(whole).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:                # a full disk is a SafetensorError, which is no OSError
        raise MachineError(f"could not write the weights into {folder}: {error}; "
                           "free some space or choose another folder") from error


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """xxh3-128 of names, types, shapes and numbers: equal for equal weights, however they are split into files."""
    parts: list[str] = []
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        numbers = tensor.reshape(-1).view(torch.uint8).numpy()
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), xxhash.xxh3_128_hexdigest(numbers.data)]
    return digest_bytes(*parts)


def check(folder: Path) -> None:
    """RequestError naming the file that differs from the folder's MANIFEST.json, where it has one."""
    if (folder / MANIFEST).exists() and (problem := verify(folder)):
        raise RequestError(f"{folder}: {problem}; fetch or export it again "
                           f"(or delete {MANIFEST} if you changed the file yourself)")


def _index(file: Path) -> Path:
    return file.with_name(f"{file.name}.index.json")


def _shards(path: Path) -> list[Path]:
    index = read_json(path)
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise RequestError(f"{path} has no weight_map from tensor to file")
    names = sorted(set(table.values()))
    for name in names:
        if Path(name).name != name:
            raise RequestError(f"{path} names {name!r}, which is not a plain file name")
        if not path.with_name(name).is_file():
            raise RequestError(f"{path.with_name(name)} is missing, though {path.name} lists it; "
                               "fetch the folder again")
    return [path.with_name(name) for name in names]


def _header(file: Path) -> dict[str, _Place]:
    try:
        with safe_open(file, framework="pt"):         # the library refuses overlaps, holes, overflows, truncation
            pass
        with open(file, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(length))
    except (OSError, SafetensorError, ValueError) as error:
        raise RequestError(f"{file} is not a whole safetensors file ({error}); fetch or export it again") from None
    header.pop("__metadata__", None)
    unknown = {entry["dtype"] for entry in header.values()} - DTYPES.keys()
    if unknown:
        raise RequestError(f"{file}: tensors of type {', '.join(sorted(unknown))} are not supported; "
                           "load the unquantised checkpoint instead")
    return {name: _Place(file, DTYPES[e["dtype"]], tuple(e["shape"]), 8 + length + e["data_offsets"][0])
            for name, e in header.items()}
