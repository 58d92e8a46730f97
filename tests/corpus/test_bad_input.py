"""Each kind of bad input ends in one clear line or in the ledger: never in a crash, a hang or a lost document."""
import gzip
import io
import json
import os
import shutil
import tarfile
import time
from pathlib import Path

import pytest
import zstandard

from meristem.core.errors import RequestError
from meristem.corpus import find, read
from meristem.corpus.curate import curate
from meristem.corpus.formats import base
from meristem.corpus.formats.base import Options

STDLIB = find.standard_library()[0]


@pytest.fixture
def raw(tmp_path) -> Path:
    """Three sources that stay, so that every case ends in a corpus."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("bisect", "copy", "heapq"):
        shutil.copy(STDLIB / f"{name}.py", folder)
    return folder


def ledger(raw: Path, tmp_path: Path, **how) -> dict[str, dict]:
    return {row["path"]: row for row in curate([raw], tmp_path / "out", **how).ledger()}


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_decompression_bomb_is_refused_by_its_ratio(raw, tmp_path, pack, monkeypatch):
    monkeypatch.setattr(base, "RATIO_FROM", 1 << 20)
    (raw / "bomb.txt.gz").write_bytes(pack(b"0" * (6 << 20)))
    (raw / "bomb.jsonl.zst").write_bytes(pack(b'{"text": "' + b"x" * (6 << 20) + b'"}\n'))
    rows = ledger(raw, tmp_path)
    assert {row["rule"] for path, row in rows.items() if "bomb" in path} == {"bomb"}
    assert rows["raw/bisect.py"]["verdict"] == "kept"


def test_members_of_a_tar_reach_no_file_system_and_links_are_refused(raw, tmp_path):
    marker = tmp_path / "escaped.txt"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("../escaped.txt", "/etc/escaped.txt", str(marker)):
            member = tarfile.TarInfo(name)
            body = (STDLIB / "sched.py").read_bytes() + name.encode()
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../x"), (tarfile.FIFOTYPE, "")):
            member = tarfile.TarInfo(f"link{len(target)}")
            member.type, member.linkname = kind, target
            tar.addfile(member)
    (raw / "a.tar").write_bytes(out.getvalue())
    rows = ledger(raw, tmp_path)
    inside = {path: row for path, row in rows.items() if path.startswith("raw/a.tar/")}
    assert len(inside) == 6 and not marker.exists()
    assert sorted(row.get("rule", "kept") for row in inside.values())[-3:] == ["near_duplicate", "near_duplicate",
                                                                              "not_a_file"]


def test_a_symlink_out_of_the_tree_is_not_followed(raw, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key.txt").write_text("secret " * 50)
    (raw / "folder").symlink_to(tmp_path / "private")
    (raw / "file.txt").symlink_to("/etc/passwd")
    (raw / "loop").symlink_to(raw)
    rows = ledger(raw, tmp_path)
    assert {rows[f"raw/{name}"]["rule"] for name in ("folder", "file.txt", "loop")} == {"link"} and len(rows) == 6


@pytest.mark.parametrize("size", [1 << 26, pytest.param(1 << 30, marks=pytest.mark.slow)])
def test_a_line_of_a_gigabyte_is_one_ledger_line(raw, size):
    with open(raw / "a.jsonl", "wb") as f:                     # a hole in the file: no gigabyte is written
        f.write(b'{"text": "first ' + b"word " * 40 + b'"}\n{"text": "')
        f.seek(size)
        f.write(b'"}\n{"text": "last ' + b"word " * 30 + b'"}\n')
    items = list(read.records(raw / "a.jsonl", "a.jsonl"))
    assert [(i.rule, i.path) if isinstance(i, read.Refusal) else i.name for i in items] == [
        "a.jsonl#1", ("too_large", "a.jsonl#2"), "a.jsonl#3"]


@pytest.mark.parametrize(("body", "rule"), [
    (b"text with a \0 in it " * 20, "binary"), (b"caf\xe9 " * 40, "invalid_utf8"), (b"", "empty"),
    (b"\xed\xa0\x80 half a surrogate " * 9, "invalid_utf8")])
def test_bytes_that_are_no_text_are_refused_by_name(raw, tmp_path, body, rule):
    (raw / "x.txt").write_bytes(body)
    assert ledger(raw, tmp_path)["raw/x.txt"]["rule"] == rule


@pytest.mark.parametrize("stated", [b"99999999", b"3", b"-5", b"abc", b""])
def test_a_lying_content_length_loses_no_other_record(raw, tmp_path, stated):
    pytest.importorskip("warcio")
    head = (b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <urn:uuid:%d>\r\nWARC-Target-URI: http://a.org/\r\n"
            b"WARC-Date: 2020-01-01T00:00:00Z\r\nContent-Type: text/plain\r\nContent-Length: %s\r\n\r\n%s\r\n\r\n")
    body = (STDLIB / "sched.py").read_bytes()
    good = head % (1, str(len(body)).encode(), body)
    (raw / "a.warc").write_bytes(good + head % (2, stated, body[:200]))
    rows = ledger(raw, tmp_path)
    inside = [row for path, row in rows.items() if path.startswith("raw/a.warc")]
    assert any(row["verdict"] == "kept" for row in inside) and all(row["verdict"] == "kept" or row["rule"]
                                                                   for row in inside)


def test_empty_and_all_duplicate_corpora_say_so(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    with pytest.raises(RequestError, match="is an empty folder"):
        curate([folder], tmp_path / "out")
    for n in range(5):
        shutil.copy(STDLIB / "bisect.py", folder / f"{n}.py")
    with pytest.raises(RequestError, match="1 documents of 5 are left.*4 by exact_duplicate"):
        curate([folder], tmp_path / "out")
    assert not (tmp_path / "out" / "corpus.json").exists()


def test_a_file_of_records_that_holds_none_has_a_line_too(raw, tmp_path):
    """Found by fuzzing: a table of nothing but its heading, an empty archive and a page-less crawl left no trace."""
    (raw / "a.csv").write_text("text,n\n")
    (raw / "b.jsonl").write_bytes(b"")
    (raw / "e.csv").write_bytes(b"text,n\rm\none,1\n")
    (raw / "c.warc.gz").write_bytes(gzip.compress(b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 12"))
    with tarfile.open(raw / "d.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("inside.csv"), io.BytesIO(b""))
    rows = ledger(raw, tmp_path)
    assert {rows[f"raw/{name}"]["rule"] for name in ("a.csv", "b.jsonl")} == {"no_record"}
    assert rows["raw/e.csv"]["rule"] == "not_csv"
    assert [row["verdict"] for path, row in rows.items() if path.startswith("raw/c.warc.gz")] == ["dropped"]
    assert [path for path in rows if path.startswith("raw/d.tar")] == ["raw/d.tar/inside.csv"]


def test_a_column_that_is_missing_or_of_another_type_is_said_a_row(raw, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), raw / "numbers.parquet")
    pq.write_table(pa.table({"body_of_it": ["x"]}), raw / "missing.parquet")
    (raw / "mixed.jsonl").write_text("\n".join(json.dumps(row) for row in (
        {"text": 5}, {"text": None}, {"text": ["a"]}, {"other": "x"}, [1], "x", 3)) + "\n{nan\n")
    rows = ledger(raw, tmp_path)
    assert [rows[f"raw/mixed.jsonl#{n}"]["rule"] for n in range(1, 9)] == ["no_text"] * 7 + ["not_json"]
    assert rows["raw/numbers.parquet#1"]["value"] == "text is a int, not a string"
    assert "there are body_of_it" in rows["raw/missing.parquet"]["value"]
    again = ledger(raw, tmp_path / "named", text="body")
    named = {path: row for path, row in again.items() if "parquet" in path or "jsonl" in path}
    assert all("no column body" in str(row["value"]) or row["rule"] in ("no_text", "not_json")
               for row in named.values())


def test_nesting_and_pages_that_parsers_choke_on_end_quickly(raw, tmp_path):
    (raw / "deep.jsonl").write_bytes(b'{"text":' * 100_000 + b"\n" + b"[" * 100_000 + b"\n")
    (raw / "deep.html").write_bytes(b"<div>" * 100_000)
    (raw / "number.jsonl").write_bytes(b'{"text": ' + b"9" * 10_000 + b"}\n")
    began = time.monotonic()
    rows = ledger(raw, tmp_path)
    assert time.monotonic() - began < 20
    assert {row["rule"] for path, row in rows.items() if "deep" in path or "number" in path} <= {
        "not_json", "too_deep", "no_text", "needs_package", "no_main_text"}


def test_a_file_that_vanishes_or_cannot_be_read_is_a_line(raw, tmp_path, monkeypatch):
    (raw / "gone.txt").write_text("here at first " * 20)
    plain = read.records

    def vanishing(path, *rest, **more):
        if path.name == "gone.txt" and path.exists():
            os.unlink(path)
        return plain(path, *rest, **more)
    monkeypatch.setattr(read, "records", vanishing)
    assert ledger(raw, tmp_path)["raw/gone.txt"]["rule"] == "unreadable"


def test_options_without_formats_read_every_file_as_one_text(raw):
    (raw / "a.jsonl").write_text('{"text": "x"}\n')
    found = read.records(raw / "a.jsonl", "a.jsonl", options=Options(formats=False))
    assert [item.name for item in found] == ["a.jsonl"]
