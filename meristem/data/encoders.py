"""Batches for encoders: pairs of sentences, stretches of text between [CLS] and [SEP], and labelled rows.

Entries, named by `run.data.examples`:
  sentence_pairs   [CLS] A [SEP] B [SEP], B the text after A or (labels 1, half of the rows) from another document, as
                   BERT was trained (Devlin et al. 2018, appendix A.2)
  full_sentences   [CLS] text [SEP], text running on over document ends, as RoBERTa (Liu et al. 2019, section 4.2)
  documents        [CLS] text [SEP], every document in rows of its own: proteins, as ESM-2 reads them
  labels           [CLS] text [SEP] or [CLS] question [SEP] text [SEP] with what `corpus.labelled` read

tokens [B, T+1] end in padding, so that the model reads T of them; weight is 1 on text and marks, segments 1 on padding.
"""
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from meristem.codecs.base import Codec, Fast
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.core.types import Batch, Document
from meristem.corpus.store import Corpus
from meristem.data.loader import Order, windows
from meristem.data.shards import Split

SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
SHORT = 0.1                             # of the pairs are shorter than they could be, as BERT's were
NEEDED = ("cls", "sep", "pad")


@dataclass(frozen=True)
class Source:
    """Rows of whole examples, batched in a shuffled order: a function of (rows, seed, step)."""

    rows: dict[str, np.ndarray]         # tokens int32 [N, T+1], lengths int32 [N]; types, labels where they exist
    order: Order
    skipped: int = 0                    # examples that did not fit

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one update."""
        return [self.batch(rows) for rows in self.order(step)]

    def batch(self, which: np.ndarray) -> Batch:
        """Rows by number: tokens [B, T+1], weight and segments [B, T], and types [B, T], labels where there are any."""
        tokens = torch.from_numpy(self.rows["tokens"][which].astype(np.int64))
        real = np.arange(tokens.shape[1] - 1) < self.rows["lengths"][which][:, None]
        more: Batch = {key: torch.from_numpy(self.rows[key][which].astype(np.int64)) for key in ("types", "labels")
                       if key in self.rows}
        return {"tokens": tokens, "weight": torch.from_numpy(real.astype(np.float32)),
                "segments": torch.from_numpy((~real).astype(np.int64)), **more}


@dataclass
class _Rows:
    """Examples as they are gathered."""

    codec: Codec
    context: int
    tokens: list[np.ndarray] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    types: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray | int] = field(default_factory=list)

    def add(self, parts: Sequence[np.ndarray], labels: np.ndarray | int | None = None) -> None:
        """[CLS] part [SEP] part [SEP], which must fit; the types of the second part and its mark are 1."""
        marks = self.codec.marks
        row = np.full(self.context + 1, marks["pad"], dtype=np.int32)
        types = np.zeros(self.context, dtype=np.int8)
        row[0], at = marks["cls"], 1
        for number, part in enumerate(parts):
            stop = at + len(part)
            row[at:stop], row[stop], types[at:stop + 1] = part, marks["sep"], number
            at = stop + 1
        self.tokens.append(row)
        self.types.append(types)
        self.lengths.append(at)
        if labels is not None:
            self.labels.append(labels)

    def words(self, words: Sequence[str], labels: Sequence[str], names: dict[str, int]) -> None:
        """One text of words, cut at its end if it does not fit; a class on each word's first token, -1 elsewhere."""
        pieces = self.codec.encode_batch([w if n == 0 else f" {w}" for n, w in enumerate(words)])
        classes = [c for ids, label in zip(pieces, labels, strict=True) for c in
                   ([names.get(label, -1), *[-1] * (len(ids) - 1)] if len(ids) else [])]
        room = self.context - 2
        kept = classes[:room]
        self.add([np.concatenate(pieces)[:room]], np.array([-1, *kept, *[-1] * (self.context - 1 - len(kept))]))

    def source(self, order: tuple[int, int, int], skipped: int = 0) -> Source:
        """All rows as a source; `order` is (batch, seed, micro)."""
        rows = {"tokens": np.stack(self.tokens), "lengths": np.array(self.lengths), "types": np.stack(self.types)}
        if self.labels:
            rows["labels"] = np.stack(self.labels).astype(np.int32)
        batch, seed, micro = order
        return Source(rows, Order(len(self.tokens), batch, seed, micro), skipped)


@dataclass(frozen=True)
class Given:
    """What an entry is made from."""

    corpus: Corpus
    codec: Codec
    split: Split
    context: int
    order: tuple[int, int, int]         # batch, seed, micro


def sentence_pairs(given: Given) -> Source:
    """A row a stretch of a document that fills the context, cut at a random sentence end into A and B.

    For half of the rows B is a stretch of another document instead (labels 1; 0 where B follows A), and what followed A
    begins the next row. A tenth of the rows is shorter. A document of one sentence gives none.
    """
    rng = np.random.default_rng(seed_of(given.order[1], "pairs"))
    texts = [d.text for d in given.corpus.documents(given.split.name)]
    documents = [d for d in (_sentences(given.codec, text) for text in texts) if len(d) > 1]
    if len(documents) < 2:
        raise RequestError(f"the {given.split.name} split has {len(documents)} documents of two sentences or more; "
                           "pairs need two: curate more text, or set data.examples=full_sentences")
    rows, room = _Rows(given.codec, given.context), given.context - 3
    if room < 8:
        raise RequestError(f"a context of {given.context} tokens holds no pair of sentences; raise train.context")
    for number, document in enumerate(documents):
        at = 0
        while at < len(document) - 1:
            target = room if rng.random() >= SHORT else int(rng.integers(8, room + 1))
            stop = at + 1
            while stop < len(document) and sum(map(len, document[at:stop])) < target:
                stop += 1
            if stop - at < 2:
                stop = at + 2                                  # a sentence that fills the row by itself
            cut = int(rng.integers(at + 1, stop))
            a, other = np.concatenate(document[at:cut]), rng.random() < 0.5
            if other:
                away = documents[(number + int(rng.integers(1, len(documents)))) % len(documents)]
                first = int(rng.integers(len(away)))
                b, at = np.concatenate(away[first:]), cut
            else:
                b, at = np.concatenate(document[cut:stop]), stop
            rows.add(_fit(a, b, target), int(other))
    return rows.source(given.order)


def _fit(a: np.ndarray, b: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Both parts, the longer one cut (A at its beginning, B at its end) until they fit together."""
    half = target // 2
    a = a[-max(half, target - len(b)):]
    return a, b[:target - len(a)]


def _sentences(codec: Codec, text: str) -> list[np.ndarray]:
    return [ids for ids in codec.encode_batch([s for s in SENTENCE.split(text) if s and not s.isspace()]) if len(ids)]


def full_sentences(given: Given) -> Source:
    """Windows of context - 2 tokens of the whole split, documents with the end token between them, each marked."""
    room = given.context - 2
    count = windows(given.split, room)
    if not count:
        raise RequestError(f"the {given.split.name} split has {len(given.split.tokens)} tokens: too few for a context "
                           f"of {given.context}; lower train.context or curate more text")
    rows = _Rows(given.codec, given.context)
    for number in range(count):
        rows.add([np.asarray(given.split.tokens[number * room: (number + 1) * room])])
    return rows.source(given.order)


def documents(given: Given) -> Source:
    """A row a document; one longer than the context is cut into several, none runs on into the next."""
    rows, room = _Rows(given.codec, given.context), given.context - 2
    for ids in given.codec.encode_batch([d.text for d in given.corpus.documents(given.split.name)]):
        for start in range(0, len(ids), room):
            rows.add([ids[start:start + room]])
    if not rows.tokens:
        raise RequestError(f"the {given.split.name} split has no text; curate more")
    return rows.source(given.order)


def labels(given: Given) -> Source:
    """Labelled rows; a text longer than the context is cut at its end, one whose answer would be cut is left out."""
    names = {name: number for number, name in enumerate(given.corpus.summary.get("labels", []))}
    rows, skipped, room = _Rows(given.codec, given.context), 0, given.context - 2
    for document in given.corpus.documents(given.split.name):
        if "labels" in document.fields:
            rows.words(document.fields["words"], document.fields["labels"], names)
        elif "answer" in document.fields:
            question, text = given.codec.encode(document.fields["question"]), given.codec.encode(document.text)
            first, last = _answer(given.codec, document)
            before = len(question) + 2
            if before + last >= given.context - 1:
                skipped += 1
                continue
            rows.add([question, text[:given.context - before - 1]], np.array([before + first, before + last]))
        elif "label" in document.fields:
            rows.add([given.codec.encode(document.text)[:room]], names[document.fields["label"]])
        else:
            raise RequestError(f"{given.corpus.folder} has no labels; make a corpus of labelled rows: "
                               "data.corpus=ROWS.jsonl, each line with text and label")
    if not rows.tokens:
        raise RequestError(f"none of {skipped} rows of the {given.split.name} split fits {given.context} tokens; "
                           "raise train.context")
    return rows.source(given.order, skipped)


def rows_of(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], codec: Codec, classes: Sequence[str],
            context: int) -> Batch:
    """(words, a label each) as one batch: tokens [B, T+1], segments and labels [B, T]; -1 for an unknown label."""
    rows = _Rows(codec, context)
    for words, labels in pairs:
        rows.words(words, labels, {name: number for number, name in enumerate(classes)})
    return rows.source((len(pairs), 0, 0)).batch(np.arange(len(pairs)))


def _answer(codec: Codec, document: Document) -> tuple[int, int]:
    """The first and last token of the text that the answer's characters touch."""
    if not isinstance(codec, Fast):
        raise RequestError(f"the {codec.name} codec does not say where its tokens stand; use wordpiece or bpe")
    start, stop = document.fields["answer"]
    touched = [n for n, (a, b) in enumerate(codec.places(document.text)) if a < stop and b > start]
    if not touched:
        raise RequestError(f"{document.meta['path']}: the answer {document.text[start:stop]!r} has no token")
    return touched[0], touched[-1]


ENTRIES: dict[str, Callable[[Given], Source]] = {
    "sentence_pairs": sentence_pairs, "full_sentences": full_sentences, "documents": documents,
    "labels": labels}


def source(name: str, given: Given) -> Source:
    """The source of an entry; RequestError when the codec lacks the marks that encoders read."""
    if missing := [role for role in NEEDED if role not in given.codec.marks]:
        raise RequestError(f"data.examples={name} needs a codec with {', '.join(NEEDED)}; {given.codec.name} lacks "
                           f"{', '.join(missing)}: set data.codec.name=wordpiece")
    return ENTRIES[name](given)


def held_out(found: Source, batch: int, limit: int) -> Iterator[Batch]:
    """The rows of a source in order, each once, at most about `limit` tokens of them."""
    count = len(found.rows["tokens"])
    keep = max(1, min(count, limit // found.rows["tokens"].shape[1]))
    which = np.unique(np.linspace(0, count - 1, keep).round().astype(np.int64))
    for start in range(0, len(which), batch):
        yield found.batch(which[start: start + batch])
