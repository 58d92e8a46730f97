"""Every python and bash block of the documentation is executed, the blocks of a page in order and in one folder.

The python blocks of a page share one interpreter (importing torch costs 1.5 s, and there are 45 of them) but no names.
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

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(<!-- slow -->\n)?```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


# runs in the page's folder: [name, language, text] of each block from stdin, {name: what went wrong} to argv[1]
READER = """
import json, linecache, subprocess, sys, traceback
blocks, said = json.load(sys.stdin), {}
for name, language, text in blocks:
    if language == "bash":
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True)
        said[name] = done.stderr if done.returncode else ""
    else:
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        try:
            exec(compile(text, name, "exec"), {"__name__": "__main__"})
            said[name] = ""
        except (Exception, SystemExit):
            said[name] = traceback.format_exc()
    with open(sys.argv[1], "w") as file:
        json.dump(said, file)
"""


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
            folder, said = tmp_path_factory.mktemp(page.stem), tmp_path_factory.mktemp("said") / "said.json"
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
            work = json.dumps([block[:3] for block in blocks(page) if not block[3]])
            done = subprocess.run([sys.executable, "-W", "error", "-c", READER, said], cwd=folder, env=env, input=work,
                                  capture_output=True, text=True, timeout=240)
            pages[page] = json.loads(said.read_text()) if said.exists() else {}
            assert done.returncode == 0, done.stderr
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
