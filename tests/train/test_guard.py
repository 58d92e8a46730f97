"""The spike guard: what it refuses, what it lets pass, and that a healed run is the run that never met the fault."""
import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from meristem.core.errors import MachineError
from meristem.core.progress import SILENT
from meristem.core.run import Train
from meristem.models.llama import Config, Model
from meristem.objectives.next_token import NextToken
from meristem.train.checkpoint import Checkpoints
from meristem.train.guard import PATIENCE, REWINDS, Detour, Detours, Guard, Lost
from meristem.train.hooks import read_log
from meristem.train.run import fit
from meristem.train.trainer import Interrupted, Trainer

RUNS = json.loads((Path(__file__).parent / "blowups.json").read_text())["runs"]
CONFIG = Train(steps=80, batch=4, context=8, lr=3e-3, warmup=5, save_seconds=1e9)


def objective(seed=0):
    torch.manual_seed(seed)
    return NextToken(Model(Config(vocab=20, dim=16, layers=1, heads=2, context=8)))


def counting(step: int, seed: int = 0):
    g = torch.Generator().manual_seed(step + 1000 * seed)
    return [{"tokens": (torch.randint(20, (4, 1), generator=g) + torch.arange(9)) % 20, "weight": torch.ones(4, 8)}]


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.objective.parameters()])


def noise(step: int, mean: float = 3.0):
    g = torch.Generator().manual_seed(step)
    return mean + 0.05 * float(torch.randn(1, generator=g)), 0.5 + 0.05 * float(torch.rand(1, generator=g))


@pytest.mark.parametrize("name", RUNS)
def test_published_logs(name):
    """Alarms before half of the rise in runs that blow up (a point is 200 iterations), none in those that do not."""
    guard, rows = Guard(window=16, least=4, short=2), RUNS[name]["rows"]
    alarms = [i for i, (loss, norm) in enumerate(rows) if guard.judge(loss, norm)]
    if RUNS[name]["kind"] == "healthy":
        assert not alarms and guard.lost is None
        return
    best = min(range(alarms[0]), key=lambda i: rows[i][0])
    worst = max(rows[best:], key=lambda row: row[0])[0]
    risen = [i for i in range(best, len(rows)) if rows[i][0] > rows[best][0] + 0.5 * (worst - rows[best][0])]
    assert alarms[0] <= risen[0], "the alarm came after half of the rise"


def test_a_spike_is_refused_and_so_is_a_smaller_one_after_it():
    guard = Guard()
    assert not any(guard.judge(*noise(i)) for i in range(60))
    assert "loss of 9" in guard.judge(9.0, 0.5) and not guard.judge(*noise(60))
    assert "deviations" in guard.judge(4.5, 0.5)               # mean and deviation, widened by the first, let this pass
    assert "gradient norm" in guard.judge(3.0, 8.0) and not guard.judge(*noise(61)) and guard.lost is None


def test_a_loss_that_falls_may_have_steep_gradients():
    """As when copying is found: the norm is 13 times the median for many steps, and nothing is wrong."""
    guard = Guard()
    assert not any(guard.judge(*noise(i)) for i in range(60))
    assert not any(guard.judge(2.5 - 0.1 * i, 8.0) for i in range(12)) and guard.lost is None
    assert guard.judge(9.0, 8.0)


def test_steep_batches_in_a_row_with_ordinary_losses_are_no_fault_of_theirs():
    """As a run with Muon showed: 20 times the median norm on every batch, the loss where it was; clipping is enough."""
    guard = Guard()
    assert not any(guard.judge(*noise(i)) for i in range(60))
    assert [bool(guard.judge(3.0, 8.0)) for i in range(8)] == [True] * 4 + [False] * 4
    assert guard.lost is None and not guard.judge(*noise(70)) and guard.judge(3.0, 40.0)
    assert [bool(guard.judge(9.0, 40.0)) for _ in range(5)] == [True] * 5 and guard.lost is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_from_the_first_step_on(bad):
    guard = Guard()
    assert guard.judge(bad, 1.0) and guard.judge(1.0, bad) and not guard.judge(1.0, 1.0)


def test_twenty_healthy_runs_raise_no_alarm():
    config = replace(CONFIG, steps=50, lr=1e-2)
    for seed in range(20):
        trainer = Trainer(objective(seed), lambda step, seed=seed: counting(step, seed), config, seed=seed)
        trainer.fit()
        assert len(trainer.guard.losses) == 50 and trainer.guard.losses[-1] < 0.8 * trainer.guard.losses[0]


def test_a_loss_that_rises_for_long_is_lost_although_no_step_stands_out():
    guard = Guard()
    for i in range(200):
        assert not guard.judge(*noise(i)) and guard.lost is None
    rising = 0
    while guard.lost is None and rising < 200:
        rising += 1
        guard.judge(*noise(200 + rising, 3.0 + 0.01 * rising))
    assert rising < 120 and guard.lost < 200 + rising


def test_its_state_survives_json():
    one = Guard()
    for i in range(70):
        one.judge(*noise(i))
    two = Guard()
    two.restore(json.loads(json.dumps(one.state())))
    for i in range(70, 120):
        assert one.judge(*noise(i)) == two.judge(*noise(i)) and one.state() == two.state()


def test_a_poisoned_batch_never_reaches_the_weights():
    def poisoned(step):
        batch = counting(step)
        if step == 120:
            batch[0]["tokens"] = batch[0]["tokens"].flip(1)    # counts down
        return batch
    hit, skipped = Trainer(objective(), poisoned, replace(CONFIG, steps=130, lr=1e-2)), []
    hit.hooks = [lambda t, facts: skipped.append(facts["step"]) if facts["skipped"] else None]
    hit.fit()
    assert skipped == [121]


def healed(tmp_path):
    """A run whose weights are damaged once at step 60, and what it noted."""
    due = [True]

    def save(trainer, facts):
        if trainer.step % 20 == 0:
            trainer.save(wait=True)

    def once(trainer, facts):
        if due and facts["step"] == 60:
            due.clear()
            flipped(trainer, facts)
    with Checkpoints(tmp_path / "checkpoints", keep=9) as checkpoints:
        trainer = Trainer(objective(), counting, CONFIG, checkpoints=checkpoints,
                          detours=Detours(tmp_path / "skips.jsonl"))
        fit(trainer, tmp_path / "log.jsonl", [save, once], SILENT)
    return trainer, Detours(tmp_path / "skips.jsonl").all[0]


def flipped(trainer, facts):
    """Damage that one step does to the weights, as a wrong learning rate would."""
    if facts["step"] == 60:
        with torch.no_grad():
            for p in trainer.objective.parameters():
                p.mul_(-3.0)


def test_a_healed_run_ends_in_the_bits_of_one_that_never_met_the_fault(tmp_path):
    trainer, detour = healed(tmp_path)
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == list(range(1, CONFIG.steps + 1))
    assert detour.first == 60 and detour.stop == 60 + PATIENCE and detour.to == 40
    clean = Trainer(objective(), counting, CONFIG, detours=Detours(tmp_path / "skips.jsonl"))
    clean.fit()                                                # from nothing, with the same list of batches left out
    assert torch.equal(weights(clean), weights(trainer))


def test_a_run_killed_after_going_back_never_resumes_from_what_was_taken_back(tmp_path):
    (tmp_path / "a").mkdir()
    trainer, detour = healed(tmp_path / "a")
    with Checkpoints(tmp_path / "b", keep=9) as checkpoints:
        detours = Detours(tmp_path / "skips.jsonl")
        first = Trainer(objective(), counting, CONFIG, checkpoints=checkpoints, detours=detours)
        first.hooks = [lambda t, facts: t.save(wait=True) if t.step % 20 == 0 else None, flipped]
        with pytest.raises(Lost) as lost:
            first.fit()
        detours.add(lost.value, 40)                            # killed here: on record, nothing undone
        again = Trainer(objective(3), counting, CONFIG, checkpoints=checkpoints,
                        detours=Detours(tmp_path / "skips.jsonl"))
        assert again.resume() and again.step == 40
        assert not (tmp_path / "b" / "step-000060").exists()
        again.fit()
    assert torch.equal(weights(again), weights(trainer))


def test_a_signal_in_the_step_of_the_alarm_still_stops_the_run_and_the_next_one_heals_it(tmp_path):
    def stop(trainer, facts):
        if trainer.guard.lost is not None:
            os.kill(os.getpid(), signal.SIGTERM)
    with Checkpoints(tmp_path / "checkpoints", keep=9) as checkpoints:
        first = Trainer(objective(), counting, CONFIG, checkpoints=checkpoints)
        first.hooks = [lambda t, facts: t.save(wait=True) if t.step == 20 else None, flipped, stop]
        with pytest.raises(Interrupted):
            first.fit()
        again = Trainer(objective(), counting, CONFIG, checkpoints=checkpoints)
        assert again.resume() and again.step == first.step
        fit(again, tmp_path / "log.jsonl", [], SILENT)
    assert again.detours.all[0].first == 60 and again.detours.all[0].to == 20 and again.step == CONFIG.steps


def test_batches_are_left_out_once_and_the_rest_keeps_its_order():
    detours = Detours()
    detours.all = [Detour(12, 5, 8, 12, ""), Detour(9, 3, 6, 14, ""), Detour(30, 20, 20, 22, "")]
    assert [detours.place(s) for s in range(16)] == [0, 1, 2, 3, 4, 5, 14, 15, 16, 17, 18, 19, 22, 23, 24, 25]
    assert Detours().place(7) == 7


def test_it_gives_up_after_some_rewinds_and_says_what_to_change(tmp_path):
    detours = Detours(tmp_path / "skips.jsonl")
    for i in range(REWINDS):
        detours.add(Lost(10 * i, 10 * i + 5, "x"), 0)
    with pytest.raises(MachineError, match="lower train.lr"):
        detours.add(Lost(90, 95, "x"), 0)
    with open(tmp_path / "skips.jsonl", "a") as f:
        f.write('{"at": 5, "to"')                              # torn by a kill
    assert Detours(tmp_path / "skips.jsonl").all == detours.all


def test_without_an_older_checkpoint_it_says_so(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        trainer = Trainer(objective(), counting, CONFIG, checkpoints=checkpoints)
        with pytest.raises(MachineError, match="no checkpoint is older"):
            trainer.go_back(Lost(30, 35, "x"))
