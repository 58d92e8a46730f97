"""Worked examples that are balanced, near and fit; sweeps whose best, median and worst are what they say."""
import pytest

from meristem.core.errors import RequestError
from meristem.evals.prompting import Shots, sweep

EXAMPLES = [("a moving film", "good"), ("a dull film", "bad"), ("moving and warm", "good"), ("so dull", "bad"),
            ("warm heart", "good")]


def test_examples_are_balanced_and_never_the_question() -> None:
    shots = Shots(EXAMPLES, 4)
    assert sorted(answer for _, answer in shots.before("x")) == ["bad", "bad", "good", "good"]
    assert [answer for _, answer in Shots(EXAMPLES, 2, seed=3).before("x")] in (["good", "bad"], ["bad", "good"])
    assert all(q != "so dull" for q, _ in shots.before("so dull"))
    assert shots.before("x") == Shots(EXAMPLES, 4).before("x")


def test_near_examples_share_words_and_stand_last() -> None:
    pytest.importorskip("faiss")
    pytest.importorskip("bm25s")
    near = Shots(EXAMPLES, 2, "near")
    assert near.before("what a moving and warm story")[-1] == ("moving and warm", "good")
    assert ("so dull", "bad") in near.before("dull dull") and len(near.before("zzz")) == 2


def test_a_prompt_fits_and_ends_with_the_question() -> None:
    assert Shots(EXAMPLES, 1).prompt("Q: {}\nA: ", "new").endswith("Q: new\nA: ")
    whole = Shots(EXAMPLES, 3).prompt("{}: ", "new")
    assert whole.count("\n") == 3 and len(Shots(EXAMPLES, 3, room=len(whole) - 1).prompt("{}: ", "new")) < len(whole)
    assert Shots(EXAMPLES, 3, room=5).prompt("{}: ", "new") == "new: "
    for wrong, line in ((lambda: Shots(EXAMPLES, 3, room=4).prompt("{}: ", "new"), "does not fit"),
                        (lambda: Shots(EXAMPLES, 9), "there are 5"), (lambda: Shots(EXAMPLES).prompt("x", "y"), "once"),
                        (lambda: sweep(["{}"], EXAMPLES, lambda p: p), "at least two templates")):
        with pytest.raises(RequestError, match=line):
            wrong()


def test_a_sweep_ranks_templates() -> None:
    rows = [(str(n), str(n % 2)) for n in range(20)]
    hits = {"a{}": 20, "b{}": 10, "c{}": 15, "d{}": 0}

    def ask(prompts: list[str]) -> list[str]:
        count = hits[prompts[0][0] + "{}"]
        return [f" {right}\nmore" if n < count else "?" for n, (_, right) in enumerate(rows)]
    found = sweep(list(hits), rows, ask)
    assert found.ranked == ["a{}", "c{}", "b{}", "d{}"] and found.median == "b{}" and found.share("c{}")[0] == 0.75
    assert found.apart.value == 1.0 and found.apart.p < 1e-4
    assert found.describe().startswith("best   100.0 %".replace(" %", "%")) and "4 templates" in found.describe()
