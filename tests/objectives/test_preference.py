"""Preferences: each loss by trl's own trainers on the same inputs, ln 2 at the first step, and answers that swap."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from meristem.codecs import bpe
from meristem.core.errors import RequestError
from meristem.core.run import Train
from meristem.core.types import Batch
from meristem.data.conversations import Reader
from meristem.data.preferences import Judged, Preferences
from meristem.nn.linear import compute_in
from meristem.objectives.preference import Preference
from meristem.objectives.reward import Reward
from meristem.train.trainer import Trainer
from tests.models import parity

TEXT = "what of 2 and 7 is it no or yes\n" * 9
ROWS = [{"prompt": f"what of {n}?", "chosen": f" it is {n * 7}", "rejected": " no" * (1 + n % 3)} for n in range(7)]
SHAPE = {"context": 128, "dim": 32, "layers": 2, "heads": 4}


@pytest.fixture(scope="module")
def codec() -> bpe.Bpe:
    return bpe.fit([TEXT], 270)


def source(codec: bpe.Bpe, kind: type[Preferences] = Preferences) -> Preferences:
    return kind(ROWS, Reader(codec), 64, 3, 0)


def everything(found: Preferences) -> Batch:
    return found.batch(np.arange(len(found.fields["tokens"])))


def model(codec: bpe.Bpe) -> nn.Module:
    return parity.ours("llama", vocab=codec.vocab, **SHAPE)[1]


def moved(objective: Preference) -> Preference:
    """The same objective after some training, so that model and frozen model differ."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in objective.model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return objective


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_loss_of_dpo_is_ln_2_to_the_bit(codec: bpe.Bpe, dtype: torch.dtype) -> None:
    objective, batch = Preference(compute_in(model(codec), dtype)).train(), everything(source(codec))
    loss, facts = objective(batch)
    loss = loss.detach()
    pairs = int(objective.weight(batch))
    assert pairs == len(ROWS) and float(loss / pairs) == float(torch.tensor(math.log(2)))
    assert facts["margin"] == 0 and facts["accuracy"] == 0
    assert not any(name.startswith("beside") for name in objective.state_dict())


@pytest.mark.parametrize(("loss", "start"), [("ipo", (1 / 0.2) ** 2), ("simpo", None), ("orpo", None)])
def test_the_other_losses_by_hand(codec: bpe.Bpe, loss: str, start: float | None) -> None:
    objective, batch = Preference(model(codec), loss).eval(), everything(source(codec))
    with torch.no_grad():
        value = objective(batch)[0]
        want = 0.0
        for row in ROWS:
            logp = []
            for text in (row["chosen"], row["rejected"]):
                one = Reader(codec).answered(row, text)
                tokens = torch.from_numpy(one.tokens.astype(np.int64))[None]
                each = objective.model(tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None])[0, :, 0]
                logp.append(each[torch.from_numpy(one.own[1:])].mean())
            if loss == "ipo":
                want += start
            elif loss == "simpo":
                want += -torch.nn.functional.logsigmoid(0.1 * (logp[0] - logp[1]) - 0.5)
            else:
                odds = [p - torch.log1p(-p.exp()) for p in logp]
                want += -logp[0] - 0.1 * torch.nn.functional.logsigmoid(odds[0] - odds[1])
    torch.testing.assert_close(float(value), float(want), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", ["dpo", "ipo", "orpo", "simpo", "kto"])
def test_training_prefers_the_chosen_answer(codec: bpe.Bpe, loss: str) -> None:
    kind = Judged if loss == "kto" else Preferences
    found = source(codec, kind)
    objective = Preference(model(codec), loss, beta=0.5)
    before = objective.answers(objective.model, everything(source(codec)))
    trainer = Trainer(objective, found, Train(steps=12, batch=3, lr=3e-3, warmup=1, dtype="float32", compile=False,
                                              guard=False, weight_decay=0.0))
    facts = trainer.fit()
    pairs = everything(source(codec))
    after = objective.answers(objective.model, pairs)
    margin = [(x[pairs["labels"] == 1] - x[pairs["labels"] == 0]).detach() for x in (before, after)]
    assert (margin[1] > margin[0]).float().mean() > 0.8, margin
    assert facts["accuracy"] > 0.8


def test_swapped_answers_swap_the_facts(codec: bpe.Bpe) -> None:
    objective, batch = moved(Preference(model(codec))), everything(source(codec))
    loss, facts = objective(batch)
    other = Preferences([{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS], Reader(codec),
                        64, 3, 0)
    _, mirrored = objective(everything(other))
    assert abs(float(facts["margin"])) > 1e-4
    torch.testing.assert_close(facts["margin"], -mirrored["margin"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(facts["chosen"], mirrored["rejected"], rtol=1e-3, atol=1e-4)
    assert facts["accuracy"] + mirrored["accuracy"] == len(ROWS) and loss > 0


def test_micro_batches_add_up(codec: bpe.Bpe) -> None:
    found, objective = source(codec), moved(Preference(model(codec)))
    whole = objective(everything(found))[0]
    parts = [objective(found.batch(np.array([n])))[0] for n in range(len(found.fields["tokens"]))]
    torch.testing.assert_close(whole, torch.stack(parts).sum(), rtol=1e-5, atol=1e-5)


def test_a_reward_model_learns_and_keeps_its_head(codec: bpe.Bpe) -> None:
    found, objective = source(codec), Reward(model(codec))
    first, _ = objective(everything(found))
    assert float(first.detach() / len(ROWS)) == float(torch.tensor(math.log(2)))
    Trainer(objective, found, Train(steps=15, batch=3, lr=3e-3, warmup=1, dtype="float32", compile=False,
                                    guard=False)).fit()
    _, facts = objective(everything(found))
    assert facts["accuracy"] == len(ROWS) and list(objective.kept()) == ["value.weight"]
    rewards = objective.output(everything(found))
    row = Reader(codec).answered(ROWS[0], ROWS[0]["chosen"]).tokens
    features = objective.model.features(torch.from_numpy(row.astype(np.int64))[None])[:, -1]
    assert (rewards - objective.value(features).squeeze()).abs().min() < 1e-5      # read at its last token


def test_wrong_rows_and_fields_are_refused(codec: bpe.Bpe) -> None:
    network = model(codec)
    with pytest.raises(RequestError, match="did you mean dpo"):
        Preference(network, "dop")
    with pytest.raises(RequestError, match="beta"):
        Preference(network, beta=0.0)
    with pytest.raises(RequestError, match="data.examples=preferences"):
        Preference(network).prepare({"tokens": torch.zeros(1, 3), "weight": torch.zeros(1, 2)})
    with pytest.raises(RequestError, match="data.examples=judged"):
        Preference(network, "kto").prepare(everything(source(codec)))
    with pytest.raises(RequestError, match="data.examples=preferences"):
        Reward(network).prepare({"tokens": torch.zeros(1, 3)})
