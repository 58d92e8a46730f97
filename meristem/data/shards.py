"""Token shards: a split of a corpus as one memory-mapped array of ids, checksummed, with its document boundaries.

They lie in CORPUS/tokens/<codec hash>/, so two codecs share a corpus and no run tokenises twice:
`index.json` (counts), `<split>.tokens` (little-endian uint16, uint32 above 65,536 ids), `<split>.starts` (int64, first
token of each document), `<split>.ids` (one document id a line: the way back to the ledger), the codec, MANIFEST.json.
Every document is followed by the codec's end token.

    shards = tokenise(corpus, codec); shards.split("train").tokens
"""
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meristem.codecs.base import Codec
from meristem.core import files
from meristem.core.errors import MachineError, RequestError, nearest
from meristem.core.progress import SILENT, Progress
from meristem.corpus.store import SPLITS, Corpus

INDEX = "index.json"
TOGETHER = 1 << 20                      # characters encoded in one call: enough for all cores, little memory


@dataclass(frozen=True)
class Split:
    """One split: N tokens, D documents. `bytes` is the UTF-8 length of the text, for bits per byte."""

    name: str
    tokens: np.ndarray                  # uint16 or uint32 [N], memory-mapped
    starts: np.ndarray                  # int64 [D]
    ids: list[str]                      # [D]
    bytes: int
    end: int                            # the id between documents

    def document(self, index: int) -> np.ndarray:
        """The tokens of one document, its end token included."""
        stop = self.starts[index + 1] if index + 1 < len(self.starts) else len(self.tokens)
        return self.tokens[self.starts[index]: stop]


@dataclass(frozen=True)
class Shards:
    """A verified shard folder; `hash` names corpus and codec, and with them every token."""

    folder: Path
    hash: str
    index: dict

    @classmethod
    def open(cls, folder: Path) -> "Shards":
        """Verify and open; MachineError names a damaged file."""
        if trouble := files.verify(folder):
            raise MachineError(f"the token shards in {folder} cannot be trusted: {trouble}; remove that folder")
        index = files.read_json(folder / INDEX)
        return cls(folder, index["hash"], index)

    def split(self, name: str) -> Split:
        """One split, memory-mapped; RequestError for a split that does not exist."""
        if name not in self.index["splits"]:
            raise RequestError(f"no split {name!r}; {nearest(name, self.index['splits'])}")
        facts, path = self.index["splits"][name], self.folder / name
        tokens = np.memmap(f"{path}.tokens", dtype=self.index["dtype"], mode="r", shape=(facts["tokens"],))
        starts = np.fromfile(f"{path}.starts", dtype="<i8")
        return Split(name, tokens, starts, Path(f"{path}.ids").read_text().split(), facts["bytes"], self.index["end"])


def tokenise(corpus: Corpus, codec: Codec, progress: Progress = SILENT) -> Shards:
    """The shards of a corpus under a codec: those that are there, if they are whole, else made now."""
    folder = corpus.folder / "tokens" / codec.hash
    identity = files.digest_bytes(corpus.hash, codec.hash)
    if (folder / INDEX).is_file():
        with contextlib.suppress(MachineError, RequestError):
            there = Shards.open(folder)
            if there.hash == identity:
                return there
        progress.warn(f"the token shards in {folder} are damaged or of another corpus: making them again")
    dtype = "<u2" if codec.vocab <= 1 << 16 else "<u4"
    progress.stage("tokenise", sum(s["bytes"] for s in corpus.summary["splits"].values()))
    splits: dict[str, dict[str, int]] = {}
    try:
        with files.committed(folder) as temporary:
            for name in SPLITS:
                before = sum(s["bytes"] for s in splits.values())
                splits[name] = _write(corpus, codec, name, temporary / name, dtype, before, progress)
            codec.save(temporary)
            files.write_json(temporary / INDEX, {
                "hash": identity, "corpus": corpus.hash, "codec": codec.hash, "dtype": dtype, "end": codec.end,
                "splits": splits})
    except OSError as error:
        raise MachineError(f"could not write token shards to {folder}: {error.strerror}; free some space") from error
    return Shards.open(folder)


def _write(corpus: Corpus, codec: Codec, split: str, path: Path, dtype: str, before: int,
           progress: Progress) -> dict[str, int]:
    """Write `path`.tokens, .starts and .ids of one split; returns its counts. `before`: bytes already done."""
    starts: list[int] = []
    ids: list[str] = []
    size = position = 0
    with open(f"{path}.tokens", "wb") as f:
        for names, texts in _together(corpus, split):
            for text, tokens in zip(texts, codec.encode_batch(texts), strict=True):
                starts.append(position)
                size += len(text.encode())
                position += len(tokens) + 1
                f.write(np.append(tokens, codec.end).astype(dtype).tobytes())
            ids += names
            progress.update(before + size, tokens=position)
    np.array(starts, dtype="<i8").tofile(f"{path}.starts")
    Path(f"{path}.ids").write_text("\n".join(ids) + "\n")
    return {"tokens": position, "documents": len(ids), "bytes": size}


def _together(corpus: Corpus, split: str) -> Iterator[tuple[list[str], list[str]]]:
    """(ids, texts) of documents that are worth one call of the codec."""
    ids: list[str] = []
    texts: list[str] = []
    size = 0
    for document in corpus.documents(split):
        ids.append(document.id)
        texts.append(document.text)
        size += len(document.text)
        if size >= TOGETHER:
            yield ids, texts
            ids, texts, size = [], [], 0
    if ids:
        yield ids, texts
