"""Where the pictures of a corpus lie: one tar a split, in WebDataset form, read without unpacking.

`<id>.png` and `<id>.txt` (the caption) of a row stand side by side, so that webdataset and `tar -x` read them too
(https://github.com/webdataset/webdataset). Members are found by name and read by offset; nothing is ever extracted, so
a name like `../../x` reaches no file. The corpus's MANIFEST.json holds the size and checksum of each tar.

    images = Tar(corpus.folder / "train.tar"); images["3f2a.png"]           # bytes
    for row in rows_of(Path("animals")): ...                                # a folder of classes as labelled rows
"""
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meristem.core.errors import MachineError, RequestError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
LARGEST = 64 << 20                      # bytes of one picture


class Tar(Mapping[str, bytes]):
    """The regular members of a tar file by name; each access reads that member."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with tarfile.open(path) as tar:
                self.places = {m.name: (m.offset_data, m.size) for m in tar if m.isreg() and m.size <= LARGEST}
        except (OSError, tarfile.TarError) as error:
            raise RequestError(f"{path} is no tar file that can be read: {error}") from None

    def __getitem__(self, name: str) -> bytes:
        start, size = self.places[name]
        with open(self.path, "rb") as f:
            f.seek(start)
            raw = f.read(size)
        if len(raw) < size:
            raise MachineError(f"{self.path} became shorter while it was read ({name})")
        return raw

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def write(path: Path, rows: Iterator[tuple[str, bytes]]) -> None:
    """A tar of (name, bytes) in order, the same bytes every time: no owner, no date."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, raw in rows:
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))


def is_folder(path: Path) -> bool:
    """Whether a folder holds pictures, or folders of pictures named by class."""
    return path.is_dir() and next(_files(path), None) is not None


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """A folder's pictures as labelled rows, sorted: the class is the folder below `path` that a picture lies in.

    A caption stands beside its picture in a .txt file of the same name, as in an unpacked WebDataset.
    """
    for file in sorted(_files(path)):
        inside = file.relative_to(path)
        row: dict[str, Any] = {"image": str(inside)}
        if len(inside.parts) > 1:
            row["label"] = inside.parts[0]
        caption = file.with_suffix(".txt")
        if caption.is_file():
            row["text"] = caption.read_text(encoding="utf-8").strip()
        yield row


def bytes_of(row: Mapping[str, Any], root: Path) -> bytes:
    """The picture that a row names, below `root`; ValueError says why there is none."""
    name = row["image"]
    if not isinstance(name, str) or not name.lower().endswith(EXTENSIONS):
        raise ValueError(f"image is a file name that ends in {', '.join(EXTENSIONS)}")
    file = root / name
    if not file.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"image {json.dumps(name)} lies outside {root}")
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"{file} is larger than {LARGEST >> 20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file()
            and not file.is_symlink())
