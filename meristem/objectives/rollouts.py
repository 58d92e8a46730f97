"""Reinforcement learning's source of rows: a policy answers prompts, a reward judges the answers, an objective learns.

What PPO, GRPO and RLOO share (`objectives.ppo`, `objectives.grpo`). Each step is an ordinary one of the trainer:
prompts come from the loader (data.examples=questions), `prepare` answers each of them `group` times with the weights as
they are, and the loss is that of any objective. With `epochs` or `minibatches` above 1 the answers serve epochs *
minibatches steps, after which new prompts are answered; they and their log-probabilities are part of the objective's
state, so a run that is killed among them goes on bit for bit. All that is drawn is a function of (weights, seed, step).

Answers are drawn as the training forward draws them, and their log-probabilities are that forward's, of the same rows
together (`generate.rollout`): the first minibatch's ratio is exactly 1, in every type and at every batch size. Of
several processes (dp, whole copies of the weights: train.shard=false) each answers its share of the prompts. In
evaluation (validation_every) prompts are answered greedily, and the "loss" is minus the mean reward.
"""
import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from meristem.core import parallel
from meristem.core.errors import RequestError
from meristem.core.random import permute, seed_of
from meristem.core.types import Batch
from meristem.data.conversations import Reader
from meristem.generate import rewards
from meristem.generate.autoregressive import generate
from meristem.generate.rollout import Rollout, laid, roll
from meristem.generate.sampling import Sampling
from meristem.objectives.base import Forward, Objective, twin
from meristem.objectives.next_token import log_probs
from meristem.objectives.preference import at_places
from meristem.objectives.reward import judge

KEPT = ("tokens", "places", "weight", "logp", "advantage", "rewards", "reference", "values", "returns")
PREFIX = "rolled_"


class Rollouts(Objective):
    """Base class: answers and rewards; subclasses say what follows from them (`experience`) and score it.

    Facts: `reward`, the mean of the answers; `tokens_each`, their mean length; `entropy` of a token, in
    nats; `drift`, log-probabilities beside the model's that training began with, per token (with `beta`).
    """

    clock: Tensor                       # steps since the first
    rolled_seed: Tensor                 # of the answers at hand

    anywhere = False

    def __init__(self, model: nn.Module, reader: Reader | None, reward: str | rewards.Check, group: int, length: int,
                 temperature: float, beta: float, epochs: int, minibatches: int):
        super().__init__(model)
        if reader is None:
            raise RequestError("answers are judged as text, so reinforcement learning needs the model's tokenizer")
        if min(group, length, epochs, minibatches) < 1 or temperature <= 0 or beta < 0:
            raise RequestError(f"objective.group={group}, length={length}, epochs={epochs} and "
                               f"minibatches={minibatches} are at least 1, temperature={temperature} is above 0 and "
                               f"beta={beta} at least 0")
        self.codec, self.ends = reader.codec, reader.ends
        self.name = reward if isinstance(reward, str) else reward.__name__
        self.model_reward = judge(reward) if isinstance(reward, str) and Path(reward).is_dir() else None
        self.check = None if self.model_reward else rewards.named(reward) if isinstance(reward, str) else reward
        self.group, self.length, self.temperature, self.beta = group, length, temperature, beta
        self.epochs, self.minibatches = epochs, minibatches
        if beta:
            self.beside = (twin(model),)
        self.register_buffer("clock", torch.zeros((), dtype=torch.long))
        self.register_buffer("rolled_seed", torch.zeros((), dtype=torch.long))
        for key in KEPT:
            self.register_buffer(PREFIX + key, torch.zeros(0))

    @property
    def reuse(self) -> int:
        """Steps that one set of answers serves."""
        return self.epochs * self.minibatches

    @abc.abstractmethod
    def experience(self, batch: Batch) -> Batch:
        """Rows with log-probabilities and rewards -> the fields that `score` reads beside them."""

    def prepare(self, batch: Batch) -> Batch:
        """Prompts -> answered and judged rows: fresh ones, or the next minibatch of those at hand."""
        if "lengths" not in batch:
            raise RequestError("reinforcement learning reads prompts; set data.examples=questions")
        if not self.training:
            return self.examined(batch)
        turn = int(self.clock) % self.reuse
        if turn == 0:
            rows = self.shared(batch)
            if self.reuse == 1:
                return rows
            for key in KEPT:
                setattr(self, PREFIX + key, rows.get(key, torch.zeros(0)))
        epoch, part = divmod(turn, self.minibatches)
        count = len(self.kept_rows("tokens"))
        order = np.arange(count)
        if epoch:                                              # the first time in the order they were judged in
            order = permute(order, count, seed_of(int(self.rolled_seed), "epoch", epoch))
        ends = np.cumsum([parallel.count() * len(some) for some in
                          np.array_split(order[::parallel.count()], self.minibatches)])     # each process has its share
        which = torch.from_numpy(np.split(order, ends[:-1])[part])
        return {key: self.kept_rows(key)[which] for key in KEPT if len(self.kept_rows(key))}

    def shared(self, batch: Batch) -> Batch:
        """The rows of all prompts. Of n processes each answers every n-th prompt and is given the others' rows: row i
        is of process i mod n, so those that it trains on are those that it drew, in the same order.

        RequestError where the weights are divided among the processes.
        """
        count = parallel.count()
        if count == 1:
            return self.answered(batch)
        if any(isinstance(p, DTensor) for p in self.model.parameters()):
            raise RequestError("a policy is sampled from whole weights: set train.shard=false, and in train.mesh dp "
                               "alone")
        rows = self.answered({key: value[parallel.rank()::count] for key, value in batch.items()})
        return {key: parallel.gather(value) for key, value in rows.items()}

    def answered(self, batch: Batch) -> Batch:
        """Rows of a process's prompts, drawn, judged by the forward of each minibatch, and rewarded."""
        self.rolled_seed = torch.randint(2**62, ())
        prompts, targets = self.unpacked(batch)
        width = batch["tokens"].shape[1] - 1
        sampling = Sampling(length=self.length, temperature=self.temperature, seed=int(self.rolled_seed))
        last: list[tuple[Tensor, Tensor]] = []                 # features and logits of each minibatch

        def logits(made: Rollout) -> Float[Tensor, "N L V"]:
            last[:] = [self.asked_at(self.model, part) for part in self.parts(_rows(made))]
            return torch.cat([some.detach() for _, some in last])

        of = np.arange(len(prompts)) * parallel.count() + parallel.rank()                # numbers of the prompts
        made = roll(self.model, prompts, self.group, sampling, self.ends, width, logits, self.codec.end,
                    (of[:, None] * self.group + np.arange(self.group)).ravel().tolist())
        rows = _rows(made)
        found = [self.read(*seen, part) for seen, part in zip(last, self.parts(rows), strict=True)]
        rows |= {key: torch.cat([one[key].detach() for one in found]) for key in found[0]}
        if self.beside:
            asked = [self.read(*self.asked_at(self.beside[0], part), part)["logp"] for part in self.parts(rows)]
            rows["reference"] = torch.cat([logp.detach() for logp in asked])
        rows["rewards"] = torch.tensor(self.rewarded(prompts, made.answers, targets))
        self.redrawn = made.redrawn
        return {**rows, **self.experience(rows)}

    def parts(self, rows: Batch) -> list[Batch]:
        """The minibatches of some rows in their first order."""
        pieces = {key: value.tensor_split(self.minibatches) for key, value in rows.items()}
        return [{key: pieces[key][n] for key in rows} for n in range(self.minibatches)]

    def asked_at(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features and fp32 logits at a batch's places; in training as compiled for it, though nobody wants
        gradients."""
        with torch.set_grad_enabled(self.training and not torch.is_inference_mode_enabled()):
            features = at_places(model.features(**self.inputs(batch)), batch["places"])        # type: ignore[operator]
            return features, model.head(features).float()                                      # type: ignore[operator]

    def read(self, features: Float[Tensor, "N L D"], logits: Float[Tensor, "N L V"], batch: Batch) -> Batch:
        """What is known of each place from its features: `logp`."""
        return {"logp": log_probs(logits / self.temperature, batch["tokens"].gather(1, batch["places"] + 1))}

    def output(self, batch: Batch) -> Any:
        """The same of the rows that are trained on, with gradients, and the entropy of each place."""
        if not self.training:
            return {}
        features, logits = self.asked_at(self.model, batch)
        with torch.no_grad():
            likely = (logits / self.temperature).log_softmax(-1)
            entropy = -(likely.exp() * likely).sum(-1)
        return {**self.read(features, logits, batch), "entropy": entropy}

    def score(self, output: Batch, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of rows, or minus the rewards of an examination."""
        if not output:
            return -batch["rewards"].sum(), {}
        loss, facts = self.learn(output, batch)
        weight, count = self.weight(batch), batch["weight"].sum().clamp(min=1)
        rows = (batch["weight"].sum(1) > 0).sum().clamp(min=1)
        equal = parallel.mean(weight)                          # processes have as many answers, not as many tokens
        facts |= {"reward": batch["rewards"].mean() * equal, "tokens_each": count / rows * equal,
                  "entropy": (output["entropy"] * batch["weight"]).sum() / count * weight}
        if "reference" in batch:
            facts["drift"] = ((batch["logp"] - batch["reference"]) * batch["weight"]).sum() / count * weight
        return loss, facts

    @abc.abstractmethod
    def learn(self, output: Batch, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss of rows and summed facts."""

    def weight(self, batch: Batch) -> Tensor:
        """Tokens of answers; prompts of an examination."""
        return batch["weight"].sum()

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """tokens [N, T]."""
        return {"tokens": batch["tokens"][:, :-1]}

    def examined(self, batch: Batch) -> Batch:
        """Greedy answers and their rewards, a prompt a row."""
        prompts, targets = self.unpacked(batch)
        made = generate(self.model, prompts, length=self.length, on_token=lambda row, token: token in self.ends)
        answers = [one.tokens for one in made]
        rows = laid(prompts, answers, self.length, batch["tokens"].shape[1] - 1, self.codec.end)
        worth = torch.tensor(self.rewarded(prompts, answers, targets, 1))
        return {"tokens": rows.tokens, "places": rows.places, "rewards": worth, "weight": torch.ones(len(prompts))}

    def rewarded(self, prompts: Sequence[np.ndarray], answers: Sequence[Sequence[int]], targets: Sequence[str],
                 copies: int = 0) -> list[float]:
        """What each answer is worth; `copies` of them stand side by side for each prompt (0: the group)."""
        copies = copies or self.group
        if self.model_reward:
            rows = [np.append(prompts[n // copies], answer) for n, answer in enumerate(answers)]
            return rewards.score(lambda answer, _: float(answer), [str(r) for r in self.model_reward(rows)],
                                 [""] * len(rows), self.name)
        assert self.check is not None
        texts = [self.codec.decode([t for t in answer if t not in self.ends]) for answer in answers]
        return rewards.score(self.check, texts, [t for t in targets for _ in range(copies)], self.name)

    def unpacked(self, batch: Batch) -> tuple[list[np.ndarray], list[str]]:
        """The prompts' ids and the right answers' texts."""
        prompts = [row[:n].numpy() for row, n in zip(batch["tokens"], batch["lengths"].tolist(), strict=True)]
        return prompts, [self.codec.decode(row[row >= 0].numpy()) for row in batch["targets"]]

    def train(self, mode: bool = True) -> "Rollouts":
        """The model itself never drops out: what is trained is what was drawn from."""
        super().train(mode)
        self.model.eval()
        return self

    def flops(self, of: Forward) -> float:
        """A prompt's share of a step: its answers are drawn and judged once, by the model and the frozen one, and are
        trained on in every epoch. Drawing counts as one pass over the whole row, though answers may end early and what
        is drawn again counts nowhere; so does a model that rewards."""
        once = 2 * of(self.model) + sum(of(network) for network in self.beside)
        return self.group * (once + self.epochs * super().flops(of)) / self.reuse

    def kept_rows(self, key: str) -> Tensor:
        """A field of the answers at hand."""
        return getattr(self, PREFIX + key)

    def after_step(self, step: int) -> None:
        """One more step."""
        super().after_step(step)
        self.clock += 1

    def after_skip(self) -> None:
        """One more step, that changed nothing."""
        super().after_skip()
        self.clock += 1

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As every module; the answers at hand have the size that they had."""
        for key in KEPT:
            setattr(self, PREFIX + key, torch.zeros_like(state_dict[PREFIX + key]))
        return super().load_state_dict(state_dict, strict, assign)


def whitened(values: Float[Tensor, "N L"], weight: Float[Tensor, "N L"]) -> Float[Tensor, "N L"]:
    """Mean 0 and variance 1 over the places that count, of all processes."""
    count = parallel.summed(weight.sum()).clamp(min=1)
    mean = parallel.summed((values * weight).sum()) / count
    spread = parallel.summed(((values - mean) ** 2 * weight).sum()) / count
    return (values - mean) * (spread + 1e-8).rsqrt() * weight


def _rows(made: Rollout) -> Batch:
    return {"tokens": made.tokens, "places": made.places, "weight": made.weight}
