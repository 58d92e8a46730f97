"""Losses of preferences, rewards and policies equal those of trl's own trainers on the same rows, to 1e-5."""
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from meristem.codecs import bpe
from meristem.core.types import Batch
from meristem.data.conversations import Reader
from meristem.data.preferences import Judged, Preferences
from meristem.generate.rollout import laid
from meristem.hub import hf
from meristem.objectives.grpo import Grpo
from meristem.objectives.preference import Preference
from meristem.objectives.reward import Reward
from tests.models import parity

pytestmark = pytest.mark.filterwarnings("ignore")              # of trl's and transformers' own imports
TEXT = "what of 2 and 7 is it no or yes\n" * 9
ROWS = [{"prompt": f"what of {n}?", "chosen": f" it is {n * 7}", "rejected": " no" * (1 + n % 3)} for n in range(6)]
CODEC = bpe.fit([TEXT], 270)
READER = Reader(CODEC)
ARGS = {"use_cpu": True, "report_to": [], "bf16": False, "gradient_checkpointing": False, "beta": 0.2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A model and the same after some training, in transformers' layout."""
    root = tmp_path_factory.mktemp("trl")
    config, module = parity.ours("llama", vocab=CODEC.vocab, context=128, dim=32, layers=2, heads=4)
    hf.save(root / "first", "llama", config, module, CODEC)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.05 * torch.randn_like(p))
    hf.save(root / "later", "llama", config, module, CODEC)
    return root / "first", root / "later"


def theirs(folder: Path) -> nn.Module:
    import transformers
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def tokenizer(folder: Path):
    import transformers
    return transformers.AutoTokenizer.from_pretrained(folder)


def dataset(rows: list[dict]):
    import datasets
    return datasets.Dataset.from_list(rows)


def objective(kind, folders: tuple[Path, Path], *args, **fields):
    """Of the trained model, its frozen one that of the first."""
    first, later = (hf.load(folder).module for folder in folders)
    made = kind(first, *args, **fields)
    made.model.load_state_dict(later.state_dict())
    return made.train()


def padded(rows: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    """input_ids, attention_mask and completion_mask of (tokens, own) rows."""
    wide = max(len(tokens) for tokens, _ in rows)
    out = {key: torch.zeros(len(rows), wide, dtype=torch.long) for key in
           ("input_ids", "attention_mask", "completion_mask")}
    for n, (tokens, own) in enumerate(rows):
        out["input_ids"][n, :len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        out["attention_mask"][n, :len(tokens)] = 1
        out["completion_mask"][n, :len(own)] = torch.from_numpy(own.astype(np.int64))
    return out


def answers(*columns: str) -> dict:
    found = [READER.answered(row, row[column]) for column in columns for row in ROWS]
    return padded([(one.tokens, one.own) for one in found])


def ours(made, kind: type[Preferences] = Preferences) -> float:
    source = kind(ROWS, READER, 96, 2, 0)
    with torch.no_grad():
        batch: Batch = source.batch(np.arange(len(source.fields["tokens"])))
        return float(made(batch)[0] / made.weight(batch))


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_dpo_and_ipo(folders, tmp_path: Path, loss: str) -> None:
    import trl
    trainer = trl.DPOTrainer(theirs(folders[1]), theirs(folders[0]), trl.DPOConfig(
        str(tmp_path), loss_type={"dpo": "sigmoid", "ipo": "ipo"}[loss], **ARGS), train_dataset=dataset(ROWS),
        processing_class=tokenizer(folders[0]))
    with torch.no_grad():
        want = trainer.compute_loss(trainer.model, answers("chosen", "rejected"))
    assert abs(ours(objective(Preference, folders, loss, beta=0.2)) - float(want)) <= 1e-5


def test_kto(folders, tmp_path: Path) -> None:
    import trl
    rows = [{"prompt": r["prompt"], "completion": r["chosen"], "label": True} for r in ROWS]
    trainer = trl.KTOTrainer(theirs(folders[1]), theirs(folders[0]), trl.KTOConfig(str(tmp_path), **ARGS,
                             per_device_train_batch_size=2, train_sampling_strategy="sequential"),
                             train_dataset=dataset(rows), processing_class=tokenizer(folders[0]))
    judged = Judged(ROWS, READER, 96, 2, 0)
    groups, labels = judged.read(ROWS, READER)
    inputs = padded([(group[0].tokens, group[0].own) for group in groups])
    other = padded([(group[1].tokens, group[1].own) for group in groups])
    inputs |= {f"KL_{key}": value for key, value in other.items()}
    inputs["label"] = torch.tensor([one[0] == 1 for one in labels])
    with torch.no_grad():
        want = trainer.compute_loss(trainer.model, inputs)
    assert abs(ours(objective(Preference, folders, "kto", beta=0.2), Judged) - float(want)) <= 1e-5


def test_orpo_and_simpo(folders, tmp_path: Path) -> None:
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer
    objectives = {loss: objective(Preference, folders, loss, beta=0.2) for loss in ("orpo", "simpo")}
    sums = {}
    for column in ("chosen", "rejected"):
        rows = answers(column)
        with torch.no_grad():
            logp = theirs(folders[1])(rows["input_ids"], rows["attention_mask"]).logits[:, :-1].log_softmax(-1)
        each = logp.gather(2, rows["input_ids"][:, 1:, None])[..., 0] * rows["completion_mask"][:, 1:]
        sums[column] = each.sum(1) / rows["completion_mask"][:, 1:].sum(1)
    said = {"beta": 0.2, "alpha": 0.0, "loss_type": "simpo", "simpo_gamma": 0.5, "label_smoothing": 0.0,
            "accelerator": type("Here", (), {"device": "cpu"})}
    here = type("Said", (), said)()                            # their formulas, on mean log-probabilities
    simpo = CPOTrainer.cpo_loss(here, sums["chosen"], sums["rejected"])[0].mean()
    odds = ORPOTrainer.odds_ratio_loss(here, sums["chosen"], sums["rejected"])[0]
    assert abs(ours(objectives["simpo"]) - float(simpo)) <= 1e-5
    assert abs(ours(objectives["orpo"]) - float((-sums["chosen"] - odds).mean())) <= 1e-5


def test_reward(folders, tmp_path: Path) -> None:
    import transformers
    import trl
    first = transformers.AutoModelForSequenceClassification.from_pretrained(folders[1], num_labels=1)
    first.config.pad_token_id = CODEC.end
    trainer = trl.RewardTrainer(first, trl.RewardConfig(str(tmp_path), center_rewards_coefficient=0.03,
                                **{key: value for key, value in ARGS.items() if key != "beta"}),
                                train_dataset=dataset(ROWS), processing_class=tokenizer(folders[0]))
    made = objective(Reward, folders, centre=0.03)
    with torch.no_grad():
        made.value.weight.copy_(first.score.weight)
        rows = answers("chosen", "rejected")
        marked = {**rows, "input_ids": rows["input_ids"].masked_fill(rows["attention_mask"] == 0, CODEC.end)}
        last = rows["attention_mask"].sum(1) - 1               # their pooling looks for the pad token, which also ends
        features = first.model(marked["input_ids"], rows["attention_mask"]).last_hidden_state
        rewards = first.score(features)[torch.arange(len(last)), last]

    class Pooled(nn.Module):
        def forward(self, **inputs):
            return type("Out", (), {"logits": rewards, "loss": None})()
    with torch.no_grad():
        want = trainer.compute_loss(Pooled(), marked)
    assert abs(ours(made) - float(want)) <= 1e-5


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "rloo"])
def test_policies(folders, tmp_path: Path, loss: str) -> None:
    import trl
    made = objective(Grpo, folders, READER, "exact", group=2, length=9, beta=0.0 if loss == "rloo" else 0.2, loss=loss,
                     clip=(0.2, 0.3), temperature=0.8)
    rng = np.random.default_rng(0)
    prompts = [READER.prompt(row) for row in ROWS]
    drawn = [rng.integers(5, 200, rng.integers(2, 10)).tolist() for _ in ROWS]
    rows = laid(prompts, drawn, 9, 32, CODEC.end)
    batch: Batch = {"tokens": rows.tokens, "places": rows.places, "weight": rows.weight}
    with torch.no_grad():
        now = made.output(batch)["logp"]
        noise = [0.3 * torch.randn_like(now) for _ in range(2)]
        batch |= {"logp": now + noise[0], "reference": now + noise[1], "rewards": torch.zeros(len(ROWS)),
                  "advantage": torch.randn(len(ROWS))}
        value = float(made(batch)[0] / made.weight(batch))
    wide = max(map(len, prompts))
    left = {"prompt_ids": torch.tensor(np.array([np.pad(p, (wide - len(p), 0)) for p in prompts]), dtype=torch.long),
            "prompt_mask": torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts]),
            "completion_ids": rows.targets * rows.weight.long(), "completion_mask": rows.weight.long(),
            "advantages": batch["advantage"], "num_items_in_batch": rows.weight.sum()}
    config, trainer = (trl.RLOOConfig, trl.RLOOTrainer) if loss == "rloo" else (trl.GRPOConfig, trl.GRPOTrainer)
    more = {} if loss == "rloo" else {"loss_type": loss}
    judge = trainer(theirs(folders[1]), reward_funcs=lambda completions, **_: [0.0] * len(completions),
                    args=config(str(tmp_path), num_generations=2, per_device_train_batch_size=2, temperature=0.8,
                                max_completion_length=9, epsilon=0.2, epsilon_high=0.3, **more, **ARGS),
                    train_dataset=dataset(ROWS), processing_class=tokenizer(folders[0]))
    if loss == "rloo":
        left["old_logps"] = (batch["logp"] * rows.weight).sum(1)
    else:
        left |= {"old_per_token_logps": batch["logp"], "ref_per_token_logps": batch["reference"]}
    with torch.no_grad(), warnings.catch_warnings():
        judge.model.eval()
        judge.current_gradient_accumulation_steps = 1
        want = judge.compute_loss(judge.model, left)
    assert abs(value - float(want)) <= 1e-5
