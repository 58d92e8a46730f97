"""Every python and bash block of the documentation is executed, the blocks of a page in order and in one folder.

Blocks under `<!-- slow -->` are only parsed.
"""
import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(<!-- slow -->\n)?```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def blocks() -> list:
    """(page, language, text, slow) of every block, named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            name = f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}"
            found.append(pytest.param(page.stem, match[2], match[3], bool(match[1]), id=name))
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all pages."""
    return tmp_path_factory.mktemp("pages")


@pytest.mark.parametrize(("page", "language", "text", "slow"), blocks())
def test_block(page: str, language: str, text: str, slow: bool, folders: Path) -> None:
    folder = folders / page
    folder.mkdir(exist_ok=True)
    if language == "python":
        ast.parse(text)
        command = [sys.executable, "-W", "error", "-c", text]
    else:
        subprocess.run(["bash", "-n", "-c", text], check=True)
        command = ["bash", "-euo", "pipefail", "-c", text]
    if not slow:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / target).exists()]
    assert not dead
