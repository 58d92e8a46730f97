"""Answer from passages: a prompt that quotes them, citations that are checked, a refusal when nothing is found.

    found = ask("when is rent due?", store, writer_of(model.module, model.codec, model.template))
    print(found.text)                                          # Rent is due on the first. [1]
    for number, chunk in found.cited.items(): print(number, chunk.name)

Retrieval-augmented generation (Lewis et al. 2020, https://arxiv.org/abs/2005.11401), the passages in the prompt. Where
no passage covers `least` of the question the model is not asked at all. `[2]` in an answer cites the second hit if that
holds at least half of the sentence's words; a sentence without such a mark gets that of the passage that
holds most of it, if that is half. `grounded` is the share of sentences with a citation. What passages say is quoted
text: special tokens in it are ordinary characters (`codecs.chat`), and nothing in it is ever run.
"""
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from meristem.codecs.base import Codec, begin
from meristem.codecs.chat import Chat
from meristem.core.errors import RequestError
from meristem.generate.retrieve.chunks import Chunk
from meristem.generate.retrieve.store import Hit, Store, Way, words
from meristem.generate.sampling import Sampling
from meristem.generate.text import complete

REFUSAL = "The documents do not say."
ASKED = "Answer from the numbered passages alone and cite them like [1]. If they do not say it, answer: " + REFUSAL
LEAST = 0.4                             # of a question's words, weighted, that the best passage must hold: on XQuAD
#                                         94 % of questions about missing articles are refused, 15 % of the others
HALF = 0.5                              # of a sentence's words that a passage which it cites must hold
MARK = re.compile(r"\s*\[(\d{1,3})\]")
SENTENCE = re.compile(r".+?(?:[.!?][\"')]*(?:\s*\[\d{1,3}\])*(?=\s|$)|$)\s*", re.MULTILINE)

Writer = Callable[[str, Sequence[Hit]], str]                   # a question and passages to an answer


@dataclass(frozen=True)
class Answered:
    """An answer; `cited` are the passages by the number that the text calls them, `hits` all that were shown."""

    text: str
    refused: bool
    hits: list[Hit]
    cited: dict[int, Chunk] = field(default_factory=dict)
    grounded: float = 0.0               # the share of sentences that a passage supports


def ask(question: str, store: Store, write: Writer, count: int = 4, least: float = LEAST,
        way: Way | None = None) -> Answered:
    """Search, write, check the citations. RequestError for an empty question."""
    if not question.strip():
        raise RequestError("the question is empty")
    hits = store.search(question, count, way)
    if max((hit.covered for hit in hits), default=0.0) < least:
        return Answered(REFUSAL, True, hits)
    text = write(question, hits).strip()
    if not text or text.startswith(REFUSAL):
        return Answered(REFUSAL, True, hits)
    return cite(text, hits)


def cite(text: str, hits: Sequence[Hit]) -> Answered:
    """The answer with citations that hold: marks that do not are taken out, missing ones are put in."""
    held = [frozenset(words(hit.chunk.text)) for hit in hits]
    out, cited, grounded, sentences = "", dict[int, Chunk](), 0, 0
    for piece in SENTENCE.findall(text):
        own = set(words(MARK.sub("", piece)))
        if not own:
            out += MARK.sub("", piece)
            continue
        sentences += 1
        share = [len(own & h) / len(own) for h in held]
        named = [int(n) for n in MARK.findall(piece) if 0 < int(n) <= len(hits) and share[int(n) - 1] >= HALF]
        best = int(np.argmax(share)) + 1
        marks = list(dict.fromkeys(named)) or ([best] if share[best - 1] >= HALF else [])
        bare = MARK.sub("", piece)
        plain = bare.rstrip()
        out += plain + "".join(f" [{n}]" for n in marks) + bare[len(plain):]
        cited |= {n: hits[n - 1].chunk for n in marks}
        grounded += bool(marks)
    return Answered(out.strip(), False, list(hits), dict(sorted(cited.items())), grounded / max(1, sentences))


def quoted(hits: Sequence[Hit]) -> str:
    """The passages with their numbers and where they stand."""
    return "\n\n".join(f"[{n}] {hit.chunk.name}\n{hit.chunk.text.strip()}" for n, hit in enumerate(hits, 1))


def writer_of(module: nn.Module, codec: Codec, chat: Chat | None = None, sampling: Sampling | None = None) -> Writer:
    """What lets a model answer: by its chat template, or as a text that goes on after `Answer:`, one line.

    As many passages as fit the context are shown, the best first.
    """
    sampling = sampling or Sampling(length=96)
    config: Any = module.config
    room = config.context - sampling.length

    def prompt(question: str, hits: Sequence[Hit]) -> np.ndarray:
        if chat is not None:
            said = f"{quoted(hits)}\n\n{question}"
            return chat.encode([{"role": "system", "content": ASKED}, {"role": "user", "content": said}],
                               generation_prompt=True)[0]
        text = f"{ASKED}\n\n{quoted(hits)}\n\nQuestion: {question}\nAnswer:"
        return np.concatenate([[begin(codec)], codec.encode(text)]).astype(np.int32)

    def write(question: str, hits: Sequence[Hit]) -> str:
        shown = list(hits)
        while len(ids := prompt(question, shown)) > room and shown:
            shown.pop()
        if not shown:
            raise RequestError(f"not one passage fits the model's context beside {sampling.length} new tokens; make "
                               "the store with shorter passages, or ask for a shorter answer")
        line = sampling if chat is not None or sampling.stop else replace(sampling, stop=("\n",))
        return complete(module, codec, [ids], line, also=chat.ends if chat else ())[0].text
    return write
