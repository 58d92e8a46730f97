"""Web archives: WARC (ISO 28500), Common Crawl's WET and WAT, and ARC, by warcio; named `file#number`.

Pages (response, resource) and extracted texts (conversion) become records; every other record is a refusal, so that the
ledger has as many lines as the archive has records. warcio hands out a cut record without a word: its bytes are counted
against the length its header states.
"""
from collections.abc import Iterator
from typing import Any, BinaryIO

from meristem.corpus.formats.base import LARGEST, Options, Record, Refusal, RefusedError, extra

PAGES = {"text/html": "html", "application/xhtml+xml": "html", "application/pdf": "pdf", "text/plain": "text",
         "text/markdown": "text"}
OPT_OUT = ("x-robots-tag", "tdm-reservation")                  # headers of which stages.opted_out is told


def records(stream: BinaryIO, name: str, options: Options) -> Iterator[Record | Refusal]:
    """Every record of the archive in order; what comes after damage is one refusal more."""
    archive = iter(extra("warcio.archiveiterator", "warcio").ArchiveIterator(stream))
    failed: type[Exception] = extra("warcio.exceptions", "warcio").ArchiveLoadFailed
    number, cut = 0, False
    while True:
        place = f"{name}#{number}"
        try:
            record = next(archive)
            number += 1
            page = _page(record, place)
            cut = isinstance(page, Refusal) and page.rule == "damaged"
            yield page
        except StopIteration:
            return
        except RefusedError as refused:                        # the packed stream is damaged or a bomb
            if not cut:
                yield Refusal(place, 0, *refused.args)
            return
        except (failed, OSError, EOFError, ValueError, AttributeError) as error:
            yield Refusal(place, 0, "damaged", f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")
            if not isinstance(error, failed):
                return


def _page(record: Any, place: str) -> Record | Refusal:
    """What one record gives."""
    url = record.rec_headers.get_header("WARC-Target-URI") or record.rec_headers.get_header("uri") or ""
    stated = int(record.length or 0)
    if record.rec_type not in ("response", "resource", "conversion"):
        return Refusal(place, stated, "record_type", record.rec_type)
    status = record.http_headers.get_statuscode() if record.http_headers else ""
    if status and status != "200":
        return Refusal(place, stated, "http_status", status)
    media, _, more = _type(record).partition(";")
    if record.rec_type == "conversion":
        media = "text/plain"
    if media.strip().lower() not in PAGES:
        return Refusal(place, stated, "media_type", media.strip()[:100])
    try:
        raw = _bytes(record)
    except RefusedError as refused:
        return Refusal(place, stated, *refused.args)
    if missing := _missing(record):
        return Refusal(place, stated, "truncated", missing)
    if not raw:
        return Refusal(place, 0, "empty", 0)
    charset = next((part.partition("=")[2].strip("\"' ") for part in more.split(";")
                    if part.strip().lower().startswith("charset=")), "")
    said = [(name, value) for name, value in record.http_headers.headers if name.lower() in OPT_OUT] \
        if record.http_headers else []
    meta = {"url": url, "date": record.rec_headers.get_header("WARC-Date") or "", "charset": charset, "web": True,
            "headers": said}
    return Record(place, raw, PAGES[media.strip().lower()], kind="prose", meta=meta)


def _type(record: Any) -> str:
    headers = record.http_headers or record.rec_headers
    return headers.get_header("Content-Type") or ""


def _bytes(record: Any) -> bytes:
    """The page without transfer and content encoding, at most LARGEST bytes."""
    stream, parts, total = record.content_stream(), [], 0
    while block := stream.read(1 << 16):
        parts.append(block)
        if (total := total + len(block)) > LARGEST:
            raise RefusedError("too_large", total)
    return b"".join(parts)


def _missing(record: Any) -> int:
    """Bytes that the record's header promises and the file does not have."""
    left = record.raw_stream.limit
    while left and (block := record.raw_stream.read(1 << 16)):
        left -= len(block)
    return max(0, left)
