"""docs/features.md: every row's names exist, its links lead to headings, its figures stand where it links to.

    python -m tests.test_features            # writes the counts at the top anew after a state has changed

Nothing of the library is imported: names are read from its files.
"""
import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "features.md"
STATES = ("reached", "missed", "tested", "not measured", "out of scope")
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = {row[0]: row for line in TEXT.splitlines() if re.match(r"\| [A-I]-?\d+ \|", line)
        for row in [[cell.strip() for cell in line.strip("|").split(" | ")]]}
TARGETS = dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", TEXT, re.MULTILINE))
COUNTS = re.compile(r"^\| rows \|.*?(?=\n\n)", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`]+)`")


def counts() -> str:
    """The table of states by letter, as it should stand at the top."""
    found = Counter((id[0], row[-1]) for id, row in ROWS.items())
    lines = ["| rows | " + " | ".join(STATES) + " | together |", "| --- |" + " --- |" * (len(STATES) + 1)]
    for letter in [*sorted({id[0] for id in ROWS}), "all"]:
        some = [sum(n for (one, state), n in found.items() if letter in (one, "all") and state == asked)
                for asked in STATES]
        lines.append(f"| {letter} | " + " | ".join(map(str, [*some, sum(some)])) + " |")
    return "\n".join(lines)


@cache
def source(path: str) -> str:
    """The text of a file of the repository; "" where there is none."""
    file = ROOT / path
    return file.read_text(encoding="utf-8") if file.is_file() else ""


@cache
def recipes() -> set[str]:
    """Functions annotated `-> Run` in the recipes' folder."""
    return {node.name for file in (ROOT / "meristem" / "recipes").glob("*.py")
            for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) == "Run"}


@cache
def options(verb: str) -> set[str]:
    """What a verb's function takes: its arguments, and options that are spelled out."""
    tree = ast.parse(source(f"meristem/cli/{verb}.py"))
    return {f"--{node.arg.replace('_', '-')}" for node in ast.walk(tree) if isinstance(node, ast.arg)} | \
           {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@cache
def slugs(path: str) -> dict[str, str]:
    """The sections of a page by the anchor of their heading, as GitHub makes it."""
    parts = re.split(r"^(#+ .*)$", source(path), flags=re.MULTILINE)
    said = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", head).lstrip("# ").lower() for head in parts[1::2]]
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-"): body for head, body in zip(said, parts[2::2], strict=True)}


def section(target: str) -> str | None:
    """The text under a link's heading, a whole page without one; None where it leads nowhere."""
    page, _, anchor = target.partition("#")
    path = (PAGE.parent / page).resolve()
    if not path.exists():
        return None
    return slugs(str(path.relative_to(ROOT))).get(anchor) if anchor else path.read_text(encoding="utf-8")


def wrong(command: str) -> list[str]:
    """What in a command does not exist."""
    words, said = command.split(), []
    if words[:2] == ["python", "-m"]:
        text = source(words[2].replace(".", "/") + ".py")
        names = [name for word in words[3:] if re.fullmatch(r"[a-zA-Z][\w,]*|--[a-z-]+", word)
                 and not re.fullmatch(r"[A-Z]{4,}", word) for name in word.split(",")]
        return [name for name in names if f'"{name}"' not in text] if text else words[2:3]
    if words[0] == "pytest":
        return [word for word in words[1:] if "/" in word and not (ROOT / word).exists()]
    if words[0] == "make":
        return [] if re.search(rf"^{words[1]}:", source("Makefile"), re.MULTILINE) else words[1:]
    if words[0] != "meristem":
        return words[:1]
    verb = words[1]
    said += [verb] if not source(f"meristem/cli/{verb}.py") else [
        word for word in words if word.startswith("--") and word not in options(verb)]
    at = {"pretrain": 2, "launch": 2, "show": 2, "adapt": 3}.get(verb)
    said += [words[at]] if at and words[at] not in recipes() else []
    if "--tasks" in words:
        said += [task for task in words[words.index("--tasks") + 1].split(",")
                 if not source(f"meristem/evals/tasks/{task}.py")]
    kinds = [word.removeprefix("toy:") for word in words if word.startswith("toy:")]
    return said + [kind for kind in kinds if not source(f"meristem/data/{kind}.py")]


def test_rows_and_counts() -> None:
    lines = [line for line in TEXT.splitlines() if re.match(r"\| [A-I]-?\d+ ", line)]
    assert len(ROWS) == len(lines) and all(len(row) == 6 for row in ROWS.values()), "an id twice, or a cell too many"
    for letter in sorted({id[0] for id in ROWS}):
        numbers = [int(id.lstrip(letter + "-")) for id in ROWS if id[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter
    assert {row[-1] for row in ROWS.values()} <= set(STATES)
    found = COUNTS.search(TEXT)
    assert found and found[0] == counts(), "python -m tests.test_features"


@pytest.mark.parametrize("id", ROWS)
def test_row(id: str) -> None:
    _, _, where, command, shown, state = ROWS[id]
    named = re.findall(r"(recipe|task)s? ((?:`\w+`(?:, )?)+)", where + " " + shown)
    for kind, names in named:
        for name in QUOTED.findall(names):
            assert name in recipes() if kind == "recipe" else source(f"meristem/evals/tasks/{name}.py"), name
    assert command == "-" or not wrong(command.strip("`")), f"not there: {wrong(command.strip('`'))}"
    tests = re.findall(r"\btests/[\w/]+\.py", f"{command} {shown}")
    assert all(source(path) for path in tests), tests
    for target in re.findall(r"\]\(([^)]+)\)", where):
        assert section(target) is not None, target
    used = re.findall(r"\[([\w-]+)\](?!\()", shown)
    sections = [section(TARGETS[name]) for name in used]
    assert None not in sections, f"no such heading: {[TARGETS[name] for name in used]}"
    assert used if state in ("reached", "missed") else tests if state == "tested" else True, "no evidence is named"
    for n in re.findall(r"\bn ([\d,]*\d)", shown if used else ""):
        assert any(re.search(rf"(?<![\d.,]){n}(?![\d,]*\d)", text or "") for text in sections), f"n {n}: not in {used}"
    there = [float(n) for text in sections for n in re.findall(r"\d+\.\d+(?:e-\d+)?", text or "")]
    for figure in re.findall(r"(?<![\w=/])\d+\.\d+(?:e-\d+)?", shown if used else ""):
        assert any(abs(n * scale - float(figure)) < 1e-9 for n in there for scale in (1, 100)), \
            f"{figure} stands in none of {used}"


def test_every_link_is_used() -> None:
    used = {name for row in ROWS.values() for name in re.findall(r"\[([\w-]+)\](?!\()", row[4])}
    assert used == set(TARGETS)


def test_wrong_names_are_found() -> None:
    assert wrong("python -m benchmarks.nothing") and wrong("python -m benchmarks.senses --part loks")
    assert wrong("meristem pretrain llamma") and wrong("meristem adapt runs/x lorra") and wrong("meristem trains x")
    assert wrong("meristem evaluate runs/x --tasks knnn") and wrong("meristem plan --bugdet 1h") and wrong("pip x")
    assert wrong("pytest tests/test_nothing.py") and wrong("make nothing") and section("results.md#nothing") is None


if __name__ == "__main__":
    PAGE.write_text(COUNTS.sub(lambda match: counts(), TEXT), encoding="utf-8")
