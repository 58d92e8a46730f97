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
MASKS = ".masks.png"                    # how the name of a picture's label map ends
LARGEST = 64 << 20                      # bytes of one picture
LONGEST = 64 << 10                      # bytes of one caption


class Tar(Mapping[str, bytes]):
    """The regular members of a tar file by name; each access reads that member."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with tarfile.open(path, "r:") as tar:              # never unpacked, so no few kB become gigabytes
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

    A caption stands beside its picture in a .txt file of the same name, as in an unpacked WebDataset, and the label map
    of `a.png` (a number a pixel: which thing lies there) in `a.masks.png`.
    """
    for file in sorted(_files(path)):
        inside = file.relative_to(path)
        if file.name.endswith(MASKS):
            continue
        row: dict[str, Any] = {"image": str(inside)}
        if len(inside.parts) > 1:
            row["label"] = inside.parts[0]
        caption = file.with_suffix(".txt")
        if caption.is_file() and not caption.is_symlink():     # a link could show any file of this machine
            row["text"] = _caption(caption)
        if file.with_suffix(MASKS).is_file():
            row["masks"] = str(inside.with_suffix(MASKS))
        yield row


def bytes_of(row: Mapping[str, Any], root: Path, key: str = "image") -> bytes:
    """The picture that a row names under `key`, below `root`; ValueError says why there is none."""
    name = row[key]
    if not isinstance(name, str) or not name.lower().endswith(EXTENSIONS):
        raise ValueError(f"{key} is a file name that ends in {', '.join(EXTENSIONS)}")
    file = root / name
    if not file.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{key} {json.dumps(name)} lies outside {root}")
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"{file} is larger than {LARGEST >> 20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None


def trouble(row: Mapping[str, Any]) -> str:
    """What is wrong with the fields of a row with a picture, or "".

    `objects` are {"name": ..., "regions": [numbers of the label map]} or {"name": ..., "box": [x, y, x, y in pixels]}.
    """
    if not (isinstance(row.get("text", ""), str) and isinstance(row.get("label", ""), str | int)):
        return "text and label of a picture are strings"
    objects = row.get("objects", [])
    if not isinstance(objects, list) or not all(map(_is_object, objects)):
        return ('objects is a list of {"name": text, "regions": [numbers from 1]} or of {"name": text, "box": [left, '
                'top, right, bottom]}')
    return "" if "masks" in row or not any("regions" in one for one in objects) else (
        "objects have regions, and there is no label map under masks that they are numbers of")


def _is_object(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("name", ""), str):
        return False
    regions, box = one.get("regions"), one.get("box")
    if box is not None:
        return (regions is None and isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float)
                for v in box) and box[0] <= box[2] and box[1] <= box[3])
    return isinstance(regions, list) and all(isinstance(v, int) and 0 < v < 1 << 16 for v in regions)


def _caption(path: Path) -> str:
    """A caption; RequestError when it is none."""
    try:
        with open(path, "rb") as f:
            raw = f.read(LONGEST + 1)
        text = raw.decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is no caption that can be read: {error}") from None
    if len(raw) > LONGEST:
        raise RequestError(f"{path} is no caption: it is larger than {LONGEST >> 10} KiB")
    return text


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file()
            and not file.is_symlink())
