"""Hostile and odd files each become a document or a refusal that says why; nothing hangs and nothing crashes."""
import os
import socket
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meristem.core.errors import RequestError
from meristem.core.types import Document
from meristem.corpus import find, licence, read

TEXT = "The quick brown fox jumps over the lazy dog.\n"


def only(path: Path) -> Document | read.Refusal:
    found = list(read.documents([path]))
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("name", "raw", "rule", "value"), [
    ("nothing.txt", b"", "empty", 0),
    ("image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "media", "a picture: curate pictures:FOLDER reads it"),
    ("data", b"\x89PN\r\n\x1a\n\0\0", "binary", 7),
    ("late.txt", TEXT.encode() * 1000 + b"\0" + b"a", "binary", 45000),
    ("latin.txt", b"caf\xe9 au lait", "invalid_utf8", 3),
    ("surrogate.txt", b"ok \xed\xa0\x80", "invalid_utf8", 3),
    ("overlong.txt", b"\xc0\xaf", "invalid_utf8", 0),
    ("cut.txt", "schön".encode()[:4], "invalid_utf8", 3),
])
def test_bytes_that_are_no_text_are_refused_with_rule_and_place(tmp_path, name, raw, rule, value):
    (tmp_path / name).write_bytes(raw)
    assert only(tmp_path) == read.Refusal(f"{tmp_path.name}/{name}", len(raw), rule, value)


def test_a_200_mb_single_line_is_refused_without_reading_it(tmp_path):
    with open(tmp_path / "line.txt", "wb") as f:
        f.write(b"a" * read.SNIFF)
        f.truncate(200_000_000)
    tracemalloc.start()
    found = only(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.rule, found.value) == ("too_large", 200_000_000)
    assert peak < 1 << 20


def test_links_loops_pipes_and_sockets_do_not_hang(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out.txt"
    inside.mkdir()
    outside.write_text(TEXT)
    (inside / "a.txt").write_text(TEXT)
    (inside / "away").symlink_to(outside)
    (inside / "dangling").symlink_to("nowhere")
    (inside / "loop").symlink_to(inside)
    os.mkfifo(inside / "pipe")
    with socket.socket(socket.AF_UNIX) as s:
        here = Path.cwd()
        os.chdir(inside)                                       # a socket's path may have 100 bytes
        try:
            s.bind("socket")
        finally:
            os.chdir(here)
        items = list(read.documents([inside]))
    found = {item.path if isinstance(item, read.Refusal) else item.meta["path"]: item for item in items}
    assert isinstance(found.pop("in/a.txt"), Document)
    assert {name: item.rule for name, item in found.items()} == {
        "in/away": "link", "in/dangling": "link", "in/loop": "link", "in/pipe": "not_a_file", "in/socket": "not_a_file"}
    assert found["in/dangling"].value == "nowhere"


def test_a_file_that_cannot_be_read_is_an_entry(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(TEXT)
    opened = open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("a.txt"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)               # tests may run as root, who can read everything
    first, second = read.documents([tmp_path])
    assert (first.rule, first.value) == ("unreadable", "Permission denied") and isinstance(second, Document)


def test_a_name_that_is_not_utf8_can_still_be_written_down(tmp_path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.txt")).write_text(TEXT)
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")
    assert only(tmp_path).meta["path"].encode().endswith(rb"bad\xff.txt")


def test_byte_order_mark_and_carriage_returns_do_not_make_another_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    a, b = read.documents([tmp_path])
    assert a.id == b.id and b.text == "one\ntwo\n" and b.meta["bytes"] == 8


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_give_a_document_or_a_refusal(tmp_path, raw):
    (tmp_path / "file").write_bytes(raw)
    found = only(tmp_path / "file")
    if isinstance(found, Document):
        assert found.text.encode() == raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    else:
        assert found.rule in {"empty", "binary", "invalid_utf8", "damaged", "extraction_failed", "needs_package"}


@pytest.mark.parametrize(("name", "text", "kind"), [
    ("a.py", "x = 1", "code"), ("a.md", "{}();=<>", "prose"), ("run", "#!/bin/sh\necho hello", "code"),
    ("NOTES", TEXT, "prose"),
    ("thing", "int main() { return f(a[0], b); }", "code"), ("main.rs", TEXT, "code"),
])
def test_kind_by_extension_else_by_content(name, text, kind):
    assert read.kind_of(name, text) == kind


@settings(deadline=None)
@given(st.lists(st.sampled_from(["word ", "line\n", "end\n\n", "x" * 1000, "\U0001f600"]), max_size=300).map("".join))
def test_long_prose_is_cut_without_losing_a_character(text):
    pieces = list(read._cut(text * 20))
    assert "".join(pieces) == text * 20
    assert all(len(p) <= read.PART for p in pieces) and all(pieces[:-1])


def test_a_book_becomes_parts_and_code_stays_whole(tmp_path):
    (tmp_path / "book.txt").write_text((TEXT * 5 + "\n") * 1000)
    (tmp_path / "code.py").write_text("x = 1  # a comment\n" * 10_000)
    names = [d.meta["path"].split("/")[1] for d in read.documents([tmp_path])]
    assert names == ["book.txt#1", "book.txt#2", "book.txt#3", "book.txt#4", "code.py"]


def test_folders_of_tools_are_one_entry(tmp_path):
    for name in ("__pycache__", ".git", "node_modules", "src"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("x = 1\n")
    found = list(read.documents([tmp_path]))
    assert [f.rule for f in found if isinstance(f, read.Refusal)] == ["skipped_folder"] * 3 and len(found) == 4


def test_a_path_inside_another_is_read_once(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text(TEXT)
    assert len(list(read.documents([tmp_path / "sub", tmp_path, tmp_path]))) == 1


def test_bad_requests_name_the_way_out(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(RequestError, match="notess does not exist; did you mean notes"):
        list(read.documents([tmp_path / "notess"]))
    with pytest.raises(RequestError, match="does not exist"):
        list(read.documents([tmp_path / "a" / "b" / "c"]))
    with pytest.raises(RequestError, match="empty folder"):
        list(read.documents([tmp_path / "notes"]))
    with pytest.raises(RequestError, match="name a file or a folder"):
        list(read.documents([]))


def test_licence_by_header_then_by_the_nearest_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "LICENSE").write_text("MIT License\n\nPermission is hereby granted, free of\ncharge, ... "
                                      "THE SOFTWARE IS PROVIDED \"AS IS\"")
    (tmp_path / "sub" / "a.py").write_text("x = 1\n")
    (tmp_path / "sub" / "b.py").write_text("# SPDX-License-Identifier: GPL-3.0-or-later OR MIT\n")
    found = {Path(d.meta["path"]).name: d.licence for d in read.documents([tmp_path])}
    assert found == {"LICENSE": "MIT", "a.py": "MIT", "b.py": "GPL-3.0-or-later OR MIT"}
    assert licence.of_folder(tmp_path / "sub") == ""
    (tmp_path / "sub" / "COPYING").write_text("All rights are mine.")
    assert licence.of_folder(tmp_path / "sub") == licence.UNKNOWN


def test_the_standard_library_is_here_and_its_topics_are_documents_of_their_own():
    folder = find.standard_library()[0]
    assert (folder / "os.py").is_file()
    topics = list(read.documents([folder / "pydoc_data"]))
    named = {d.meta["path"]: d for d in topics if isinstance(d, Document)}
    topic = named["pydoc_data/topics.py#assert"]
    assert topic.meta["kind"] == "prose" and topic.licence == "PSF-2.0" and "assert" in topic.text
