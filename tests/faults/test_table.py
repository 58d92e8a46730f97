"""The table of docs/reliability.md: every fault of training and data has a row, and every test it names exists."""
import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
PAGE = TESTS.parent / "docs" / "reliability.md"
ROW = re.compile(r"^\| ([\d, -]+) \|.*\| `([\w/.]+)::(\w+)` \|$", re.MULTILINE)
ELSEWHERE = {45, 46, 50, 51, 53, 54}    # crawls, pictures, serving: their own pages


def rows() -> list[tuple[str, str, str]]:
    return ROW.findall(PAGE.read_text(encoding="utf-8"))


def test_every_fault_of_training_and_data_has_a_row() -> None:
    table = PAGE.read_text(encoding="utf-8").split("| # | fault |")[1].split("\n\n")[0]
    assert len(rows()) == table.count("\n") - 1, "a row names no test"
    numbers = {int(n) for first, _, _ in rows() for n in re.findall(r"\d+", first)}
    assert numbers == set(range(1, 55)) - ELSEWHERE


def test_every_test_that_the_table_names_exists() -> None:
    missing = []
    for _, path, name in rows():
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        if name not in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}:
            missing.append(f"{path}::{name}")
    assert not missing
