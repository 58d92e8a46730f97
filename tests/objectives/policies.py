"""Small policies that several processes train, or that are compiled: what spawned processes import, without oracles."""
from typing import Any

import torch
import torch._dynamo

from meristem.codecs import bpe
from meristem.core.errors import RequestError
from meristem.core.mesh import Mesh
from meristem.core.run import Train
from meristem.data.conversations import Reader
from meristem.data.questions import Questions
from meristem.models.llama import Config, Model
from meristem.nn.linear import compute_in
from meristem.objectives.grpo import Grpo
from meristem.objectives.ppo import Ppo
from meristem.objectives.rollouts import Rollouts
from meristem.train.many import spread
from meristem.train.mesh import join
from meristem.train.processes import One
from meristem.train.trainer import Trainer, compile_regions

ROWS = [{"prompt": f"what of {n}?", "answer": str(n)} for n in range(12)]
CODEC = bpe.fit(["what of 2 and 7 is it no or yes\n" * 9], 270)
MANY: dict[str, dict[str, Any]] = {"grpo": {"beta": 0.1}, "ppo": {"epochs": 2, "beta": 0.05}}


def spaces(answer: str, right: str) -> float:
    """A reward that a small model learns at once: more spaces."""
    return float(answer.count(" "))


def of(name: str, dtype: torch.dtype = torch.float32, **fields: Any) -> Rollouts:
    """A policy whose weights are all away from zero."""
    torch.manual_seed(0)
    model = Model(Config(vocab=CODEC.vocab, context=64, dim=32, layers=2, heads=4))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.05)
    kind: Any = Ppo if name == "ppo" else Grpo
    more = {} if name == "ppo" else {"group": 4}
    return kind(compute_in(model, dtype), Reader(CODEC), spaces, length=10, **more, **fields)


def questions(objective: Rollouts) -> Questions:
    """Four prompts a step."""
    return Questions(ROWS, Reader(CODEC), 32, objective.length, 4, 0)


def steps_of(name: str, mesh: str, fields: dict[str, Any], **train: Any) -> dict[str, Any]:
    """Four steps on one of the processes of a mesh, or alone: rewards, losses, the first ratio, norms of weights."""
    objective = of(name, **fields)
    config = Train(**{"steps": 4, "batch": 4, "mesh": mesh, "shard": False, "warmup": 1, "dtype": "float32",
                      "compile": False, "guard": False, "weight_decay": 0.0, "lr": 3e-3, **train})
    processes = spread(objective, config, join(Mesh.of(mesh))) if mesh else One()
    facts: list[dict[str, Any]] = []
    Trainer(objective, questions(objective), config, processes=processes,
            hooks=[lambda trainer, seen: facts.append(dict(seen))]).fit()
    return {"reward": [f["reward"] for f in facts], "ratio": facts[0]["ratio"], "loss": [f["loss"] for f in facts],
            "weights": [float(p.detach().double().norm()) for p in objective.model.parameters()],
            "tokens": objective.rolled_tokens.shape[0]}


def together() -> dict[str, Any]:
    """The steps of every policy on two processes, and what one with divided weights says."""
    found: dict[str, Any] = {name: steps_of(name, "dp=2", fields) for name, fields in MANY.items()}
    try:
        steps_of("grpo", "dp=2", {}, shard=True)
    except RequestError as error:
        found["sharded"] = str(error)
    return found


def compiled(dtype: str) -> str:
    """The largest gap of a log-probability between sampler and trainer, the first ratio, and whether it is compiled."""
    objective = of("grpo", getattr(torch, dtype)).train()
    compile_regions(objective)
    torch.manual_seed(3)
    with torch.no_grad():
        rows = objective.prepare(questions(objective)(0)[0])
    output = objective.output(rows)
    facts = objective.score(output, rows)[1]
    gap = float((output["logp"].detach() - rows["logp"]).abs().max())
    ran = torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    return f"{gap} {float(facts['ratio'] / objective.weight(rows))} {ran}"
