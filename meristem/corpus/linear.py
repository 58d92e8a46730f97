"""A trained fastText classifier (models/fasttext.py, recipe `quality`) asked with numpy alone: millions of words a
minute, and no torch in a worker process.

    told = Linear.open("runs/quality").probabilities(["some text"])        # float32 [1, labels], rows sum to 1

Joulin et al. 2016, https://arxiv.org/abs/1607.01759. A text is read up to `context` tokens, as in training.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from meristem.core import files
from meristem.core.errors import MachineError, RequestError

ODD = 1_000_003                         # as in models/fasttext.py; a test compares the two
CHARACTERS = 12                         # of a text that are encoded for each token that is read, at most


@dataclass(frozen=True)
class Linear:
    """A verified classifier; `labels` are its classes."""

    labels: tuple[str, ...]
    context: int
    words: np.ndarray                   # [V, D]
    bigrams: np.ndarray                 # [R, D]
    weight: np.ndarray                  # [L, D]
    bias: np.ndarray
    tokenizer: Tokenizer
    marks: tuple[int, int]              # [CLS] and [SEP], which stand round every text

    @classmethod
    def open(cls, run: str) -> "Linear":
        """From a run folder or its model folder; RequestError: it holds none. MachineError: a file is damaged."""
        folder = Path(run).expanduser()
        folder = folder / "model" if (folder / "model").is_dir() else folder
        stamp = (folder / files.MANIFEST).stat().st_mtime_ns if (folder / files.MANIFEST).is_file() else 0
        return _opened(folder, stamp)

    def probabilities(self, texts: Sequence[str]) -> Float32[np.ndarray, "N L"]:
        """The probability of each label for each text."""
        out = np.empty((len(texts), len(self.labels)), np.float32)
        most = self.context - len(self.marks)
        heads = [text[: CHARACTERS * self.context] for text in texts]
        for n, found in enumerate(self.tokenizer.encode_batch_fast(heads, add_special_tokens=False)):
            ids = np.array([self.marks[0], *found.ids[:most], self.marks[1]], np.int64)
            pairs = (ids[:-1] * ODD + ids[1:]) % len(self.bigrams)
            mean = (self.words[ids].sum(0) + self.bigrams[pairs].sum(0)) / (len(ids) + len(pairs))
            logits = self.weight @ mean + self.bias
            odds = np.exp(logits - logits.max())
            out[n] = odds / odds.sum()
        return out

    def number(self, label: str) -> int:
        """The place of a label; RequestError names those there are."""
        if label not in self.labels:
            raise RequestError(f"the classifier has no label {label!r}; it has {', '.join(self.labels)}")
        return self.labels.index(label)


@lru_cache(maxsize=4)
def _opened(folder: Path, stamp: int) -> Linear:
    if not (folder / "config.json").is_file():
        raise RequestError(f"{folder} holds no classifier; train one: meristem pretrain quality "
                           "data.corpus=ROWS.jsonl --out runs/quality")
    if trouble := files.verify(folder):
        raise MachineError(f"the classifier in {folder} cannot be trusted: {trouble}")
    config = files.read_json(folder / "config.json")
    if config.get("model_type") != "meristem_fasttext":
        raise RequestError(f"{folder} holds a {config.get('model_type')}, and curation asks a fastText classifier; "
                           "train one with: meristem pretrain quality data.corpus=ROWS.jsonl")
    try:
        state = load_file(folder / "model.safetensors")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except (OSError, SafetensorError, ValueError) as error:
        raise MachineError(f"the classifier in {folder} cannot be read: {error}") from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    labels = tuple(name for _, name in sorted((int(i), name) for i, name in config["id2label"].items()))
    words, bigrams, matrix, bias = (state[name].astype(np.float32) for name in (
        "words.weight", "bigrams.weight", "classifier.weight", "classifier.bias"))
    first, last = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    if first is None or last is None:
        raise MachineError(f"the classifier in {folder} cannot be read: its tokenizer has no [CLS] and [SEP]")
    return Linear(labels, config["max_position_embeddings"], words, bigrams, matrix, bias, tokenizer, (first, last))
