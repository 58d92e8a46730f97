"""Web pages and PDF files to text: the charset that is meant, the main text, characters that were decoded wrongly.

Charset: a byte order mark, else UTF-8 where the bytes are valid UTF-8 with anything beyond ASCII in it (headers lie
more often than such bytes happen by chance), else what the HTTP header or the page says, by the WHATWG's names (Latin-1
means windows-1252, gb2312 means gb18030), else windows-1252. Main text: trafilatura (Barbaresi 2021), tuned towards
precision; `python -m benchmarks.extraction` scores it. Every failure of a parser on hostile input is a RefusedError.
"""
import codecs
import io
import logging
import re
from collections.abc import Sequence

from meristem.corpus.formats.base import LARGEST, RefusedError, extra

MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
MEANT = {"iso-8859-1": "windows-1252", "iso8859-1": "windows-1252", "latin-1": "windows-1252",
         "latin1": "windows-1252", "us-ascii": "windows-1252", "ascii": "windows-1252", "iso-8859-9": "windows-1254",
         "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "shift-jis": "cp932", "x-sjis": "cp932",
         "ks_c_5601-1987": "cp949", "euc-kr": "cp949", "tis-620": "cp874", "utf8": "utf-8", "unicode": "utf-8"}
META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE)
RESERVED = re.compile(rb"<meta\s[^>]{0,200}?name\s*=\s*[\"']?(robots|tdm-reservation)[\"']?[^>]{0,200}?"
                      rb"content\s*=\s*[\"']?([^\"'>]{1,200})", re.IGNORECASE)
META_WITHIN = 4096                      # bytes: 1024 in the standard, and pages that put scripts before it
HTML = 2 << 20                          # bytes of a page: beyond it is data, and parsers take minutes
DEPTH = 5000                            # open tags that are never closed: parsers' time is quadratic in it
PAGES = 3000                            # of a PDF
FALLBACK = "windows-1252"


def decode(raw: bytes, declared: str = "") -> tuple[str, str]:
    """(text, charset) of a page's bytes; bytes that its charset does not have become U+FFFD."""
    for mark, charset in MARKS:
        if raw.startswith(mark):
            return raw[len(mark):].decode(charset, "replace"), charset
    try:
        text = raw.decode("utf-8")
        if len(text) != len(raw):
            return text, "utf-8"
    except UnicodeDecodeError:
        pass
    found = META.search(raw, 0, META_WITHIN)
    for name in (declared, found[1].decode("ascii") if found else "", FALLBACK):
        charset = MEANT.get(name.strip().lower(), name.strip().lower())
        try:
            if charset and codecs.lookup(charset)._is_text_encoding:
                return raw.decode(charset, "replace"), charset
        except (LookupError, ValueError):
            continue
    return raw.decode("utf-8", "replace"), "utf-8"


def reserved(raw: bytes, headers: Sequence[tuple[str, str]] = ()) -> str:
    """What a page or its HTTP headers say against its use for training, such as "meta robots: noai", or "".

    noai and noimageai among the words of robots, and a tdm-reservation of 1 (W3C's TDM Reservation Protocol, 2024).
    """
    said = [(name.lower(), value.strip()) for name, value in headers]
    said += [(f"meta {a.decode('ascii').lower()}", b.decode("ascii", "replace").strip())
             for a, b in RESERVED.findall(raw[:HTML])]
    for name, value in said:
        words = {word.strip() for word in re.split(r"[,:\s]", value.lower())}
        if (name in ("x-robots-tag", "meta robots") and words & {"noai", "noimageai"}) or (
                name.endswith("tdm-reservation") and value == "1"):
            return f"{name}: {value[:100]}"
    return ""


def main_text(page: str) -> str:
    """The main text of an HTML page, a paragraph a line; RefusedError: none, too large, or trafilatura is missing."""
    trafilatura = extra("trafilatura", "trafilatura lxml_html_clean")
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)        # it reports every odd page to the log
    if len(page) > HTML:
        raise RefusedError("too_large", len(page))
    if (deep := page.count("<") // 2 - page.count("</")) > DEPTH:
        raise RefusedError("too_deep", deep)
    page = "".join(c for c in page if c >= " " or c in "\n\t") if not page.isprintable() else page
    try:
        text = trafilatura.extract(page, favor_precision=True, include_comments=False)
    except Exception as error:                                 # parsers fail on hostile pages in every way there is
        raise RefusedError("extraction_failed", type(error).__name__) from None
    if not text or not text.strip():
        raise RefusedError("no_main_text", len(page))
    return text.strip() + "\n"


def pdf(raw: bytes) -> str:
    """The text of a PDF file, pages parted by blank lines; RefusedError: none, damaged, locked, or no pypdf."""
    pypdf = extra("pypdf", "pypdf")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    parts, size = [], 0
    try:
        pages = pypdf.PdfReader(io.BytesIO(raw)).pages
        if len(pages) > PAGES:
            raise RefusedError("too_large", len(pages))
        for page in pages:
            parts.append(page.extract_text().strip())
            if (size := size + len(parts[-1])) > LARGEST:
                raise RefusedError("too_large", size)
    except RefusedError:
        raise
    except Exception as error:                                 # as above: damaged, locked, cyclic, of another version
        raise RefusedError("extraction_failed", type(error).__name__) from None
    text = "\n\n".join(part for part in parts if part)
    if not text:
        raise RefusedError("no_main_text", len(parts))
    return text.encode("utf-8", "replace").decode() + "\n"
