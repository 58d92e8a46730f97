"""The charset that is meant, the main text, and parsers on hostile pages and files."""
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.corpus import read, web
from meristem.corpus.formats.base import RefusedError

RUSSIAN = "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440"


@pytest.mark.parametrize(("raw", "declared", "text", "charset"), [
    ("caf\u00e9".encode(), "iso-8859-1", "caf\u00e9", "utf-8"),                        # the header lies
    (b"caf\xe9 \x93quoted\x94", "ISO-8859-1", "caf\u00e9 \u201cquoted\u201d", "windows-1252"),
    (RUSSIAN.encode("koi8-r"), "koi8-r", RUSSIAN, "koi8-r"),
    (b"<meta charset='windows-1251'>" + RUSSIAN.encode("cp1251"), "", "<meta charset='windows-1251'>" + RUSSIAN,
     "windows-1251"),
    ("\u6f22\u5b57\u9fc7".encode("gb18030"), "gb2312", "\u6f22\u5b57\u9fc7", "gb18030"),
    (b"\xef\xbb\xbfa\xc3\xa9", "latin1", "a\u00e9", "utf-8"),
    ("\u00e9t\u00e9".encode("utf-16"), "", "\u00e9t\u00e9", "utf-16-le"),
    (b"caf\xe9", "no-such-charset", "caf\u00e9", "windows-1252"), (b"caf\xe9", "rot13", "caf\u00e9", "windows-1252"),
    (b"plain", "", "plain", "windows-1252"), (b"a\xffb\xe3", "utf-8", "a\ufffdb\ufffd", "utf-8"),
])
def test_the_charset_that_is_meant(raw, declared, text, charset):
    assert web.decode(raw, declared) == (text, charset)


@settings(deadline=None)
@given(st.binary(max_size=200), st.text(max_size=20))
def test_any_bytes_under_any_charset_are_decoded(raw, declared):
    assert isinstance(web.decode(raw, declared)[0], str)


PARAGRAPH = ("<p>The archive keeps every page as it was sent, headers included, so that a later reader can decide for "
             "himself what on it was the text and what was furniture around it.</p>")
PAGE = (f"<html><head><title>t</title></head><body><nav><a href='/'>Home</a><a href='/x'>Everything else</a></nav>"
        f"<article><h1>On archives</h1>{PARAGRAPH * 4}</article>"
        "<footer>Copyright, cookies, imprint</footer></body></html>")


def test_main_text_leaves_the_furniture_out(tmp_path):
    pytest.importorskip("trafilatura")
    path = tmp_path / "page.html"
    path.write_text(PAGE)
    [document] = read.documents([path])
    assert "The archive keeps every page" in document.text and document.meta["kind"] == "prose"
    assert "Everything else" not in document.text and "cookies" not in document.text


@pytest.mark.parametrize(("page", "rule"), [
    ("<div>" * 200_000, "too_deep"), ("<p>" + "a" * (3 << 20), "too_large"), ("<html></html>", "no_main_text"),
    ("\0\1\2", "no_main_text"), ("<table>" + "<tr><td>" * 4000, "no_main_text"), ("", "no_main_text")])
def test_hostile_pages_are_refused(page, rule):
    pytest.importorskip("trafilatura")
    with pytest.raises(RefusedError) as refused:
        web.main_text(page)
    assert refused.value.args[0] == rule


def pdf_of(content: bytes) -> bytes:
    """A PDF file of one page, written by hand: ISO 32000, section 7.5."""
    stream = zlib.compress(content)
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
               b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
               b"<</Length %d/Filter/FlateDecode>>stream\n%b\nendstream" % (len(stream), stream),
               b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj%b endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + (b"xref\n0 6\n0000000000 65535 f \n" + table + b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF"
                  % len(out))


def test_a_pdf_gives_its_text_and_a_broken_one_a_refusal(tmp_path):
    pytest.importorskip("pypdf")
    raw = pdf_of(b"BT /F 12 Tf 10 50 Td (What the page says.) Tj ET")
    assert web.pdf(raw) == "What the page says.\n"
    (tmp_path / "a").write_bytes(raw)                          # known by its first bytes, not by its name
    [document] = read.documents([tmp_path / "a"])
    assert document.text == "What the page says.\n" and document.meta["kind"] == "prose"
    for bad, rule in ((pdf_of(b""), "no_main_text"), (raw[:60], "extraction_failed"), (b"%PDF-", "extraction_failed")):
        with pytest.raises(RefusedError) as refused:
            web.pdf(bad)
        assert refused.value.args[0] == rule


def test_a_page_without_its_parser_is_a_ledger_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    (tmp_path / "a.html").write_text(PAGE)
    [refusal] = read.documents([tmp_path / "a.html"])
    assert (refusal.rule, refusal.value) == ("needs_package", "pip install trafilatura lxml_html_clean")
