"""Passages that are found by their words, by their meaning, or by both: an embedded store in one folder.

    store = Store.of(documents([Path("notes")]), Encoder.of(model.module, model.codec))
    for hit in store.search("when is rent due?", 5): print(hit.chunk.name, hit.covered)
    store.save(Path("notes.store")); Store.load(Path("notes.store"), encoder)

- words: BM25 (Robertson & Zaragoza 2009, https://doi.org/10.1561/1500000019) by `bm25s`;
- meaning: inner products of unit vectors from an encoder of ours (`generate.encode`), searched exactly by faiss;
- hybrid: both rankings fused by reciprocal rank, the sum of 1 / (60 + rank) (Cormack et al. 2009,
  https://doi.org/10.1145/1571941.1572114). Without an encoder there are words only.

How much of a question a passage speaks of is `covered`: the share of the question's words that it holds, each weighted
by how rare it is (a word that no passage holds counts as the rarest). It does not depend on how many passages there
are, so one threshold serves to refuse (`retrieve.answer`). The folder holds text, JSON and safetensors; the indices are
built again when it is opened. Needs the extra: pip install 'meristem[rag]'.
"""
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import load_file, save_file
from torch import nn

from meristem.codecs.base import Codec
from meristem.core.errors import MachineError, RequestError
from meristem.core.files import claim, committed, digest_bytes, read_json, verify, write_json
from meristem.core.types import Document
from meristem.generate.encode import Pooling, embed
from meristem.generate.retrieve.chunks import OVERLAP, SIZE, Chunk, cut

Way = Literal["words", "meaning", "hybrid"]
CHUNKS, VECTORS = "chunks.json", "vectors.safetensors"
POOL = 100                              # of each ranking's best are fused
DAMPING = 60                            # Cormack et al.: the constant that they fix for all of their experiments
WORD = re.compile(r"[^\W_]+")
ASKING = frozenset((                    # words of questions
    "what", "which", "who", "whom", "whose", "when", "where", "why", "how", "much", "many", "do", "does", "did", "has",
    "have", "had", "was", "were", "can", "could", "would", "should", "you", "your", "me", "my", "i", "we", "our", "he",
    "she", "his", "her", "from", "please", "tell"))
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class Encoder:
    """Texts to unit vectors; `hash` names what made them, so that a store is not asked with another."""

    module: nn.Module
    codec: Codec
    pooling: Pooling
    hash: str

    @classmethod
    def of(cls, module: nn.Module, codec: Codec, pooling: Pooling | None = None, weights: str = "") -> "Encoder":
        """An encoder, or a decoder whose mean feature serves; `weights` names its numbers (`hub.hf.identity`)."""
        pooling = pooling or Pooling()
        return cls(module, codec, pooling, digest_bytes(codec.hash, weights, pooling.mode, str(pooling.longest)))

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        """One vector of length 1 a text; what is too long is cut off."""
        found = embed(self.module, self.codec, texts, self.pooling, cut=True).numpy()
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Hit:
    """A passage that was found. `covered`: the weighted share of the question's words that it holds, 0 to 1;
    `similarity`: cosine of the two vectors, 0 without an encoder; `score`: what hits are ordered by."""

    chunk: Chunk
    score: float
    covered: float
    similarity: float


class Store:
    """Passages with their indices. `vectors` [N, D] are of length 1, None where there is no encoder."""

    def __init__(self, chunks: Sequence[Chunk], encoder: Encoder | None = None, vectors: np.ndarray | None = None):
        if not chunks:
            raise RequestError("there is no text to search: the documents are empty")
        bm25s, faiss = _libraries()
        self.chunks, self.encoder = list(chunks), encoder
        texts = [words(chunk.text) for chunk in self.chunks]
        self.held = [frozenset(text) for text in texts]
        self.counts = Counter(word for held in self.held for word in held)
        self.lexical: Any = bm25s.BM25()
        if self.counts:                                        # else nothing is ever found by words
            self.lexical.index(texts, show_progress=False)
        self.vectors = None
        if encoder is not None:
            self.vectors = np.ascontiguousarray(encoder([c.text for c in chunks]) if vectors is None else vectors)
            self.index: Any = faiss.IndexFlatIP(self.vectors.shape[1])
            self.index.add(self.vectors)

    @classmethod
    def of(cls, documents: Iterable[Any], encoder: Encoder | None = None, size: int = SIZE,
           overlap: int = OVERLAP) -> "Store":
        """The passages of all documents; what `corpus.read` refused is passed over."""
        chunks = [c for d in documents if isinstance(d, Document) and "text" in d.fields for c in cut(d, size, overlap)]
        return cls(chunks, encoder)

    def search(self, question: str, count: int = 5, way: Way | None = None) -> list[Hit]:
        """The best passages, the best first, equals in their order; by words and meaning where there is an encoder.

        RequestError for meaning without one. By words alone, passages that share no word with the question are no hits.
        """
        way = way or ("hybrid" if self.encoder else "words")
        if way != "words" and self.encoder is None:
            raise RequestError("this store has no encoder, so it finds words only; open it with one, or way='words'")
        asked = words(question)
        rankings, scores = [], np.zeros(len(self.chunks))
        if way != "meaning":
            known = [word for word in asked if word in self.counts]
            found = self.lexical.get_scores(known) if known else scores
            rankings.append([int(n) for n in np.argsort(-found, kind="stable")[:POOL] if found[n] > 0])
            scores = found
        similar: dict[int, float] = {}
        vector = None
        if way != "words":
            assert self.encoder
            vector = self.encoder([question])
            values, places = self.index.search(vector, min(POOL, len(self.chunks)))
            similar = {int(n): float(v) for n, v in zip(places[0], values[0], strict=True)}
            rankings.append(sorted(similar, key=lambda n: (-similar[n], n)))
        if way == "hybrid":
            total = Counter[int]()
            for ranking in rankings:
                total.update({n: 1 / (DAMPING + rank) for rank, n in enumerate(ranking, 1)})
            best = sorted(total, key=lambda n: (-total[n], n))[:count]
            worth: Any = total
        else:
            best, worth = rankings[0][:count], scores if way == "words" else similar
        cosine = np.zeros(len(best)) if vector is None or self.vectors is None else self.vectors[best] @ vector[0]
        return [Hit(self.chunks[n], float(worth[n]), self.covered(asked, n), float(c))
                for n, c in zip(best, cosine, strict=True)]

    def covered(self, asked: Sequence[str], number: int) -> float:
        """The share of these words that a passage holds, each weighted by log(1 + N / how many hold it)."""
        weights = {word: math.log1p(len(self.chunks) / max(self.counts[word], 0.5)) for word in set(asked)}
        whole = sum(weights.values())
        return sum(w for word, w in weights.items() if word in self.held[number]) / whole if whole else 0.0

    def save(self, folder: Path) -> None:
        """Write the folder, whole or not at all; one that holds something else is refused."""
        claim(folder, "store", lambda there: (there / CHUNKS).is_file())
        with committed(folder) as tmp:
            write_json(tmp / CHUNKS, {"encoder": self.encoder.hash if self.encoder else "",
                                      "chunks": [asdict(chunk) for chunk in self.chunks]})
            if self.vectors is not None:
                save_file({"vectors": self.vectors}, tmp / VECTORS)

    @classmethod
    def load(cls, folder: Path, encoder: Encoder | None = None) -> "Store":
        """A store that was saved; RequestError for no store or another encoder, MachineError for a damaged one."""
        if not (folder / CHUNKS).is_file():
            raise RequestError(f"{folder} is no store of passages: it has no {CHUNKS}")
        if trouble := verify(folder):
            raise MachineError(f"the store in {folder} cannot be trusted: {trouble}; make it again")
        tree = read_json(folder / CHUNKS)
        if tree["encoder"] and encoder is not None and tree["encoder"] != encoder.hash:
            raise RequestError(f"{folder} was made with the encoder {tree['encoder']}, this one is {encoder.hash}; "
                               "open it with its own, or make it again")
        vectors = load_file(folder / VECTORS)["vectors"] if tree["encoder"] and encoder is not None else None
        return cls([Chunk(**chunk) for chunk in tree["chunks"]], encoder, vectors)


def words(text: str) -> list[str]:
    """Lower-case words without English stop words; names such as `read_lines` and `readLines` give their parts."""
    _libraries()
    from bm25s.stopwords import STOPWORDS_EN  # type: ignore[import-untyped]
    stop = ASKING | set(STOPWORDS_EN)
    return [word for word in (w.lower() for w in WORD.findall(HUMP.sub(" ", text))) if word not in stop]


def _libraries() -> tuple[Any, Any]:
    try:
        import bm25s  # type: ignore[import-untyped]
        import faiss
    except ImportError as error:
        raise RequestError(f"searching documents needs the package {error.name}: pip install 'meristem[rag]'") from None
    return bm25s, faiss
