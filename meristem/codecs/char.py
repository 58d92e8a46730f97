"""One id a character, for small alphabets (tinyshakespeare has 65), encoded by one numpy look-up.

`fit` the alphabet on every split, so that no character is missing later: a character that was not seen is an error,
never a silent substitute. The saved tokenizer.json is a `WordLevel` model over single characters.
"""
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from meristem.codecs import base
from meristem.core import files
from meristem.core.errors import RequestError

SPLITS = ("train", "validation", "test")    # an alphabet must cover what it will be judged on

MISSING = -1


class Char:
    """A `Codec` with id 0 for the end of a document and 1 .. n for the characters of `alphabet`, sorted."""

    name = "char"
    end = 0

    def __init__(self, alphabet: str) -> None:
        self.points = np.array([0, *map(ord, alphabet)], dtype=np.uint32)       # id -> code point; [0] is not used
        self.vocab = len(self.points)
        self.hash = files.digest_bytes("char", alphabet)
        self.marks = {"end": self.end}
        self.ids = np.full(int(self.points.max()) + 1, MISSING, dtype=np.int32)
        self.ids[self.points[1:]] = np.arange(1, self.vocab)

    def encode(self, text: str) -> Int32[np.ndarray, "n"]:
        """The ids; RequestError names the first character that is not in the alphabet."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        ids = np.where(points < len(self.ids), self.ids[np.minimum(points, len(self.ids) - 1)], MISSING)
        if len(unknown := np.flatnonzero(ids == MISSING)):
            raise RequestError(f"character {text[unknown[0]]!r} is not among the {self.vocab - 1} "
                               "that this vocabulary was fitted to")
        return ids.astype(np.int32)

    def encode_batch(self, texts: list[str]) -> list[Int32[np.ndarray, "n"]]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text stands in it: a token a character."""
        return [(i, i + 1) for i in range(len(text))]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text; the end token gives none, nor do ids beyond the vocabulary (embeddings are padded)."""
        kept = np.asarray(ids, dtype=np.int64)
        return self.points[kept[(kept != self.end) & (kept < self.vocab)]].tobytes().decode("utf-32-le")

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into `folder`."""
        ids = {base.END: 0} | {chr(point): n for n, point in enumerate(self.points[1:].tolist(), start=1)}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token=base.END))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        tokenizer.add_special_tokens([AddedToken(base.END, special=True, normalized=False)])
        base.write(folder, tokenizer.to_str(pretty=False))


def fit(texts: Iterable[str], vocab: int = 0) -> Char:
    """The alphabet of `texts`; RequestError when it is empty, or larger than a `vocab` that is not 0."""
    alphabet: set[str] = set()
    for text in texts:
        alphabet.update(text)
    if not alphabet:
        raise RequestError("there is no text to fit a vocabulary to")
    if 0 < vocab < len(alphabet) + 1:
        raise RequestError(f"the text has {len(alphabet)} different characters: vocab must be at least "
                           f"{len(alphabet) + 1}, or 0")
    return Char("".join(sorted(alphabet)))


def load(folder: Path) -> Char:
    """The codec that `Char.save` wrote."""
    ids = base.read_tokenizer(folder)["model"].get("vocab")
    if not isinstance(ids, dict) or ids.get(base.END) != 0 or any(len(c) != 1 for c in ids if c != base.END):
        raise RequestError(f"{Path(folder) / base.TOKENIZER} is not a vocabulary of single characters")
    return Char("".join(sorted((c for c in ids if c != base.END), key=ids.__getitem__)))
