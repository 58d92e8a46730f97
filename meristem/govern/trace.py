"""From a text back to the training documents: which runs of it stand there verbatim, where, and when they were seen.

    found = trace("a generated text", Path("runs/x"))
    for span in found.spans: print(span.text, [(p.path, p.licence, p.steps) for p in span.places])

As OLMoTrace (Liu et al. 2025, https://arxiv.org/abs/2504.07096) shows the longest spans of a model's answer that its
training data holds: a span is kept when no longer one covers it. Here the steps are known as well, because data order
is a function of (corpus, seed, step): a document's tokens fill known windows, and `core.random.inverse` says when each
epoch showed them. A verbatim span is where words stand, not why the model wrote them: common phrases stand everywhere.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meristem.codecs import load as load_codec
from meristem.codecs.base import Codec
from meristem.codecs.bpe import Bpe
from meristem.core.errors import RequestError
from meristem.core.progress import SILENT, Progress
from meristem.core.random import inverse, seed_of
from meristem.corpus.store import Corpus
from meristem.corpus.suffixes import LONGEST, Suffixes
from meristem.data.loader import windows
from meristem.data.shards import Shards, Split
from meristem.govern.facts import RunFacts, corpus_of, gather_run
from meristem.train.guard import Detours

SHORTEST = 24                           # characters: below that, chance and grammar make matches
SPANS, PLACES = 10, 3                   # shown at most


@dataclass(frozen=True)
class Place:
    """One place where a span stands: the document, its source and licence, the character in it, the steps at which
    the run was shown it (None: this run's order of batches is not one of windows)."""

    document: str
    path: str
    licence: str
    character: int
    steps: list[int] | None


@dataclass(frozen=True)
class Span:
    """A verbatim run of the text: where it begins there, how often it stands in training, and the first places."""

    start: int
    text: str
    count: int
    places: list[Place]


@dataclass(frozen=True)
class Traced:
    """The spans, longest first; `covered`: the share of the text's characters inside one of them."""

    run: str
    corpus: str
    spans: list[Span]
    covered: float


class Tracer:
    """An opened run and the index of its corpus: opens once, then answers in milliseconds."""

    def __init__(self, folder: Path, progress: Progress = SILENT):
        self.run = gather_run(folder)
        where = corpus_of(self.run)
        if where is None:
            raise RequestError(f"the corpus of {folder} is not at {self.run.recipe.data.corpus or 'any path'}; bring "
                               "it back, or put it beside the run folder")
        corpus = Corpus.open(where)
        if corpus.hash != self.run.manifest.get("corpus", corpus.hash):
            raise RequestError(f"the corpus in {where} is not the one that {folder} was trained on")
        self.index = Suffixes.build(corpus, progress=progress)
        self.seen = Seen.of(self.run, corpus)

    def __call__(self, text: str, shortest: int = SHORTEST) -> Traced:
        """The longest verbatim spans of a text, of `shortest` characters or more."""
        found = [match for match in self._maximal(text) if match[1] - match[0] >= shortest]
        inside = np.zeros(len(text), dtype=bool)
        for start, stop, *_ in found:
            inside[start:stop] = True
        found.sort(key=lambda match: (match[0] - match[1], match[0]))
        return Traced(self.run.name, self.index.corpus.hash, [self._span(text, *match) for match in found[:SPANS]],
                      float(inside.mean()) if text else 0.0)

    def _maximal(self, text: str) -> list[tuple[int, int, int, int]]:
        """(start, stop) in characters of each match that no other one covers, with its range of suffixes."""
        raw = text.encode("utf-8", "surrogatepass")
        opens = np.flatnonzero((np.frombuffer(raw, dtype=np.uint8) & 0xC0) != 0x80)           # of characters, in bytes
        ends = np.append(opens[1:], len(raw))
        found: list[tuple[int, int, int, int]] = []
        last = 0
        for character, at in enumerate(opens.tolist()):
            if last > character and (last == len(opens) or not self.index.holds(raw[at: ends[last]][:LONGEST])):
                continue                                       # what stands from here ends no later than the last match
            size, low, high = self.index.longest(raw[at:])
            stop = int(np.searchsorted(ends, at + size, "right"))                             # whole characters only
            if stop > max(last, character):
                if ends[stop - 1] < at + size:                 # it ended inside a character: its places are more
                    _, low, high = self.index.longest(raw[at: ends[stop - 1]])
                found.append((character, stop, low, high))
                last = stop
        return found

    def _span(self, text: str, start: int, stop: int, low: int, high: int) -> Span:
        places = []
        for i in range(low, min(high, low + PLACES)):
            number, byte = self.index.document(self.index.order[i])
            row = self.index.row(number)
            begin = self.index.order[i] - byte
            character = len(self.index.text[begin: begin + byte].decode("utf-8", "surrogatepass"))
            steps = self.seen.steps(row["id"], row["text"], character, character + stop - start) if self.seen else None
            places.append(Place(row["id"], row["path"], row["licence"], character, steps))
        return Span(start, text[start:stop], high - low, places)


@dataclass
class Seen:
    """When a run was shown each window of its packed documents."""

    codec: Codec
    split: Split
    context: int
    batch: int
    seed: int
    done: int                           # steps that were taken
    detours: Detours
    numbers: dict[str, int]             # of the documents in the split, by id
    sizes: np.ndarray | None            # bytes of each id's text, where a document is the sum of its tokens

    @classmethod
    def of(cls, run: RunFacts, corpus: Corpus) -> "Seen | None":
        """None for a run of examples, pairs or pictures: its rows are no windows of documents."""
        folder = corpus.folder / "tokens" / run.manifest.get("codec", "")
        if run.recipe.data.examples or not run.manifest.get("codec") or not folder.is_dir():
            return None
        t, split = run.recipe.train, Shards.open(folder).split("train")
        done = run.result.get("step") or (run.log[-1]["step"] if run.log else 0)
        codec = load_codec(folder)
        return cls(codec, split, t.context, t.batch, seed_of(run.recipe.seed, "order", "train"), done,
                   Detours(run.folder / "skips.jsonl"), {name: i for i, name in enumerate(split.ids)}, sizes_of(codec))

    def steps(self, document: str, text: str, start: int, stop: int) -> list[int] | None:
        """The steps (from 1, as in the log) whose batches held characters start to stop of a document; None for a
        document without tokens."""
        if document not in self.numbers:
            return None
        first, last = self._tokens(document, text, start, stop)
        base = int(self.split.starts[self.numbers[document]])
        count = windows(self.split, self.context)
        low, high = max(0, base + first - 1) // self.context, max(0, base + last - 1) // self.context
        asked = np.arange(low, min(high, count - 1) + 1)
        found: set[int] = set()
        shown = {self.detours.place(step): step + 1 for step in range(self.done)} if self.detours.all else None
        for epoch in range(-(-self.done * self.batch // count)):
            rows = inverse(asked, count, seed_of(self.seed, "order", epoch)) + epoch * count
            for batch in (rows // self.batch).tolist():
                step = shown.get(batch, 0) if shown is not None else batch + 1
                if 0 < step <= self.done:
                    found.add(step)
        return sorted(found)


    def _tokens(self, document: str, text: str, start: int, stop: int) -> tuple[int, int]:
        """The first and the last token of characters start to stop."""
        if self.sizes is None:                                 # the whole document is encoded again
            ends = np.array([end for _, end in self.codec.places(text)])
        else:
            ends = self.sizes[self.split.document(self.numbers[document])].cumsum()
            start, stop = (len(text[:at].encode("utf-8", "surrogatepass")) for at in (start, stop))
        return int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop, "left"))


def sizes_of(codec: Codec) -> np.ndarray | None:
    """Bytes of the text of each id, for codecs that lose nothing: byte-level BPE writes a byte as one character."""
    if isinstance(codec, Bpe):
        names = [codec.tokenizer.id_to_token(i) or "" for i in range(codec.vocab)]
        return np.array([0 if i == codec.end else len(name) for i, name in enumerate(names)])
    return None


def trace(text: str, run: Path, shortest: int = SHORTEST, progress: Progress = SILENT) -> Traced:
    """Which runs of `text` stand verbatim in the documents that `run` was trained on; see `Tracer`.

    RequestError when the run's corpus is not at hand.
    """
    return Tracer(run, progress)(text, shortest)
