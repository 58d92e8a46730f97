"""Procedural problems: every answer passes its tests, and no test function is in the training split."""
import pytest

from meristem.data.examples import find
from meristem.data.problems import everything, problems, split_of


def passes(source: str) -> bool:
    """Our own generated text, run here."""
    space: dict = {}
    try:
        exec(source, space)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_answer_passes_and_a_constant_never_does(split: str) -> None:
    found = problems(split)
    assert len(found) >= 130
    for problem in found:
        assert passes(f"{problem.prompt}{problem.answer}\n{problem.test}"), problem.name
        first = problem.test.split("== ", 1)[1].split("\n")[0]
        assert not passes(f"{problem.prompt}\n    return {first}\n{problem.test}"), problem.name


def test_splits_are_apart_and_share_their_parts() -> None:
    names = [whole.name for whole in everything()]
    assert len(names) == len(set(names)) > 1400
    texts = {split: {p.prompt.partition("\n")[2] for p in problems(split)} for split in ("train", "validation", "test")}
    assert not texts["test"] & texts["train"] and not texts["validation"] & (texts["train"] | texts["test"])
    parts = {part for name in names if split_of(name) == "train" for part in name.split("/")}
    assert {part for name in names for part in name.split("/")} <= parts | {n.split("/")[3] for n in names
                                                                            if n.startswith("pairs")}


def test_they_are_a_function_of_the_seed() -> None:
    assert problems("test", 7, 1) == problems("test", 7, 1) == problems("test", 0, 1)[:7] != problems("test", 7, 2)
    assert {p.name for p in problems("test", 0, 1)} == {p.name for p in problems("test", 0, 2)}


def test_they_are_examples_of_their_split_beside_the_corpus() -> None:
    class Empty:
        def documents(self, split: str) -> list:
            return []
    found = find("documented_functions")(Empty(), "validation")
    assert [(e.prompt, e.answer) for e in found] == [(p.prompt, p.answer) for p in problems("validation")]
