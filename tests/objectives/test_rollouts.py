"""Policies: drawn as they are trained, ratio 1 to the bit, advantages by hand, killed runs that go on bit for bit."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from meristem.codecs import bpe
from meristem.core import faults
from meristem.core.errors import RequestError
from meristem.core.files import digest_bytes
from meristem.core.random import seed_of, uniform
from meristem.core.run import Train
from meristem.data.conversations import Reader
from meristem.data.questions import Questions
from meristem.generate import rewards
from meristem.generate.sampling import Sampling, pick
from meristem.nn.linear import compute_in
from meristem.objectives.grpo import Grpo
from meristem.objectives.ppo import Ppo, advantages
from meristem.objectives.rollouts import Rollouts, whitened
from meristem.train.checkpoint import Checkpoints
from meristem.train.hooks import validate
from meristem.train.trainer import Trainer
from tests.models import parity
from tests.objectives import policies
from tests.train.processes import spawned

TEXT = "what of 2 and 7 is it no or yes\n" * 9
ROWS = [{"prompt": f"what of {n}?", "answer": str(n)} for n in range(12)]
CODEC = bpe.fit([TEXT], 270)
TRAIN = {"warmup": 1, "dtype": "float32", "compile": False, "guard": False, "weight_decay": 0.0, "lr": 3e-3}


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    made = parity.ours("llama", vocab=CODEC.vocab, context=64, dim=32, layers=2, heads=4)[1]
    return compute_in(made, dtype)


def length(answer: str, right: str) -> float:
    """A reward that a small model learns at once: more spaces."""
    return float(answer.count(" "))


def questions(objective: Rollouts, batch: int = 4) -> Questions:
    return Questions(ROWS, Reader(CODEC), 32, objective.length, batch, 0)


def of(name: str, dtype: torch.dtype = torch.float32, **fields) -> Rollouts:
    kind = Ppo if name == "ppo" else Grpo
    return kind(model(dtype), Reader(CODEC), length, length=10, **({} if name == "ppo" else {"group": 4}), **fields)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "fields", "batch"), [
    ("grpo", {"temperature": 0.7}, 1), ("grpo", {"temperature": 1.3, "minibatches": 2}, 4),
    ("ppo", {"minibatches": 3}, 5), ("rloo", {}, 3)])
def test_sampler_and_trainer_agree_to_the_bit_and_the_first_ratio_is_one(name, fields, batch, dtype) -> None:
    more = {"loss": "rloo"} if name == "rloo" else {}
    objective = of(name, dtype, **fields, **more).train()
    torch.manual_seed(3)
    rows = objective.prepare(questions(objective, batch)(0)[0])
    output = objective.output(rows)
    assert (output["logp"].detach() - rows["logp"]).abs().max() == 0           # of every place, the padding's too
    loss, facts = objective.score(output, rows)
    weight = objective.weight(rows)
    assert float(facts["ratio"] / weight) == 1 and facts["clipped"] == 0
    assert loss.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_cache_draws_is_what_the_training_forward_draws(dtype: torch.dtype) -> None:
    objective = of("grpo", dtype, temperature=0.9).train()
    torch.manual_seed(0)
    rows = objective.prepare(questions(objective, 12)(0)[0])
    keys = np.array([objective_key(objective, n) for n in range(len(rows["tokens"]))], dtype=np.uint64)
    with torch.no_grad():
        logits = objective.model(rows["tokens"][:, :-1])
    sampling = Sampling(temperature=0.9)
    for at in range(objective.length):
        here = rows["weight"][:, at] > 0
        where = rows["places"][:, at]
        would = pick(logits[torch.arange(len(where)), where].float(), uniform(keys, at), sampling)
        assert torch.equal(would[here], rows["tokens"].gather(1, where[:, None] + 1)[:, 0][here])
    assert objective.redrawn > 0 or dtype == torch.float32     # in bf16 the cache does draw other tokens


def objective_key(objective: Rollouts, row: int) -> int:
    return seed_of(int(objective.rolled_seed), "row", row)


def test_group_advantages_sum_to_zero_and_equal_answers_teach_nothing() -> None:
    worth = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.3, 0.3, 0.3, 0.3, 0.1, 0.7, 0.2, 0.2])
    for fields in ({}, {"spread": False}, {"loss": "rloo"}):
        objective = of("grpo", **fields)
        made = objective.advantage(worth).view(3, 4)
        assert made.sum(1).abs().max() < 1e-6 and (made[1] == 0).all()
    others = torch.stack([worth[:4][torch.arange(4) != n].mean() for n in range(4)])
    torch.testing.assert_close(of("grpo", loss="rloo").advantage(worth)[:4], worth[:4] - others)
    torch.testing.assert_close(of("grpo").advantage(worth)[:4],
                               (worth[:4] - worth[:4].mean()) / (worth[:4].std() + 1e-4))
    flat = Grpo(model(), Reader(CODEC), lambda answer, right: 0.25, group=4, length=10).train()
    loss, facts = flat(flat.prepare(questions(flat)(0)[0]))
    loss.backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in flat.parameters())
    assert float(facts["flat"] / flat.weight(flat.prepare(questions(flat)(0)[0]))) > 0.9


def test_ppo_by_a_written_out_reference() -> None:
    objective = of("ppo", beta=0.1, epochs=2).train()
    torch.manual_seed(1)
    with torch.no_grad():
        objective.value.weight.normal_()
        for p in objective.model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    rows = objective.prepare(questions(objective)(0)[0])
    raw, returns = np.zeros((len(rows["tokens"]), 10)), np.zeros((len(rows["tokens"]), 10))
    for n, size in enumerate(rows["weight"].sum(1).int().tolist()):
        logp, first, v = (rows[k][n].double().numpy() for k in ("logp", "reference", "values"))
        earned = [-0.1 * (logp[t] - first[t]) + (float(rows["rewards"][n]) if t == size - 1 else 0.0)
                  for t in range(size)]
        delta = [earned[t] + (v[t + 1] if t + 1 < size else 0.0) - v[t] for t in range(size)]
        for t in range(size):
            raw[n, t] = sum(0.95**k * delta[t + k] for k in range(size - t))
            returns[n, t] = raw[n, t] + v[t]
    used = rows["weight"].bool().numpy()
    white = (raw - raw[used].mean()) / np.sqrt(raw[used].var() + 1e-8)
    assert np.abs(np.where(used, rows["advantage"].numpy() - white, 0)).max() < 1e-4
    assert np.abs(np.where(used, rows["returns"].numpy() - returns, 0)).max() < 1e-4
    with torch.no_grad():
        for p in objective.parameters():
            p.add_(0.01 * torch.randn_like(p))
        output = objective.output(rows)
        loss, facts = objective.score(output, rows)
    total, clipped = 0.0, 0
    for n, t in zip(*np.nonzero(used), strict=True):
        ratio = np.exp(float(output["logp"][n, t]) - float(rows["logp"][n, t]))
        a, v, old = white[n, t], float(output["values"][n, t]), float(rows["values"][n, t])
        total += -min(ratio * a, np.clip(ratio, 0.8, 1.2) * a)
        total += 0.1 * 0.5 * max((v - returns[n, t]) ** 2, (np.clip(v, old - 0.2, old + 0.2) - returns[n, t]) ** 2)
        clipped += (ratio < 0.8 and a < 0) or (ratio > 1.2 and a > 0)
    assert abs(float(loss) - total) < 1e-4 * abs(total) + 1e-4 and float(facts["clipped"]) == clipped


def test_generalised_advantages_with_lambda_one_are_returns_minus_values() -> None:
    earned, values = torch.randn(2, 5), torch.randn(2, 5)
    weight = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    found = advantages(earned * weight, values * weight, weight, 1.0)
    left = torch.stack([(earned * weight)[:, t:].sum(1) for t in range(5)], 1)
    torch.testing.assert_close(found, (left - values) * weight)
    white = whitened(found, weight)
    assert abs(float(white.sum())) < 1e-5 and abs(float((white**2).sum() / 7) - 1) < 1e-4


@pytest.mark.parametrize(("name", "fields"), [("grpo", {}), ("grpo", {"loss": "rloo", "beta": 0.02}),
                                              ("grpo", {"loss": "dr_grpo", "epochs": 2, "spread": False}),
                                              ("ppo", {"minibatches": 2})])
def test_the_reward_rises(name: str, fields: dict) -> None:
    objective = of(name, **fields)
    seen: list[float] = []
    batch = 8 if name == "grpo" else 32                        # of PPO one answer to each prompt
    source = questions(objective, batch)
    before = validate(objective, list(source.held_out(8, 10_000)))
    Trainer(objective, source, Train(steps=16, batch=batch, **{**TRAIN, "lr": 1e-2}),
            hooks=[lambda trainer, facts: seen.append(facts["reward"])]).fit()
    assert np.mean(seen[-3:]) > np.mean(seen[:3]) + 0.3, seen
    after = validate(objective, list(source.held_out(8, 10_000)))
    assert after < before                                      # minus the mean reward of greedy answers


@pytest.mark.parametrize(("name", "fields"), [("grpo", {"beta": 0.1}), ("ppo", {"epochs": 2, "minibatches": 2})])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, name: str, fields: dict) -> None:
    def go(folder: str, fault: str = "") -> tuple[int, str]:
        """Seven steps in a fork, that breaks as planned; how it ended and a digest of all that it learned and keeps."""
        out, into = os.pipe()
        child = os.fork()
        if not child:
            faults.arm(fault)
            objective = of(name, **fields)
            with Checkpoints(tmp_path / folder) as kept:
                trainer = Trainer(objective, questions(objective), Train(steps=7, batch=4, save_seconds=-1.0, **TRAIN),
                                  checkpoints=kept)
                trainer.resume()
                trainer.fit()
            state = sorted(objective.state_dict().items())
            os.write(into, digest_bytes(*(tensor.numpy().tobytes() for _, tensor in state)).encode())
            os._exit(0)
        os.close(into)
        with os.fdopen(out) as f:
            said = f.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said
    whole = go("whole")
    assert whole[0] == 0 and len(whole[1]) == 32
    assert go("torn", "step.backward:4:kill")[0] == -9         # amid the steps that one set of answers serves
    assert go("torn") == whole


def test_rewards_and_what_breaks_them() -> None:
    assert rewards.named("last_number")("so 1,000 + 1 = 1,001.0", "1001") == 1
    assert rewards.named("last_number")("none", "4") == 0
    assert rewards.named("last_line")("2+2\n= 4\n 4 ", "4") == 1 and rewards.named("exact")(" 4", "4 ") == 1
    assert rewards.named("begins")("4, I think", "4") == 1
    with pytest.raises(RequestError, match="did you mean exact"):
        rewards.named("exakt")
    with pytest.raises(RequestError, match=r"raised ZeroDivisionError .* on the answer 'a'"):
        rewards.score(lambda a, b: 1 / 0, ["a"], ["b"], "mine")
    with pytest.raises(RequestError, match="gave nan"):
        rewards.score(lambda a, b: float("nan"), ["a"], ["b"], "mine")
    with pytest.raises(RequestError, match="data.examples=questions"):
        of("grpo").prepare({"tokens": torch.zeros(1, 3)})
    with pytest.raises(RequestError, match="temperature"):
        of("grpo", temperature=0.0)
    with pytest.raises(RequestError, match="did you mean"):
        of("grpo", loss="gppo")


def test_checkpoints_hold_the_answers_at_hand(tmp_path: Path) -> None:
    objective = of("ppo", epochs=3)
    with Checkpoints(tmp_path) as kept:
        trainer = Trainer(objective, questions(objective), Train(steps=2, batch=4, save_seconds=-1.0, **TRAIN),
                          checkpoints=kept)
        trainer.fit()
    fresh = of("ppo", epochs=3)
    fresh.load_state_dict(objective.state_dict())
    assert int(fresh.clock) == 2 and torch.equal(fresh.rolled_tokens, objective.rolled_tokens)


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    both = spawned(2, policies.together, tmp_path)
    for name, fields in policies.MANY.items():
        alone = policies.steps_of(name, "", fields)
        for found in (one[name] for one in both):
            assert found["ratio"] == 1 and found["tokens"] == alone["tokens"]
            for key in ("reward", "loss", "weights"):
                assert found[key] == pytest.approx(alone[key], abs=2e-4), key
    assert all("train.shard=false" in one["sharded"] for one in both)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_regions_keep_the_bits_of_sampler_and_trainer(dtype: str) -> None:
    """In a process of its own, for the suite compiles nothing; inductor needs a minute and a C++ compiler."""
    env = {key: value for key, value in os.environ.items() if key != "TORCHDYNAMO_DISABLE"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", f"from tests.objectives import policies; "
                           f"print(policies.compiled('{dtype}'))"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.0", "1.0", "True"]       # largest gap, first ratio, whether it was compiled
