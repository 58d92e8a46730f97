"""Heartbeats: a hung process is named with its stacks, a slow one is warned of, a crash loop ends with a diagnosis."""
import json
import os
import threading
import time
from dataclasses import replace

import pytest

from meristem.core.errors import MachineError
from meristem.core.progress import Progress
from meristem.train.trainer import Interrupted
from meristem.train.watch import CHECKS, HUNG, Beat, Watch, crashes, read


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def until(true, seconds: float = 20.0):
    """Wait for a thread to do its work, however busy the machine."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def other(folder, rank: int, step: int, pulse: int = 0, state: str = "step", own: float = 0.0) -> None:
    """The heartbeat of another process."""
    beat = {"rank": rank, "process": 4000 + rank, "host": "far", "step": step, "state": state, "pulse": pulse,
            "own": own}
    folder.mkdir(exist_ok=True)
    file = os.open(folder / f"rank-{rank}", os.O_RDWR | os.O_CREAT)
    os.pwrite(file, json.dumps(beat).encode().ljust(512), 0)
    os.close(file)


def test_one_process_that_makes_no_step_is_warned_of_once_with_its_stacks_and_lives(tmp_path):
    heard, left = Heard(), []
    with Watch(tmp_path / "h", limit=0.15, progress=heard, leave=left.append) as watch:
        time.sleep(0.3)
        assert not heard.warnings, "setting up is no step"
        watch.beat(6)
        until(lambda: heard.warnings)
        assert "no step for 0.15 s, in step 7" in heard.warnings[0] and "test_watch.py" in heard.warnings[0]
        assert "test_watch.py" in (tmp_path / "h" / "stacks-0.txt").read_text()
        time.sleep(0.3)
        assert len(heard.warnings) == 1 and not left
        watch.beat(7)
        until(lambda: len(heard.warnings) == 2)
    assert read(tmp_path / "h")[0].state == "finished"


@pytest.mark.parametrize(("step", "alive", "words"), [
    (9, False, "rank 1 (process 4001 on far) gives no sign of life"),
    (8, True, "rank 1 (process 4001 on far) is still in step 9"),
    (9, True, "every process is in it and alive")])
def test_of_several_the_culprit_is_named_and_all_leave(tmp_path, step, alive, words):
    heard, left, over = Heard(), [], threading.Event()
    other(tmp_path / "h", 1, step)

    def beating():
        pulse = 0
        while not over.wait(0.01):
            pulse += alive
            other(tmp_path / "h", 1, step, pulse)
    thread = threading.Thread(target=beating)
    thread.start()
    try:
        with Watch(tmp_path / "h", 0, 2, limit=0.4, progress=heard, leave=left.append) as watch:
            watch.beat(9)
            until(lambda: left)
    finally:
        over.set()
        thread.join()
    assert left == [HUNG] and words in heard.warnings[0]


def test_a_process_that_never_began_is_named(tmp_path):
    heard, left = Heard(), []
    with Watch(tmp_path / "h", 0, 3, limit=0.1, progress=heard, leave=left.append) as watch:
        watch.beat(0)
        until(lambda: left)
    assert "rank 1, 2 never began" in heard.warnings[0]


def test_a_slow_process_is_named_after_twenty_looks_and_an_accident_is_not(tmp_path):
    heard = Heard()
    watch = Watch(tmp_path, 0, 3, limit=0, progress=heard)
    beats = [Beat(rank, 70 + rank, "host", 5, "step", 0, 0.01) for rank in range(3)]
    slow = [*beats[:2], replace(beats[2], own=0.06)]
    for _ in range(CHECKS - 1):
        watch._compare(slow)
    watch._compare(beats)
    assert not heard.warnings
    for _ in range(CHECKS + 5):
        watch._compare(slow)
    assert heard.warnings == ["rank 2 (process 72 on host) is slow: 60 ms a step, the others 10 ms; all of them wait "
                              "for it"]


def ended(folder, step: int, error: BaseException | None = None, killed: bool = False):
    """A launch that came to `step` (from 0) and ended so."""
    crashes(folder)
    watch = Watch(folder, limit=0)
    watch.__enter__()
    watch.beat(step)
    if not killed:
        watch.__exit__(type(error) if error else None, error, None)


def test_three_failures_of_one_step_stop_the_run_until_somebody_acts(tmp_path):
    folder = tmp_path / "heartbeats"
    ended(folder, 35, killed=True)
    ended(folder, 35, killed=True)
    ended(folder, 35, RuntimeError("bad batch"))
    for _ in range(2):
        with pytest.raises(MachineError, match=r"step 36 has ended the run 3 times in a row .*RuntimeError: bad batch"
                                               r".*remove .*failures.jsonl"):
            crashes(folder)
    (tmp_path / "failures.jsonl").unlink()
    crashes(folder)


@pytest.mark.parametrize("end", [None, Interrupted(15), MachineError("disk"), KeyboardInterrupt()])
def test_an_end_with_a_reason_is_no_crash(tmp_path, end):
    for _ in range(4):
        ended(tmp_path / "h", 35, end)
    crashes(tmp_path / "h")
    assert not (tmp_path / "failures.jsonl").exists()


def test_failures_of_different_steps_go_on(tmp_path):
    for step in (35, 35, 36, 35, 35):
        ended(tmp_path / "h", step, killed=True)
    crashes(tmp_path / "h")                                    # 36, 35, 35: not yet three in a row ... 35, 35, 35 is
    ended(tmp_path / "h", 35, killed=True)
    with pytest.raises(MachineError, match="step 36"):
        crashes(tmp_path / "h")


def test_a_run_that_died_before_its_first_step_is_no_crash_of_a_step(tmp_path):
    for _ in range(4):
        crashes(tmp_path / "h")
        Watch(tmp_path / "h", limit=0).__enter__()
    assert not (tmp_path / "failures.jsonl").exists()


def test_a_folder_that_cannot_be_written_does_not_keep_a_run_from_training(tmp_path):
    (tmp_path / "h").write_text("a file")
    with Watch(tmp_path / "h", limit=5) as watch:
        watch.beat(3)
    assert watch.now.state == "finished"
