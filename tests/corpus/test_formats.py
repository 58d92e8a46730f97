"""Every format gives its documents by name, and hostile files of each give a ledger entry, never a crash or a hang."""
import gzip
import io
import json
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meristem.core.types import Document
from meristem.corpus import read
from meristem.corpus.formats import base

TEXT = "The quick brown fox jumps over the lazy dog.\n"
Found = dict[str, Document | read.Refusal]


def found(path: Path) -> Found:
    """What one file gives, by the name behind its own."""
    items = list(read.documents([path]))
    return {(i.path if isinstance(i, read.Refusal) else i.meta["path"]).removeprefix(path.name): i for i in items}


def rules(items: Found) -> dict[str, str]:
    return {name: item.rule if isinstance(item, read.Refusal) else "" for name, item in items.items()}


def packed(raw: bytes, suffix: str) -> bytes:
    return {"": raw, ".gz": gzip.compress(raw), ".zst": zstandard.compress(raw)}[suffix]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_json_lines_are_a_document_a_row_and_bad_rows_are_named(tmp_path, suffix):
    rows = [json.dumps({"text": TEXT, "url": "https://a.example", "license": "CC0-1.0"}), "{broken", "",
            json.dumps({"label": 3}), json.dumps({"text": 7}), "[1]", json.dumps({"text": ""}), "[" * 100_000,
            json.dumps({"content": "other"})]
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(packed("\n".join(rows).encode(), suffix))
    items = found(path)
    assert rules(items) == {"#1": "", "#2": "not_json", "#4": "no_text", "#5": "no_text", "#6": "no_text",
                            "#7": "empty", "#8": "not_json", "#9": ""}
    assert items["#1"].text == TEXT and items["#1"].licence == "CC0-1.0"
    assert items["#1"].meta["url"] == "https://a.example"
    assert items["#4"].value == "no column text; there are label" and items["#5"].value == "text is a int, not a string"


def test_a_column_can_be_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "no", "answer": TEXT}))
    [record] = read.records(path, "rows.jsonl", options=base.Options("answer"))
    assert record.raw.decode() == TEXT


def test_csv_with_quoted_lines_and_the_separator_that_is_used(tmp_path):
    for name, separator in (("a.csv", ","), ("b.tsv", "\t"), ("c.csv", ";")):
        path = tmp_path / name
        path.write_text(separator.join(["id", "text"]) + "\n" + separator.join(["1", '"two\nlines, here"']) + "\n"
                        + "2\n" + separator.join(["3", "x"]) + "\n")
        items = found(path)
        assert rules(items) == {"#1": "", "#2": "not_csv", "#3": ""} and items["#1"].text == "two\nlines, here"
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    assert found(tmp_path / "d.csv")[""].value == "no column text; there are a, b"


def test_fasta_by_accession_with_its_kind(tmp_path):
    path = tmp_path / "p.fasta"
    path.write_text("stray\n>sp|P1 first\nMKV\nLLW\n>chr1\nACGT\nNNAC\n>none\n")
    items = found(path)
    assert rules(items) == {"#1": "not_fasta", "#sp|P1": "", "#chr1": "", "#none": "empty"}
    assert (items["#sp|P1"].text, items["#sp|P1"].meta["kind"], items["#chr1"].meta["kind"]) == (
        "MKVLLW", "protein", "dna")


def tar_of(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, raw in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return out.getvalue()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_members_of_a_tar_are_read_in_place_and_reach_no_file(tmp_path, suffix):
    rows = json.dumps({"text": "row"}).encode()
    raw = tar_of({"a.txt": TEXT.encode(), "../../evil.txt": b"never written", "rows.jsonl": rows, "x.png": b"\x89P\0",
                  "rows.jsonl.gz": gzip.compress(rows), "inner.tar": tar_of({"b.txt": b"b"})},
                 {"away": "/etc/passwd"})
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / f"shard.tar{suffix}"
    path.write_bytes(packed(raw, suffix))
    items = found(path)
    assert rules(items) == {"/a.txt": "", "/../../evil.txt": "", "/rows.jsonl#1": "", "/rows.jsonl.gz#1": "",
                            "/x.png": "binary", "/inner.tar": "nested", "/away": "link"}
    assert items["/away"].value == "/etc/passwd" and items["/rows.jsonl.gz#1"].text == "row"
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [path.name]
    path.write_bytes(packed(raw[:700], suffix))
    assert list(rules(found(path)).values())[-1] == "damaged"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_bomb_is_refused_with_flat_memory(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(base, "RATIO_FROM", 1 << 20)
    path = tmp_path / f"bomb.jsonl{suffix}"
    path.write_bytes(packed(b"\0" * (24 << 20), suffix))
    items = list(read.documents([path]))
    assert {i.rule for i in items} <= {"bomb", "too_large"} and "bomb" in {i.rule for i in items}


def test_packed_text_and_cut_streams(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "b.txt.zst").write_bytes(zstandard.compress(TEXT.encode()))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(TEXT.encode() * 99)[:-30])
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"a" * (base.LARGEST + 9)))
    assert found(tmp_path / "a.txt.gz")[""].text == found(tmp_path / "b.txt.zst")[""].text == TEXT
    assert (found(tmp_path / "c.txt.gz")[""].rule, found(tmp_path / "d.txt.gz")[""].rule) == ("damaged", "too_large")


def test_a_line_that_is_too_long_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "' + b"a" * (2 * base.LARGEST) + b'"}\n' + json.dumps({"text": "next"}).encode())
    assert rules(found(path)) == {"#1": "too_large", "#2": ""}


def test_commits_of_a_repository_with_their_diffs_and_nothing_it_configures_runs(tmp_path):
    repo, flag = tmp_path / "repo", tmp_path / "ran"
    git = ["git", "-C", str(repo), "-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    for n in range(2):
        (repo / "a.py").write_text(f"x = {n}\n")
        subprocess.run([*git, "add", "a.py"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", f"Set x to {n}"], check=True)
    for key in ("core.fsmonitor", "diff.external", "core.pager"):
        subprocess.run([*git, "config", key, f"touch {flag}"], check=True)
    items = list(read.documents([repo / ".git"]))
    assert [d.text.splitlines()[0] for d in items] == ["Set x to 1", "Set x to 0"]
    assert "-x = 0\n+x = 1" in items[0].text and items[0].meta["kind"] == "code" and not flag.exists()
    assert items[0].meta["path"].startswith(".git@") and len(items[0].meta["path"]) == 45


def test_parquet_rows_and_a_missing_column(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq
    pq.write_table(pa.table({"id": [1, 2, 3], "content": [TEXT, None, "b" * 10]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    items = found(tmp_path / "a.parquet")
    assert rules(items) == {"#1": "", "#2": "no_text", "#3": ""} and items["#1"].text == TEXT
    assert found(tmp_path / "b.parquet")[""].value == "no column text; there are id"
    assert found(tmp_path / "c.parquet")[""].rule == "damaged"


def test_web_archives_record_by_record(tmp_path):
    pytest.importorskip("warcio")

    def record(kind: str, block: bytes) -> bytes:
        head = (f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.example/\r\n"
                f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n")
        return head.encode() + block + b"\r\n\r\n"

    def page(status: str, media: str, body: bytes) -> bytes:
        return record("response", f"HTTP/1.1 {status}\r\nContent-Type: {media}\r\n\r\n".encode() + body)
    written = [record("warcinfo", b"software: test\r\n"),
               page("200 OK", "text/plain; charset=koi8-r", "\u041f\u0440\u0438\u0432\u0435\u0442".encode("koi8-r")),
               page("404 Not Found", "text/plain", b"no"), page("200 OK", "image/png", b"\x89PNG"),
               page("200 OK", "text/plain", b"a" * (base.LARGEST + 1)), page("200 OK", "text/plain", b"last one" * 100)]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(map(gzip.compress, written)))
    items = found(path)
    assert rules(items) == {"#0": "record_type", "#1": "", "#2": "http_status", "#3": "media_type", "#4": "too_large",
                            "#5": ""}
    assert items["#1"].text == "\u041f\u0440\u0438\u0432\u0435\u0442" and items["#1"].meta["url"] == "http://a.example/"
    assert items["#1"].meta["charset"] == "koi8-r"
    path.write_bytes(b"".join(map(gzip.compress, written))[:-40])
    assert list(rules(found(path)).values())[-1] == "damaged"
    (tmp_path / "b.warc").write_bytes(b"".join(written)[:-300])        # not packed: nothing but the stated length tells
    assert list(rules(found(tmp_path / "b.warc")).values())[-1] == "truncated"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["a.jsonl", "a.csv", "a.fasta", "a.tar", "a.txt.gz", "a.jsonl.zst", "a.warc", "a.parquet"]),
       st.sampled_from([b"", base.GZIP, base.ZSTD, b"WARC/1.0\r\n", b"filedesc://", b"PAR1", b"\0" * 257 + b"ustar"]),
       st.binary(max_size=300))
def test_any_bytes_under_any_name_are_accounted_for(tmp_path, name, start, raw):
    (tmp_path / name).write_bytes(start + raw)
    items = list(read.documents([tmp_path / name]))
    (tmp_path / name).unlink()
    counts = Counter(type(i).__name__ for i in items)
    assert sum(counts.values()) == len(items)
    assert all(i.rule for i in items if isinstance(i, read.Refusal))
