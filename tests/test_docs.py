"""Every python and bash block of the documentation is executed, the blocks of a page in order and in one folder.

The python blocks of a page share one interpreter, a fork of one that has imported torch (tests.starter), but no names.
Blocks under `<!-- slow -->` are only parsed.
"""
import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.starter import started

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(<!-- slow -->\n)?```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def blocks(page: Path) -> list[tuple[str, str, str, bool]]:
    """(name by page and line, language, text, slow) of every block of a page."""
    text = page.read_text(encoding="utf-8")
    return [(f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}", match[2], match[3], bool(match[1]))
            for match in BLOCK.finditer(text)]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory):
    """What each block of a page said, by its name: "" where it went well. A page is read once, when first asked for."""
    pages: dict[Path, dict[str, str]] = {}

    def answers(page: Path) -> dict[str, str]:
        if page not in pages:
            folder, beside = tmp_path_factory.mktemp(page.stem), tmp_path_factory.mktemp("said")
            work, said = beside / "blocks.json", beside / "said.json"
            work.write_text(json.dumps([block[:3] for block in blocks(page) if not block[3]]))
            env = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
            ended = started("tests.pages:read", str(work), str(said), cwd=folder, env=env)
            pages[page] = json.loads(said.read_text()) if said.exists() else {}
            assert ended == [0]
        return pages[page]

    return answers


@pytest.mark.parametrize(("page", "block"), [pytest.param(p, block, id=block[0]) for p in PAGES for block in blocks(p)])
def test_block(page: Path, block: tuple[str, str, str, bool], read) -> None:
    name, language, text, slow = block
    if language == "python":
        ast.parse(text)
    else:
        subprocess.run(["bash", "-n", "-c", text], check=True)
    if not slow:
        assert read(page).get(name, "the page's interpreter ended before this block") == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / target).exists()]
    assert not dead
