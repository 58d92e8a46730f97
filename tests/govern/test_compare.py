"""The page of two answers: nothing in it can run but its own script, and what it saves is a preference file."""
import json
import re
from pathlib import Path

import pytest

from meristem.core.errors import RequestError
from meristem.corpus.dialogues import normal
from meristem.govern.compare import Pair, write

EVIL = "</script><script>alert(1)</script>"
PAIRS = [Pair(f"what of {n}?", (f"it is {n}", EVIL)) for n in range(40)]
PAIRS.append(Pair([{"role": "user", "content": "hi"}], ("hello", "no")))


def test_a_page_holds_its_pairs_and_no_foreign_script(tmp_path: Path) -> None:
    path = tmp_path / "compare.html"
    assert write(path, [*PAIRS, Pair("same", ("a", "a")), Pair("empty", ("a", " "))]) == 41
    page = path.read_text()
    assert EVIL not in page and page.count("<script") == 2 and page.count("</script>") == 2
    assert "http://" not in page and "https://" not in page and "default-src 'none'" in page
    rows = json.loads(re.search(r'application/json">(.*?)</script>', page, re.DOTALL)[1])
    assert len(rows) == 41 and {EVIL, "it is 3"} == set(rows[3]["answers"])
    left = [row["answers"][0].startswith("it") for row in rows[:40]]
    assert 10 < sum(left) < 30                                 # sides are drawn
    saved = [{"prompt": row["asked"], "chosen": row["answers"][0], "rejected": row["answers"][1]} for row in rows]
    assert all(isinstance(normal(row), dict) for row in saved)
    before = path.read_bytes()
    write(path, PAIRS)
    assert path.read_bytes() == before
    with pytest.raises(RequestError, match="nothing to compare"):
        write(path, [Pair("same", ("a", "a"))])
