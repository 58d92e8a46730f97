"""A curation that is killed goes on where it was, in other processes it gives the same corpus, and explains itself."""
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from meristem.core.errors import MachineError, RequestError
from meristem.core.progress import Progress
from meristem.corpus import curate as module
from meristem.corpus import dedup, engine, explain, find
from meristem.corpus.curate import curate
from meristem.corpus.store import SPLITS

STDLIB = find.standard_library()[0]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Sources as files and, with copies among them, as rows of two tables."""
    root = tmp_path_factory.mktemp("raw") / "in"
    root.mkdir()
    texts = [(STDLIB / f"{n}.py").read_text() for n in ("abc", "bisect", "copy", "heapq", "queue", "sched", "stat")]
    texts += [path.read_text() for path in sorted((STDLIB / "json").glob("*.py"))]
    for n, text in enumerate(texts):
        (root / f"{n}.py").write_text(text)
    edited = [text.replace("return", "RETURN", 2) for text in texts]
    for n in range(2):
        rows = [json.dumps({"content": text}) for text in [*texts, *edited, f"too short {n}"]]
        (root / f"rows{n}.jsonl").write_text("\n".join(rows) + "\n{broken\n")
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name.endswith(".jsonl")}


class Facts(Progress):
    def __init__(self):
        self.facts, self.done, self.total, self.lines = {}, [], 0.0, []

    def stage(self, name, total=None):
        self.total = self.total or total

    def update(self, done, **facts):
        if facts:
            self.facts = facts
            self.done.append(done)

    def say(self, text):
        self.lines.append(text)


KILLED = """
import sys
from pathlib import Path
from meristem.corpus import curate as module
module.SEGMENT, module.RECORDS = 20_000, 5
module.curate([Path(sys.argv[1])], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("count", [1, 3])
def test_a_killed_run_goes_on_with_nothing_lost_or_repeated(raw, tmp_path, monkeypatch, count):
    monkeypatch.setattr(module, "SEGMENT", 20_000)
    monkeypatch.setattr(module, "RECORDS", 5)
    whole = curate([raw], tmp_path / "whole")
    out = tmp_path / "out"
    env = {**os.environ, "MERISTEM_FAULT": f"curate.segment:{count}:kill"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(raw), str(out)], env=env, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "corpus.json").exists()
    heard = Facts()
    assert curate([raw], out, progress=heard).hash == whole.hash
    assert heard.lines == [f"going on where an earlier run was stopped: {count} segments are done"]
    assert files_of(out) == files_of(tmp_path / "whole")
    rows = Counter(row["path"] for row in whole.ledger())
    assert max(rows.values()) == 1 and len(rows) == len(list(raw.glob("*.py"))) + 2 * (
        len((raw / "rows0.jsonl").read_text().splitlines()))
    assert not (tmp_path / ".work-out").exists()


def test_segments_do_not_change_the_result(raw, tmp_path, monkeypatch):
    one = curate([raw], tmp_path / "one")
    monkeypatch.setattr(module, "SEGMENT", 1)
    monkeypatch.setattr(module, "RECORDS", 3)
    monkeypatch.setattr(dedup, "PARTITION", 7)
    many = curate([raw], tmp_path / "many")
    assert files_of(one.folder) == files_of(many.folder) and one.hash == many.hash
    assert one.summary["dropped"]["near_duplicate"]["documents"] >= 5


def test_other_processes_give_the_same_corpus(raw, tmp_path, monkeypatch):
    one = curate([raw], tmp_path / "one")
    monkeypatch.setattr(module, "RECORDS", 4)
    two = curate([raw], tmp_path / "two", workers=2)
    assert files_of(one.folder) == files_of(two.folder)


def kill_once(path: str) -> str:
    """Kills its own process the first time."""
    if path and not os.path.exists(path):
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path


def kill(path: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return path


def test_a_killed_worker_costs_nothing_and_a_batch_that_kills_them_all_is_named(tmp_path):
    batches = ["", str(tmp_path / "flag"), "", ""]
    assert list(engine.run(kill_once, batches, workers=2)) == batches
    with pytest.raises(MachineError, match="killed 3 times at the same batch"):
        list(engine.run(kill, ["a"], workers=2))


def test_only_texts_that_meet_another_one_are_remembered():
    import numpy as np
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 1 << 60, (50, dedup.BANDS), dtype=np.uint64)
    keys[7, 3] = keys[31, 3]
    keys[9] = keys[40]
    ids = np.arange(50, dtype=np.uint64)
    ids[40] = ids[9]                                           # a copy: it meets itself
    found = dedup.meeting([keys[:20], keys[20:20], keys[20:]], [ids[:20], ids[20:20], ids[20:]],
                          [np.zeros(n, np.uint64) for n in (20, 0, 30)])
    assert [len(f) for f in found] == [20, 0, 30]
    assert np.flatnonzero(np.concatenate(found) >= 0).tolist() == [7, 31]
    assert len(set(np.concatenate(found)[[7, 31]])) == 1


def test_progress_tells_rates_drops_and_how_far(raw, tmp_path):
    heard = Facts()
    corpus = curate([raw], tmp_path / "out", progress=heard)
    assert heard.total == sum(p.stat().st_size for p in raw.iterdir())
    assert heard.done == sorted(heard.done) and 0 < heard.done[-1] <= heard.total
    assert heard.facts["documents"] == corpus.summary["seen"]["documents"]
    assert {"documents_per_second", "megabytes_per_second"} <= set(heard.facts) and "not_json" in heard.facts["dropped"]


def test_a_decision_is_explained_and_made_again(raw, tmp_path):
    corpus = curate([raw], tmp_path / "out")
    rows = {row["path"]: row for row in corpus.ledger()}
    for path, row in rows.items():
        [found] = explain.explain(corpus, path)
        why = " ".join(found["why"])
        if row["verdict"] == "kept":
            assert f"kept, in {row['split']}.jsonl" in why
        elif row["rule"] == "near_duplicate":
            assert f"read again: {row['value']:.4f} of their 5-word shingles" in why and row["witness_path"] in why
        elif row["rule"] == "exact_duplicate":
            assert "the same bytes as the witness: True" in why
        elif row["rule"] in corpus.summary["rules"]:
            assert f"read again: {row['rule']}: {row['value']}" in why and "Allowed: " in why
        else:
            assert row["rule"] == "not_json"
    assert {"near_duplicate", "exact_duplicate", "size", "not_json"} <= {row.get("rule") for row in rows.values()}
    key = next(row["id"] for row in rows.values() if row["verdict"] == "kept")
    assert key in {row["id"] for row in explain.explain(corpus, key[:12])}
    assert "in/0.py" in explain.told(explain.explain(corpus, "0.py"))
    with pytest.raises(RequestError, match="did you mean in/0.py"):
        explain.explain(corpus, "in/0.pyy")
    examples = corpus.summary["examples"]
    assert examples["size"][0]["text"].startswith("too short") and len(examples["not_json"]) == 2


def test_stages_change_texts_and_the_ledger_knows_what_they_were(tmp_path):
    from tests.corpus.test_stages import prose
    rows = [json.dumps({"text": "Home\n" + prose(16, n)}) for n in range(6)]
    (tmp_path / "pages.jsonl").write_text("\n".join([*rows, json.dumps({"text": "Home\nAbout us"})]))
    corpus = curate([tmp_path / "pages.jsonl"], tmp_path / "out", stages=["gopher", "c4", "fineweb"])
    kept = {d.id: d.text for split in SPLITS for d in corpus.documents(split)}
    assert sorted(kept.values()) == sorted(prose(16, n) for n in range(6))
    rows = [row for row in corpus.ledger() if row["verdict"] == "kept"]
    assert all(row["removed_lines"] == 1 and row["was"] != row["id"] for row in rows)
    assert corpus.summary["stages"] == ["gopher", "c4", "fineweb"]
    with pytest.raises(RequestError, match="already holds something"):
        curate([tmp_path / "pages.jsonl"], tmp_path / "out", stages=["c4"])
    assert "gopher_words" in " ".join(explain.explain(corpus, "pages.jsonl#7")[0]["why"])
