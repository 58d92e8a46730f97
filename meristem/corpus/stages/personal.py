"""Personal data out of texts: each span becomes `<EMAIL>`, `<PHONE>`, ...; the document stays.

The kinds that have a form: e-mail and public IP addresses (as FineWeb removes, Penedo et al. 2024, section 3.1), bank
cards (Luhn's check digit, ISO/IEC 7812), IBANs (ISO 13616, remainder 97), US social security numbers, and, in prose,
telephone numbers. Names and streets have none: they need a model, and stay. `--stages personal:kinds=email,ip`.
Precision and recall on synthetic sentences: `python -m benchmarks.personal`.
"""
import ipaddress
import re
from dataclasses import dataclass

from meristem.core.errors import RequestError, nearest
from meristem.corpus import spans
from meristem.corpus.stages import secrets
from meristem.corpus.stages.base import Batch

CALLED = re.compile(r"\b(?:phone|tel|telephone|call(?:ed|ing)?|mobile|cell|fax|dial|desk|answering|whatsapp|sms|"
                    r"messages? to|registered|reach (?:me|us|him|her|them))\b", re.IGNORECASE)
NOT_PHONE = re.compile(r"\d{3}-\d\d-\d{4}$|(?:19|20)\d\d[-./ ]\d{1,2}[-./ ]\d{1,2}"
                       r"|\d{1,2}[-./ ]\d{1,2}[-./ ](?:19|20)\d\d")


def is_address(match: str, before: str) -> bool:
    """Whether an IP address is one that belongs to somebody: not private, local, or reserved."""
    try:
        return ipaddress.ip_address(match).is_global
    except ValueError:
        return False


def is_card(match: str, before: str) -> bool:
    """Whether the digits have Luhn's check digit and begin as the cards of some network do."""
    digits = [int(c) for c in match if c.isdigit()]
    luhn = sum(d if n % 2 == 0 else sum(divmod(2 * d, 10)) for n, d in enumerate(reversed(digits)))
    plain = "".join(map(str, digits))
    return luhn % 10 == 0 and plain.startswith(("3", "4", "5", "6", "2", "1800")) and len(set(digits)) > 2


def is_iban(match: str, before: str) -> bool:
    """Whether country and check digits behind the account leave 1 when divided by 97."""
    plain = re.sub(r"\s", "", match).upper()
    number = "".join(str(int(c, 36)) for c in plain[4:] + plain[:4])
    return 15 <= len(plain) <= 34 and int(number) % 97 == 1


def is_phone(match: str, before: str) -> bool:
    """Whether groups of digits are a telephone number rather than a date, a sum or a row of a table.

    With + or brackets: 7 to 15 digits. Else three groups or more; where only spaces or dots part them, as in tables,
    they begin with 0 or a word such as "call" stands before them.
    """
    number = re.split(r"\s*(?:x|ext)", match)[0]
    groups = re.findall(r"\d+", number)
    count = sum(map(len, groups))
    if not 7 <= count <= 15 or NOT_PHONE.match(number):
        return False
    if number.startswith(("+", "00")) or (number.startswith("(") and ")" in number):
        return True
    if CALLED.search(before):
        return True
    if len(groups) < 3 or max(map(len, groups)) > 5:
        return False
    return "-" in number or (number.startswith("0") and len(groups) <= 5)


PATTERNS = (
    spans.Pattern("email", re.compile(r"(?<![\w.+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,6}[A-Za-z]{2,24}(?![\w-])"),
                  marks="@"),
    spans.Pattern("iban", re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d\d(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?"
                                     r"(?![A-Za-z0-9])"), is_iban),
    spans.Pattern("card", re.compile(r"(?<![\w.+-])(?:\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}"
                                     r"|\d{4}([ -])\d{6}\2\d{5})(?![\w-]|\.\d)"), is_card),
    spans.Pattern("ssn", re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])"), marks="-"),
    spans.Pattern("ip", re.compile(r"(?<![\w.:])(?:\d{1,3}\.){3}\d{1,3}(?![\w:]|\.\d)"), is_address, "."),
    spans.Pattern("ip", re.compile(r"(?<![\w.:])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:])"), is_address, ":"),
    spans.Pattern("phone", re.compile(r"(?<![\w.+/-])(?:\+|\(\+?)?\d[\d()]*(?:[ .-]{1,2}\(?\d[\d)]*){0,7}"
                                      r"(?:\s?(?:x|ext\.? ?)\d{2,5})?(?![\w/]|[.-]\d)"), is_phone, around=40),
    spans.Pattern("phone", re.compile(r"(?<![\w.+/-])\+?\d{9,15}(?![\w/]|[.-]\d)"),
                  lambda match, before: match.startswith(("+", "00")) or bool(CALLED.search(before)), around=40),
)
KINDS = tuple(dict.fromkeys(pattern.kind for pattern in PATTERNS))


@dataclass(frozen=True)
class Stage:
    """`kinds`: those that are replaced, parted by commas; empty for all."""

    kinds: str = ""

    def __call__(self, batch: Batch) -> Batch:
        """The batch with spans replaced; facts say kind, place and a piece of the hash of each (corpus.spans)."""
        wanted = [kind.strip() for kind in self.kinds.split(",") if kind.strip()] or list(KINDS)
        for kind in wanted:
            if kind not in KINDS:
                raise RequestError(f"personal:kinds names {kind!r}; {nearest(kind, KINDS)}")
        patterns = [pattern for pattern in PATTERNS if pattern.kind in wanted]
        return secrets.without(batch, lambda kind: [p for p in patterns if kind == "prose" or p.kind != "phone"])


def hidden(text: str) -> str:
    """A text as it may be shown among the examples of a corpus: without secrets and personal data."""
    return spans.replaced(text, spans.found(text, (*secrets.PATTERNS, *PATTERNS)))[0]
