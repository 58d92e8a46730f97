"""Executes the blocks of one page of the documentation; test_docs.py starts it in a process of its own."""
import json
import linecache
import subprocess
import sys
import traceback
import warnings
from pathlib import Path


def read(work: str, said: str) -> None:
    """Run [name, language, text] of each block of the file `work`; {name: what went wrong} goes to the file `said`.

    The python blocks share this interpreter, where a warning is an error, but no names.
    """
    warnings.simplefilter("error")
    sys.path.insert(0, "")                                     # the page's folder
    answers: dict[str, str] = {}
    for name, language, text in json.loads(Path(work).read_text()):
        if language == "bash":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True)
            answers[name] = done.stderr if done.returncode else ""
        else:
            linecache.cache[name] = (len(text), None, text.splitlines(True), name)
            try:
                exec(compile(text, name, "exec"), {"__name__": "__main__"})
                answers[name] = ""
            except (Exception, SystemExit):
                answers[name] = traceback.format_exc()
        Path(said).write_text(json.dumps(answers))
