"""The loop: normalisation by global counts, skipping, determinism, signals."""
import math
import os
import signal

import pytest
import torch

from meristem.core.run import Group, Train
from meristem.models.llama import Config, Model
from meristem.nn.linear import compute_in
from meristem.objectives.next_token import NextToken
from meristem.train.checkpoint import Checkpoints
from meristem.train.hooks import Log, every, read_log, validate
from meristem.train.trainer import Interrupted, Trainer, compile_regions

CONFIG = Train(steps=12, batch=4, context=16, lr=1e-2, warmup=2, save_seconds=1e9)


def objective(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return NextToken(compute_in(Model(Config(vocab=30, dim=32, layers=2, heads=4, context=16)), dtype))


def counting(step: int, rows: int = 4):
    """Rows that count up from a start drawn from the step."""
    g = torch.Generator().manual_seed(step)
    start = torch.randint(30, (rows, 1), generator=g)
    return [{"tokens": (start + torch.arange(17)) % 30, "weight": torch.ones(rows, 16)}]


def weights(o):
    return torch.cat([p.detach().flatten() for p in o.parameters()])


def test_it_learns_to_count():
    o, losses = objective(), []
    config = Train(steps=60, batch=4, context=16, lr=1e-2, warmup=5)
    Trainer(o, counting, config, hooks=[lambda t, f: losses.append(f["loss"])]).fit()
    assert losses[0] == pytest.approx(math.log(30), rel=0.03) and losses[-1] < 0.3


def test_uneven_micro_batches_give_the_gradient_of_the_whole():
    batch = counting(3)[0]
    batch["weight"] = (torch.rand(4, 16, generator=torch.Generator().manual_seed(1)) > 0.6).float()
    batch["weight"][0] = 0                                     # one micro-batch trains on nothing at all
    whole, split = objective(), objective()
    a = Trainer(whole, counting, CONFIG).update([batch])
    b = Trainer(split, counting, CONFIG).update([{k: v[i:i + 1] for k, v in batch.items()} for i in range(4)])
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-6) and a["targets"] == b["targets"]
    torch.testing.assert_close(weights(whole), weights(split), rtol=0, atol=2e-5)


@pytest.mark.parametrize("poison", ["nan", "nothing"])
def test_a_step_that_is_not_finite_or_empty_changes_nothing(poison):
    o = objective()
    trainer = Trainer(o, counting, CONFIG)
    before, batch = weights(o), counting(0)[0]
    batch["weight"] *= math.nan if poison == "nan" else 0.0
    facts = trainer.update([batch])
    assert facts["skipped"] and torch.equal(weights(o), before)
    assert not trainer.update(counting(1))["skipped"] and not torch.equal(weights(o), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor", "schedule_free"])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, dtype, kind):
    config = Train(steps=12, batch=4, context=16, lr=1e-2, warmup=2, save_seconds=1e9, optimizer=kind, ema=0.9,
                   layer_decay=0.8, groups=(Group("norm", freeze=True), Group("mlp.up", lr=0.5, decay=0.0)))
    unbroken = objective(dtype)
    Trainer(unbroken, counting, config).fit()

    def stop_at_seven(trainer, facts):
        if trainer.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(Interrupted) as stopped:
            Trainer(objective(dtype), counting, config, checkpoints=checkpoints, hooks=[stop_at_seven]).fit()
        assert stopped.value.number == signal.SIGTERM
        resumed = objective(dtype, seed=5)                     # other weights: everything must come from the checkpoint
        again = Trainer(resumed, counting, config, checkpoints=checkpoints)
        assert again.resume() and again.step == 7
        again.fit()
    assert torch.equal(weights(unbroken), weights(resumed)) and again.tokens == 12 * 64


def test_watching_a_run_does_not_change_it():
    plain, watched = objective(), objective()
    Trainer(plain, counting, CONFIG).fit()
    Trainer(watched, counting, CONFIG, hooks=[lambda t, f: (validate(t.objective, counting(99)), torch.rand(3))]).fit()
    assert torch.equal(weights(plain), weights(watched)) and watched.training


def test_validation_is_the_mean_over_targets():
    o = objective()
    one, two = counting(1)[0], counting(2)[0]
    two["weight"][:, 4:] = 0
    want = sum(float(o(b)[0].detach()) for b in (one, two)) / (64 + 16)
    assert validate(o, [one, two]) == pytest.approx(want, rel=1e-6)


def test_a_signal_cuts_a_validation_short_and_the_next_launch_makes_up_for_it(tmp_path):
    seen: list[int] = []

    def launch(folder, stop=0):
        def batches():
            for n in range(50):
                seen.append(n)
                if len(seen) == stop:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield counting(1000 + n)[0]
        o, facts, log = objective(), [], None
        with Checkpoints(folder) as checkpoints:
            trainer = Trainer(o, counting, CONFIG, checkpoints=checkpoints)
            trainer.resume()
            log = Log(folder / "log.jsonl", trainer.step)
            trainer.hooks = [every(6, "validation", lambda asked: validate(o, batches(), None, asked)), log,
                             lambda t, f: facts.append(dict(f))]
            try:
                return trainer.fit(), o
            except Interrupted:
                return facts, o
            finally:
                log.close()

    whole, plain = launch(tmp_path / "whole")
    seen.clear()
    before, _ = launch(tmp_path / "cut", stop=3)
    assert len(seen) == 3 and len(before) == 5, "answered after the batch that it came in, and step 6 is not over"
    after, resumed = launch(tmp_path / "cut")
    assert len(seen) == 3 + 2 * 50 and torch.equal(weights(plain), weights(resumed))
    lines, others = (read_log(tmp_path / name / "log.jsonl") for name in ("cut", "whole"))
    assert [line["step"] for line in lines] == list(range(1, 13)) and "unfinished" not in lines[5]
    assert [line.get("validation") for line in lines] == [line.get("validation") for line in others]
    assert after["validation"] == whole["validation"] > 0


def test_a_torn_log_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    assert [line["step"] for line in read_log(path)] == [1, 2]
    log = Log(path, step=1)
    log(None, {"step": 2, "loss": math.nan})
    log.close()
    assert read_log(path) == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}]


@pytest.mark.slow
def test_compiled_regions_learn_the_same():
    eager, fast = objective(), objective()
    compile_regions(fast)
    losses = [[], []]
    for o, into in zip((eager, fast), losses, strict=True):
        Trainer(o, counting, CONFIG, hooks=[lambda t, f, into=into: into.append(f["loss"])]).fit()
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
