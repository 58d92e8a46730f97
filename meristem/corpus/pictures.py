"""Where the pictures, films and sounds of a corpus lie: one tar a split, in WebDataset form, read without unpacking.

`<id>.png` and `<id>.txt` (the caption) of a row stand side by side, so that webdataset and `tar -x` read them too
(https://github.com/webdataset/webdataset). Members are found by name and read by offset; nothing is ever extracted, so
a name like `../../x` reaches no file. The corpus's MANIFEST.json holds the size and checksum of each tar.

    images = Tar(corpus.folder / "train.tar"); images["3f2a.png"]           # bytes
    for row in rows_of(Path("animals")): ...                                # a folder of classes as labelled rows
    for row in rows_of(Path("pairs.tar")): ...                              # somebody else's tar in that form
    for row in rows_of(Path("shards")): ...                                 # a folder of such tars
"""
import functools
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meristem.core.errors import MachineError, RequestError
from meristem.corpus.licence import NAMES
from meristem.corpus.store import NOTICE

FILMS = (".mp4", ".mov")                # a .gif is a film where it has several frames
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", *FILMS)
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
BESIDE = (".txt", ".json", ".cls")    # what is said of a file of the same name
MASKS = ".masks.png"                    # how the name of a picture's label map ends
LARGEST = 64 << 20                      # bytes of one picture
LONGEST = 64 << 10                      # bytes of one caption
SHARD = ".tar/"                         # in the name of a member of one of several tars


@dataclass(frozen=True)
class Unread:
    """A file that gives no row, and why."""

    name: str
    why: str


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


def is_tar(path: Path) -> bool:
    """Whether a path is a tar file by its name; what is in it shows when it is read."""
    return path.suffix == ".tar" and path.is_file()


def root_of(path: Path) -> Path:
    """Where the pictures of a folder, a tar or a file of rows lie: in it, or beside it."""
    return path if path.is_dir() or is_tar(path) else path.parent


def is_folder(path: Path) -> bool:
    """Whether a folder holds pictures, films or sounds, folders of them named by class, or tars of them."""
    return path.is_dir() and (next(_files(path), None) is not None or any(map(_has_media, _shards(path))))


def is_media(path: Path) -> bool:
    """Whether a folder or a tar holds pictures, films or sounds and, but for what is said of them, nothing else."""
    if is_tar(path):
        return _has_media(path) and _nothing_else(list(_opened(path, path.stat().st_mtime_ns)))
    if not is_folder(path):
        return False
    files = (file for file in path.rglob("*") if not file.is_dir() and not (file.suffix == ".tar" and is_media(file)))
    return all(file.suffix.lower() in (*EXTENSIONS, *SOUNDS) or file.name in (*NAMES, NOTICE) or
               (file.suffix.lower() in BESIDE and any(file.with_suffix(e).exists() for e in (*EXTENSIONS, *SOUNDS)))
               for file in files)


def rows_of(path: Path) -> Iterator[dict[str, Any] | Unread]:
    """A folder's pictures, films and sounds as labelled rows, sorted: the class is the folder that one lies in.

    In a tar, members of one name belong together (WebDataset): `.txt` is the caption, `.cls` the class, and `.json` may
    say both ("text" or "caption", "label"). Tars below a folder are its shards.
    A caption stands beside its picture in a .txt file of the same name, as in an unpacked WebDataset, and the label map
    of `a.png` (a number a pixel: which thing lies there) in `a.masks.png`.
    """
    if not path.is_dir():
        yield from _rows_of_tar(_opened(path, path.stat().st_mtime_ns))
        return
    for file in sorted(_files(path)):
        inside = file.relative_to(path)
        if file.name.endswith(MASKS):
            continue
        row: dict[str, Any] = {key_of(file.suffix): str(inside)}
        if len(inside.parts) > 1:
            row["label"] = inside.parts[0]
        caption = file.with_suffix(".txt")
        try:
            if caption.is_file() and not caption.is_symlink():     # a link could show any file of this machine
                row["text"] = _caption(caption)
        except RequestError as error:
            yield Unread(str(inside), str(error))
            continue
        if file.with_suffix(MASKS).is_file():
            row["masks"] = str(inside.with_suffix(MASKS))
        yield row
    for file in _shards(path):
        inside = file.relative_to(path)
        try:
            for found in _rows_of_tar(_opened(file, file.stat().st_mtime_ns)):
                if isinstance(found, Unread):
                    yield Unread(f"{inside}/{found.name}", found.why)
                else:
                    yield {**found, (key := media_of(found)): f"{inside}/{found[key]}"}
        except RequestError as error:
            yield Unread(str(inside), str(error))


def key_of(ending: str) -> str:
    """What a row calls a file with this ending."""
    return "audio" if ending.lower() in SOUNDS else "image"


def media_of(row: Mapping[str, Any]) -> str:
    """The key of a row's file."""
    return "audio" if "audio" in row else "image"


def file_of(name: str) -> str:
    """The file that holds what a row names: itself, or the shard that it is a member of."""
    shard, mark, _ = name.partition(SHARD)
    return f"{shard}.tar" if mark else name


def bytes_of(row: Mapping[str, Any], root: Path, key: str = "image") -> bytes:
    """The picture that a row names under `key`, below `root`; ValueError says why there is none."""
    name, endings = row[key], SOUNDS if key in ("audio", "sound") else EXTENSIONS
    if not isinstance(name, str) or not name.lower().endswith(endings):
        raise ValueError(f"{key} is a file name that ends in {', '.join(endings)}")
    if not root.is_dir():
        return _member(root, name)
    file = root / file_of(name)
    if not file.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{key} {json.dumps(name)} lies outside {root}")
    if SHARD in name and file.is_file():
        return _member(file, name.partition(SHARD)[2])
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"{file} is larger than {LARGEST >> 20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None


def _member(path: Path, name: str) -> bytes:
    tar = _opened(path, path.stat().st_mtime_ns)
    if name not in tar:
        raise ValueError(f"{path} has no {json.dumps(name)} of at most {LARGEST >> 20} MiB")
    return tar[name]


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
            return _words(f.read(LONGEST + 1), str(path))
    except OSError as error:
        raise RequestError(f"{path} is no caption that can be read: {error}") from None


def _words(raw: bytes, place: str) -> str:
    if len(raw) > LONGEST:
        raise RequestError(f"{place} is no caption: it is larger than {LONGEST >> 10} KiB")
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise RequestError(f"{place} is no caption that can be read: {error}") from None


@functools.lru_cache(maxsize=256)       # rows are in the order of their hashes, from any of the shards
def _opened(path: Path, changed: int) -> Tar:
    """The index of a tar; one that has changed since is read anew."""
    return Tar(path)


def _rows_of_tar(tar: Tar) -> Iterator[dict[str, Any] | Unread]:
    """A row a picture, film or sound, in the order of the members."""
    keys = {name: _key(name) for name in tar}
    beside: dict[str, dict[str, str]] = {}
    for name, (key, kind) in keys.items():
        beside.setdefault(key, {})[kind] = name
    for name, (key, kind) in keys.items():
        if kind not in EXTENSIONS and kind not in SOUNDS:
            continue
        row: dict[str, Any] = {key_of(kind): name}
        try:
            if about := beside[key].get(".json"):
                row |= _said(_words(tar[about], f"{tar.path}: {about}"), f"{tar.path}: {about}")
            for field, ending in (("text", ".txt"), ("label", ".cls")):
                if other := beside[key].get(ending):
                    row[field] = _words(tar[other], f"{tar.path}: {other}")
        except RequestError as error:
            yield Unread(name, str(error))
            continue
        yield row


def _said(text: str, place: str) -> dict[str, Any]:
    """Caption and class of a JSON object beside a picture."""
    try:
        tree = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RequestError(f"{place}: {error}") from None
    if not isinstance(tree, dict):
        return {}
    found = {"text": tree.get("text", tree.get("caption")), "label": tree.get("label")}
    return {key: value for key, value in found.items() if value is not None}


def _key(name: str) -> tuple[str, str]:
    """WebDataset's key and kind of a member: everything before and from the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    return folder + slash + stem, (dot + ending).lower()


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.suffix.lower() in (*EXTENSIONS, *SOUNDS) and file.is_file()
            and not file.is_symlink())


def _shards(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*.tar") if file.is_file() and not file.is_symlink())


def _has_media(path: Path) -> bool:
    try:
        return next(_rows_of_tar(_opened(path, path.stat().st_mtime_ns)), None) is not None
    except RequestError:
        return False


def _nothing_else(names: list[str]) -> bool:
    """Whether the members of a tar are media, what is said of them, and a licence."""
    told = {name: _key(name) for name in names}
    media = {key for key, kind in told.values() if kind in (*EXTENSIONS, *SOUNDS)}
    return all(key in media or name.rpartition("/")[2] in (*NAMES, NOTICE) for name, (key, _) in told.items())
