"""Secrets out of texts: keys, tokens and passwords become `<KEY>`, `<PASSWORD>`, ...; the document stays.

As StarCoder removed them (Li et al. 2023, section 4.3). Keys with a form are told by it (the prefixes that their
issuers document: AWS, GitHub, GitLab, Slack, Stripe, Google, Hugging Face, npm, PyPI, SendGrid, JSON web tokens, PEM
blocks); passwords by the name they are assigned to, unless they are words or stand for something (`your_token`,
`${TOKEN}`, `xxxx`). The ledger has kind, place and 16 bits of the hash of each, never the secret (corpus.spans).
"""
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meristem.corpus import spans
from meristem.corpus.stages.base import Batch

BITS = 3.0                              # entropy a character of a secret that only its name tells: words have 2 to 3
STANDS_FOR = re.compile(r"example|your|change|placeholder|dummy|sample|redacted|secret|passw|xxx|\*\*\*|<|\$\{|\{\{"
                        r"|%\(|\.\.\.|test|1234567", re.IGNORECASE)


def is_drawn(match: str, before: str) -> bool:
    """Whether a value looks drawn at random: no word, no placeholder, at least BITS of entropy a character."""
    counts = Counter(match).values()
    entropy = -sum(n / len(match) * math.log2(n / len(match)) for n in counts)
    mixed = sum(any(test(c) for c in match) for test in (str.isdigit, str.islower, str.isupper))
    return entropy >= BITS and mixed >= 2 and any(map(str.isdigit, match)) and not STANDS_FOR.search(match)


PATTERNS = (
    spans.Pattern("private_key", re.compile(
        r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----[\s\S]{40,20000}?"
        r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"), marks="-"),
    spans.Pattern("token", re.compile(r"(?<![\w-])eyJ[\w-]{10,2000}\.eyJ[\w-]{10,8000}\.[\w-]{10,2000}(?![\w-])")),
    spans.Pattern("key", re.compile(
        r"(?<![\w-])(?:(?:AKIA|ASIA)[A-Z2-7]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{60,255}"
        r"|glpat-[\w-]{20,64}|xox[abeoprs]-[A-Za-z0-9-]{10,250}|[rs]k_live_[A-Za-z0-9]{16,128}|AIza[\w-]{35}"
        r"|hf_[A-Za-z]{34}|npm_[A-Za-z0-9]{36}|pypi-AgEIcHlwaS5vcmc[\w-]{50,1000}|SG\.[\w-]{22}\.[\w-]{43}"
        r"|sk-(?:proj-|ant-)?[\w-]{32,200})(?![\w-])"), lambda match, before: not STANDS_FOR.search(match)),
    spans.Pattern("password", re.compile(r"(?<=://)[\w.%+-]{1,64}:(?P<it>[^\s:/@'\"<>{}$]{3,128})(?=@[\w.-]{3,255})"),
                  lambda match, before: not STANDS_FOR.search(match), marks="@"),
    spans.Pattern("password", re.compile(
        r"(?i:(?<![A-Za-z])(?:[\w-]{0,40}[_-])?(?:password|passwd|pwd|secret|token|api_?key|access_?key|auth_?key|"
        r"private_?key|secret_?key|client_?secret|account_?key)[\w-]{0,20})[\"']?\s{0,4}(?:=>|:=|[:=])\s{0,4}"
        r"(?P<quote>[\"']?)(?P<it>[\w+/=.!@#%^&*~-]{8,200})(?P=quote)(?![\w(\[.])"), is_drawn),
)
KINDS = tuple(dict.fromkeys(pattern.kind for pattern in PATTERNS))


@dataclass(frozen=True)
class Stage:
    """Replaces the secrets of every document."""

    def __call__(self, batch: Batch) -> Batch:
        """The batch with spans replaced; facts say kind, place and a piece of the hash of each."""
        return without(batch, lambda kind: PATTERNS)


def without(batch: Batch, patterns: Callable[[str], Sequence[spans.Pattern]]) -> Batch:
    """The batch with the spans of `patterns(kind)` replaced in every document that stays."""
    texts, facts = list(batch["text"]), list(batch["facts"])
    for n, (text, kind) in enumerate(zip(batch["text"], batch["kind"], strict=True)):
        if not batch["rule"][n]:
            texts[n], more = spans.replaced(text, spans.found(text, patterns(kind)))
            facts[n] = {**facts[n], **spans.added(facts[n], more)}
    return {**batch, "text": texts, "facts": facts}
