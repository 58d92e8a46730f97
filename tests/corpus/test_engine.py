"""Other engines give the same corpus, document for document, also when a worker is killed; names are checked."""
import dataclasses
import functools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core.errors import RequestError
from meristem.corpus import curate as module
from meristem.corpus import dedup, engine, find, ngrams, twins, wire
from meristem.corpus.curate import curate
from meristem.corpus.formats.base import Record, Refusal
from meristem.corpus.stages.base import stages_of

STDLIB = find.standard_library()[0]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Sources with copies and edited copies."""
    root = tmp_path_factory.mktemp("raw") / "in"
    root.mkdir()
    for name in ("abc", "bisect", "copy", "heapq", "queue", "sched", "stat", "json/decoder", "json/encoder"):
        text = (STDLIB / f"{name}.py").read_text()
        for n in range(3):
            (root / f"{name.replace('/', '.')}{n}.py").write_text(text.replace("return", "RETURN", n))
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name.endswith(".jsonl")}


def test_what_travels_comes_back_as_it_was():
    batch = [Record("a#1", b"\x00\xff", "html", "MIT", "prose", {"url": "u", "headers": [["a", "b"]]}),
             Refusal("b", 7, "too_large", 1.5), Refusal("c", 0, "link", "to")]
    assert wire.RECORDS.unpack(wire.RECORDS.pack(batch)) == batch
    work = [({"id": "x", "bytes": 2}, b"ab", np.arange(120, dtype=np.uint32)), ({"id": ""}, None, None)]
    again = wire.RECORDS.returned(wire.RECORDS.give(work))
    assert [row for row, _, _ in again] == [row for row, _, _ in work] and again[1][1:] == (None, None)
    assert again[0][1] == b"ab" and np.array_equal(again[0][2], work[0][2])


def test_the_kernel_on_arrow_batches_is_the_kernel(raw):
    batch = [Record(path.name, path.read_bytes()) for path in sorted(raw.iterdir())[:4]]
    work = functools.partial(module.process, stages=stages_of(["rules"]))
    there = wire.RECORDS.returned(wire.Over(wire.RECORDS, work)(wire.RECORDS.pack(batch)))
    here = work(batch)
    assert [row for row, _, _ in there] == [row for row, _, _ in here]
    assert all(np.array_equal(a, b) for (_, _, a), (_, _, b) in zip(there, here, strict=True))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.data())
def test_groups_judged_apart_are_all_texts_judged_together(n, data):
    words = [[f"w{data.draw(st.integers(0, 3))}{i}" for i in range(14)] for _ in range(n)]
    shingles = [ngrams.hashes(" ".join(w), dedup.SHINGLE) for w in words]
    signatures = [dedup.signature(s) for s in shingles]
    seen, together = dedup.Kept(shingles.__getitem__), {}
    for i, own in enumerate(signatures):
        if twin := seen.twin(i, own):
            together[i] = twin
    keys = dedup.band_keys(np.stack(signatures))
    labels, = dedup.meeting([keys], [np.arange(n, dtype=np.uint64)], [np.zeros(n, np.uint64)])
    groups: dict[int, list] = {}
    for i, label in enumerate(labels.tolist()):
        if label >= 0:
            groups.setdefault(label, []).append((i, signatures[i], " ".join(words[i]), 0))
    packed = [twins.WIRE.unpack(twins.WIRE.pack([group])) for group in groups.values()]
    found = [row for group in packed for row in twins.WIRE.returned(twins.WIRE.give(dedup.decide(group)))]
    apart = {twin.number: (twin.of, twin.similarity) for twin in found}
    assert apart == together


def test_an_engine_that_is_none_is_named(raw, tmp_path):
    with pytest.raises(RequestError, match="no engine 'rays'; did you mean ray"):
        curate([raw], tmp_path / "out", where="rays")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_daft_gives_the_same_corpus(raw, tmp_path, monkeypatch):
    pytest.importorskip("daft")
    one = curate([raw], tmp_path / "one")
    monkeypatch.setattr(module, "RECORDS", 4)
    two = curate([raw], tmp_path / "two", where="daft", workers=2)
    assert files_of(one.folder) == files_of(two.folder) and one.summary["dropped"]["near_duplicate"]["documents"] >= 5


def killing(flag: str) -> str:
    """Kills its own worker the first time it is given a name of no file yet."""
    if flag and not os.path.exists(flag):
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return flag


TEXT = wire.Wire(str.encode, bytes.decode, str.encode, bytes.decode)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_corpus_with_a_worker_killed_midway(raw, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        flags = ["", "", str(tmp_path / "flag"), "", ""]
        assert list(engine.run(killing, flags, 2, "ray", TEXT)) == flags and (tmp_path / "flag").exists()
        one = curate([raw], tmp_path / "one")
        monkeypatch.setattr(module, "RECORDS", 4)
        done: list[int] = []
        plain = wire.RECORDS.returned

        def watched(packed: bytes):
            """After the second batch one of Ray's workers is killed from outside."""
            done.append(len(packed))
            if len(done) == 2:
                workers = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _is_worker(p)]
                os.kill(workers[0], signal.SIGKILL)
            return plain(packed)
        monkeypatch.setattr(wire, "RECORDS", dataclasses.replace(wire.RECORDS, returned=watched))
        two = curate([raw], tmp_path / "two", where="ray", workers=2)
        assert len(done) > 4 and two.hash == one.hash and files_of(one.folder) == files_of(two.folder)
    finally:
        ray.shutdown()


def _is_worker(process: Path) -> bool:
    """Whether a process is a worker (not an agent, with which the node dies) of a Ray that this one started."""
    try:
        name = (process / "cmdline").read_bytes().decode(errors="replace")
        parents, at = [], process
        while at.name not in ("0", "1"):
            at = Path("/proc") / (at / "stat").read_text().rpartition(")")[2].split()[1]
            parents.append(at.name)
    except (OSError, IndexError):
        return False
    return name.startswith(("ray::IDLE", "ray::work")) and str(os.getpid()) in parents
