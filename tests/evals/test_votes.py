"""Kept preferences to shares and ranks: the known strengths come back, and their bands cover them as often as said."""
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from meristem.core.errors import RequestError
from meristem.evals.votes import Vote, bradley_terry, read, tally
from meristem.govern.compare import Pair
from meristem.govern.compare import write as page


def drawn(strengths: dict[str, float], n: int, seed: int) -> list[Vote]:
    rng, names, out = np.random.default_rng(seed), sorted(strengths), []
    for number in range(n):
        a, b = (names[i] for i in rng.choice(len(names), 2, replace=False))
        first = rng.random() < 1 / (1 + math.exp(strengths[b] - strengths[a]))
        out.append(Vote(a, b, str(number)) if first else Vote(b, a, str(number)))
    return out


def test_strengths_come_back() -> None:
    true = {"a": 1.0, "b": 0.0, "c": -1.0}
    found = tally((drawn(true, 400, 0), 0))
    assert list(found.strengths) == ["a", "b", "c"]
    assert all(s.interval.low <= true[name] <= s.interval.high for name, s in found.strengths.items())
    assert found.pairs[0].decided and found.pairs[0].won / found.pairs[0].n == found.pairs[0].share
    two = bradley_terry(Counter({("x", "y"): 3000, ("y", "x"): 1000}), ["x", "y"])
    assert abs(two["x"] - two["y"] - math.log(3)) < 2e-3        # half a vote moves it by so little
    assert math.isfinite(bradley_terry(Counter({("x", "y"): 5}), ["x", "y"])["x"])


def test_votes_on_one_prompt_are_worth_less() -> None:
    once = tally(([Vote("a", "b", str(n)) if n % 4 else Vote("b", "a", str(n)) for n in range(80)], 0))
    copied = [Vote(v.winner, v.loser, str(n)) for n in range(8) for v in
              [Vote("a", "b", "") if n % 4 else Vote("b", "a", "")] * 10]
    often = tally((copied, 0))
    assert once.pairs[0].share == often.pairs[0].share == 0.75
    assert once.pairs[0].decided and not often.pairs[0].decided


def test_a_page_saves_rows_that_are_counted(tmp_path: Path) -> None:
    pairs = [Pair(f"what of {n}?", (f"it is {n}", f"no {n}"), ("runs/a", "runs/b")) for n in range(30)]
    page(tmp_path / "page.html", pairs)
    text = (tmp_path / "page.html").read_text()
    rows = json.loads(text.split('application/json">')[1].split("</script>")[0])
    assert all(row["models"][row["answers"][0].startswith("no")] == "runs/a" for row in rows)
    assert "model_chosen" in text and "model_rejected" in text
    lines = [{"prompt": r["asked"], "chosen": r["answers"][i], "rejected": r["answers"][1 - i],
              "model_chosen": r["models"][i], "model_rejected": r["models"][1 - i]} for r in rows
             for i in [int(r["answers"][1].startswith("it"))]]
    path = tmp_path / "preferences.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*lines, {"chosen": "x", "rejected": "y"}]))
    found = tally(read(path))
    assert (found.votes, found.left_out, found.pairs[0].won) == (30, 1, 30) and "runs/a over runs/b" in found.lines()[0]
    path.write_text('{"chosen": "x", "rejected": "y"}\n')
    with pytest.raises(RequestError, match="no vote names two"):
        tally(read(path))
    path.write_text('{"prompt": 1}\n')
    with pytest.raises(RequestError, match=":1: a vote has chosen"):
        read(path)
