"""A corpus folder with hand-chosen splits, read by the real Corpus."""

from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from meristem.core.files import committed, digest_bytes, write_json
from meristem.corpus.store import LEDGER, SPLITS, SUMMARY, Corpus, line


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Corpus]:
    """make_corpus(train=[...], validation=[...], test=[...], suffix=".py") -> Corpus in a fresh folder."""

    def make(suffix: str = ".py", **texts: list[str]) -> Corpus:
        folder = tmp_path / f"corpus-{digest_bytes(repr(texts))[:8]}"
        with committed(folder) as out:
            for split in SPLITS:
                rows = sorted((xxhash.xxh3_128_hexdigest(t.encode()), t) for t in texts.get(split, []))
                (out / f"{split}.jsonl").write_text(
                    "".join(
                        line({"id": i, "path": f"{i}{suffix}", "kind": "code", "licence": "PSF-2.0", "text": t})
                        for i, t in rows
                    )
                )
            (out / LEDGER).write_text("")
            sizes = {s: {"documents": len(texts.get(s, [])), "bytes": sum(map(len, texts.get(s, [])))} for s in SPLITS}
            write_json(out / SUMMARY, {"hash": digest_bytes(repr(sorted(texts.items()))), "splits": sizes})
        return Corpus.open(folder)

    return make
