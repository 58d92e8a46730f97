"""The licence gate: which documents forbid release, and which runs are not checked."""
import json

import pytest

from meristem.core.errors import RequestError
from meristem.core.files import committed, read_json, write_json
from meristem.govern import gate


def relicense(corpus, licences: list[str]) -> None:
    """Write a corpus of one document a licence in the place of what is there."""
    summary = read_json(corpus / "corpus.json")
    rows = [{"id": str(n), "path": f"doc{n}.txt", "kind": "prose", "licence": licence, "text": "words"}
            for n, licence in enumerate(licences)]
    with committed(corpus) as folder:
        for split in ("train", "validation", "test"):
            (folder / f"{split}.jsonl").write_text(
                "".join(json.dumps(r) + "\n" for r in rows) if split == "train" else "")
        counts = {name: {"documents": licences.count(name), "bytes": 5} for name in dict.fromkeys(licences)}
        write_json(folder / "corpus.json", {**summary, "licences": counts})
        (folder / "ledger.jsonl").write_text("")


def test_open_licences_pass_and_are_counted(quickstart) -> None:
    found = gate.refuse(quickstart / "base")
    assert found.checked and found.licences == {"PSF-2.0": 1789, "MIT": 9} and found.forbidden == ()
    assert "PSF-2.0 1,789" in found.line()


def test_a_licence_that_allows_no_derived_work_stops_base_and_adapter(quickstart) -> None:
    relicense(quickstart / "corpus", ["MIT", "CC-BY-ND-4.0", "CC-BY-NC-ND-3.0 OR MIT", "unknown"])
    for name in ("base", "fill"):
        with pytest.raises(RequestError, match=r"1 training documents forbid release: doc1.txt \(CC-BY-ND-4.0\);"):
            gate.refuse(quickstart / name)


def test_a_corpus_that_is_not_here_is_not_called_good(quickstart) -> None:
    (quickstart / "corpus").rename(quickstart / "elsewhere")
    found = gate.refuse(quickstart / "base")
    assert not found.checked and "not checked" in found.line()
