"""What watches a run breaks, or the data stalls: the run goes on, and somebody is told."""
import contextlib
import time

import pytest
import torch

from meristem.core.progress import Progress
from meristem.core.run import Train
from meristem.models.llama import Config, Model
from meristem.objectives.next_token import NextToken
from meristem.train.checkpoint import Checkpoints
from meristem.train.guard import MARGIN, Guard, Lost
from meristem.train.hooks import Log
from meristem.train.run import LOG, fit
from meristem.train.trainer import Trainer
from meristem.train.watch import Watch

CONFIG = Train(steps=12, batch=4, context=8, lr=1e-2, warmup=2, dtype="float32", compile=False)


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def counting(step: int):
    g = torch.Generator().manual_seed(step)
    return [{"tokens": (torch.randint(20, (4, 1), generator=g) + torch.arange(9)) % 20, "weight": torch.ones(4, 8)}]


def trainer(source=counting, config=CONFIG, checkpoints=None):
    torch.manual_seed(0)
    model = Model(Config(vocab=20, dim=16, layers=1, heads=2, context=8))
    return Trainer(NextToken(model), source, config, checkpoints=checkpoints)


def weights(t):
    return torch.cat([p.detach().flatten() for p in t.objective.parameters()])


class Tracker:
    """A dashboard whose server is down for some steps."""

    def __init__(self):
        self.seen: list[int] = []

    def __call__(self, t, facts):
        if 3 <= facts["step"] < 9:
            raise ConnectionError("no route to host")
        self.seen.append(facts["step"])


def test_a_tracker_that_fails_is_one_warning_and_the_run_goes_on(tmp_path):
    heard, tracker, plain = Heard(), Tracker(), trainer()
    fit(plain, tmp_path / "plain.jsonl", [], heard)
    watched = trainer()
    fit(watched, tmp_path / LOG, [tracker], heard)
    assert tracker.seen == [1, 2, 9, 10, 11, 12] and torch.equal(weights(plain), weights(watched))
    assert heard.warnings == ["Tracker failed at step 3 (ConnectionError: no route to host); training goes on without "
                              "it until it works again"]


def test_a_full_disk_under_the_log_is_one_warning_and_the_run_goes_on(tmp_path):
    heard, full = Heard(), trainer()

    def fill(t, facts):                                        # the real refusal: ENOSPC from /dev/full
        if facts["step"] == 4:
            found = [cell.cell_contents for hook in t.hooks for cell in hook.__closure__]
            log = next(x for x in found if isinstance(x, Log))
            log.file.close()
            log.file = open("/dev/full", "a", buffering=1)     # noqa: SIM115
            opened.append(log.file)
    opened = []
    facts = fit(full, tmp_path / LOG, [fill], heard)
    with contextlib.suppress(OSError):
        opened[0].close()
    assert facts["step"] == 12 and len(heard.warnings) == 1 and "No space left" in heard.warnings[0]
    assert len((tmp_path / LOG).read_text().splitlines()) == 3


def test_a_loader_that_stalls_is_named_with_its_place_and_the_run_ends_the_same(tmp_path):
    def stalling(step: int):
        if step == 6:
            time.sleep(1.5)
        return counting(step)
    heard, plain, stalled = Heard(), trainer(), trainer(stalling)
    plain.fit()
    with Watch(tmp_path / "heartbeats", limit=0.5, progress=heard) as watch:
        fit(stalled, tmp_path / LOG, [watch], heard)
    assert torch.equal(weights(plain), weights(stalled)) and len(heard.warnings) == 1
    assert "no step for 0.5 s, in step 7" in heard.warnings[0] and "stacks" in heard.warnings[0]
    assert "in stalling" in (tmp_path / "heartbeats" / "stacks-0.txt").read_text()


@pytest.mark.parametrize(("each", "rise", "noise"), [(1, 0.0, 0.05), (3, 0.003, 0.05), (7, 0.003, 0.05)])
def test_a_late_alarm_finds_a_checkpoint_although_two_are_kept(tmp_path, each, rise, noise):
    """Saved each few steps; the loss creeps up from step 200 on, or explodes at 250: both are seen later."""
    g = torch.Generator().manual_seed(each)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        run, most = trainer(checkpoints=checkpoints), 0
        run.save(wait=True)
        while run.guard.lost is None:
            loss = 3.0 - 0.002 * min(run.step, 200) + noise * float(torch.randn(1, generator=g))
            loss += 50.0 if not rise and run.step >= 250 else max(0.0, rise * (run.step - 200))
            run.guard.judge(loss, 1.0)
            run.step += 1
            if run.step % each == 0:
                run.save(wait=True)
                most = max(most, len(list(tmp_path.glob("step-*"))))
        first = run.guard.lost
        kept = sorted(int(p.name[5:]) for p in tmp_path.glob("step-*"))
        assert most <= 5 and (run.step - first > 2 * each), "the alarm came too soon to test anything"
        detour = run.go_back(Lost(first, run.step, "bad"))
        assert detour.to in kept and first - 3 * MARGIN <= detour.to <= first - MARGIN and run.step == detour.to


def test_checkpoints_each_so_many_steps_are_never_deleted(tmp_path):
    with Checkpoints(tmp_path, keep=1, permanent=4) as checkpoints:
        config = Train(**{**vars(CONFIG), "permanent": 4, "save_seconds": 0.0, "guard": False, "keep": 1})
        trainer(config=config, checkpoints=checkpoints).fit()
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000004", "step-000008", "step-000012"]
    with Checkpoints(tmp_path / "rare", keep=1, permanent=4) as checkpoints:
        config = Train(**{**vars(CONFIG), "permanent": 4, "save_seconds": 1e9, "guard": False, "keep": 1})
        trainer(config=config, checkpoints=checkpoints).fit()
    assert len(list((tmp_path / "rare").glob("step-*"))) == 3, "they are saved when due, whatever the clock says"


def test_what_an_alarm_can_name_is_never_older_than_the_guard_says():
    guard, said = Guard(), []
    g = torch.Generator().manual_seed(0)
    for step in range(600):
        loss = 3.0 + 0.05 * float(torch.randn(1, generator=g)) + max(0.0, 0.004 * (step - 300))
        said.append(min(guard.firsts))
        guard.judge(loss, 1.0)
        if guard.lost is not None:
            break
    assert guard.lost is not None and max(said) <= guard.lost < step - 20
