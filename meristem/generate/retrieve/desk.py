"""A help desk: what the documents answer is answered with its sources, everything else goes to a person.

    made = reply("How do I change my PIN?", store, writer_of(model.module, model.codec, model.template))
    if made.why: pass_on(question, made.why, made.hits)        # asked, absent or ungrounded
    else: print(made.text)                                     # every sentence is cited

A question is handed over when it asks for a person, when no passage speaks of it (`ask` refuses), or when a sentence of
the answer rests on no passage. `meristem chat RUN --documents FAQ/ --hand-over queue.jsonl` does this line by line;
`python -m benchmarks.desk DATA` counts what is answered, rightly, and what is not.
"""
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from meristem.generate.retrieve.answer import LEAST, Writer, ask
from meristem.generate.retrieve.chunks import Chunk
from meristem.generate.retrieve.store import Hit, Store, Way

HANDED = "I pass this on to a person, who will answer you."
GROUNDED = 1.0                          # share of an answer's sentences that a passage must support
PEOPLE = r"(?:person|human|human being|agent|advis[eo]r|operator|representative|manager|colleague|somebody|someone)"
WANTED = re.compile(rf"\b(?:speak|talk|chat|escalate|(?:connect|transfer|put) (?:me|us))\b[^.?!]{{0,40}}"
                    rf"\b(?:to|with|through)\b[^.?!]{{0,20}}\b{PEOPLE}s?\b|\b(?:a|an|real|live) {PEOPLE},? please\b",
                    re.IGNORECASE)
Why = Literal["", "asked", "absent", "ungrounded"]


@dataclass(frozen=True)
class Reply:
    """What the customer is told; `why` it was handed over, "" when it was not; what was found and cited."""

    text: str
    why: Why = ""
    hits: Sequence[Hit] = ()
    cited: dict[int, Chunk] = field(default_factory=dict)
    grounded: float = 0.0

    @property
    def refused(self) -> bool:
        """Whether it was handed over."""
        return bool(self.why)


def reply(question: str, store: Store, write: Writer, count: int = 4, least: float = LEAST,
          grounded: float = GROUNDED, way: Way | None = None) -> Reply:
    """Answer or hand over; arguments as of `ask`, and the share of sentences that must be grounded.

    RequestError for an empty question.
    """
    if WANTED.search(question):
        return Reply(HANDED, "asked")
    made = ask(question, store, write, count, least, way)
    if made.refused or made.grounded < grounded:
        return Reply(HANDED, "absent" if made.refused else "ungrounded", made.hits, grounded=made.grounded)
    return Reply(made.text, "", made.hits, made.cited, made.grounded)
