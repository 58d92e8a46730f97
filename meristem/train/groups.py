"""Who is updated how: the optimizer, the share of the learning rate and the weight decay of every parameter.

    rules(objective, Train(optimizer="muon", groups=(Group("embed", lr=0.1), Group(r"blocks\\.[01]\\.", freeze=True))))

- Muon takes the matrices inside the network, AdamW embeddings, head, norms and biases; the others take everything.
  Vectors are not decayed.
- `train.groups`: rows with a regex, searched in the parameters' names ("model.blocks.0.attn.q.weight"). The
  first row that finds a name decides; a row that decides nothing is an error.
- `train.layer_decay`: block i of n gets lr * layer_decay^(n - i), embeddings the lowest, final norm and head the whole
  rate (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146; Clark et al. 2020, https://arxiv.org/abs/2003.10555).
- `train.base_width`: the maximal update parameterisation, so that the best rate of a narrow model is the best of a wide
  one with the same base (Yang et al. 2022, Tensor Programs V, https://arxiv.org/abs/2203.03466, table 8). At the base
  width itself nothing differs from a run without; 256 is a good one here. With m = width / base: hidden matrices start
  at their usual deviation / sqrt(m), and under Adam learn at lr / m; logits are divided by m.
  The divisor lives in the last norm's weight (it starts at 1 / m and learns at lr / m): no model format needs a field
  for it, and tied heads work. Muon's update has the spectral norm 0.2 sqrt(width) lr, which should not grow with width
  (Yang, Simon & Bernstein 2023, https://arxiv.org/abs/2310.17813, condition 1): it gets lr / sqrt(m). lr * decay stays
  what it was. Heads must keep their size; docs/optimizers.md has the sweep.
"""
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from meristem.core.errors import RequestError
from meristem.core.run import Group, Train
from meristem.nn.linear import Embedding
from meristem.nn.norm import LayerNorm, RMSNorm

FAMILIES = ("gpt2", "llama")            # whose matrices start with one deviation at every width: what m compares
TRANSFER = {"adamw": 1.0, "schedule_free": 1.0, "muon": 0.5}   # a hidden matrix learns at lr / m to this power


@dataclass(frozen=True)
class Rule:
    """How one parameter is updated: by which optimizer, at which share of the learning rate, with which decay."""

    kind: str
    lr: float
    decay: float


def rules(module: nn.Module, config: Train) -> dict[str, Rule]:
    """A rule for every trainable parameter of `module`, after freezing those that a row of `config.groups` freezes.

    RequestError: a regex that is none or finds nothing, a layer_decay outside (0, 1], a base_width without a transfer.
    """
    if not 0 < config.layer_decay <= 1:
        raise RequestError(f"train.layer_decay is {config.layer_decay}; it must be above 0 and at most 1")
    named = {n: p for n, p in module.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("no parameter is trainable")
    rows = assign(config.groups, named)
    for name, row in rows.items():
        if row.freeze:
            named.pop(name).requires_grad_(False)
    if not named:
        raise RequestError("train.groups freezes every parameter: nothing is left to train")
    inside = hidden(module)
    depth = depths(module) if config.layer_decay != 1 else {}
    wide, last = 1.0, set[int]()
    if config.base_width:
        if config.optimizer not in TRANSFER:
            raise RequestError(f"train.base_width means nothing to {config.optimizer}, whose steps follow the weights' "
                               f"own size; use {', '.join(TRANSFER)}")
        wide, norm = widening(module, config.base_width)
        last = {id(p) for p in norm.parameters()}
    made = {}
    for name, p in named.items():
        row = rows.get(name, Group(name))
        inner = name in inside
        kind = config.optimizer if config.optimizer != "muon" or inner else "adamw"
        lr = config.layer_decay ** depth.get(name, 0)
        decay = (config.weight_decay if p.ndim > 1 else 0.0) if row.decay is None else row.decay
        if config.base_width and (inner or id(p) in last):
            shrink = wide ** (TRANSFER[kind] if inner else 1.0)
            lr, decay = lr / shrink, decay * shrink
        made[name] = Rule(kind, lr * row.lr, decay)
    return made


def hidden(module: nn.Module) -> set[str]:
    """Names of the matrices inside the network: no vectors, no tables, no head."""
    tables = {id(layer.weight) for layer in module.modules() if isinstance(layer, Embedding)}
    return {name for name, p in module.named_parameters()
            if p.ndim > 1 and id(p) not in tables and not name.endswith("head.weight")}


def assign(groups: Sequence[Group], named: Mapping[str, nn.Parameter]) -> dict[str, Group]:
    """The first row whose regex finds each name, for the names that have one.

    RequestError: no regex, or one that finds nothing (with the nearest name) or nothing that is left to it.
    """
    rows: dict[str, Group] = {}
    for group in groups:
        try:
            found = [name for name in named if re.search(group.match, name)]
        except re.error as error:
            raise RequestError(f"train.groups: {group.match!r} is no regular expression: {error}") from None
        if not found:
            near = difflib.get_close_matches(group.match.replace("\\", ""), named, n=1, cutoff=0.0)
            raise RequestError(f"train.groups: no trainable parameter's name matches {group.match!r}; "
                               f"the nearest is {near[0]}")
        taken = {name: group for name in found if name not in rows}
        if not taken:
            raise RequestError(f"train.groups: all that {group.match!r} matches is matched by a row above it; "
                               "put it first")
        if not (group.lr >= 0 and (group.decay is None or group.decay >= 0)):
            raise RequestError(f"train.groups: lr and decay of {group.match!r} must not be negative")
        rows |= taken
    return rows


def depths(module: nn.Module) -> dict[str, int]:
    """How many blocks lie above each parameter, its own included: 0 after the last block, n + 1 before the first.

    RequestError for a module without a list of blocks. What is registered before the first block is taken to be below
    it, as in every family here; two stacks (T5) count each for itself.
    """
    stacks = [(f"{path}.", len(m)) for path, m in module.named_modules() if isinstance(m, nn.ModuleList)]
    stacks = [(path, n) for path, n in stacks if not any(path != p and path.startswith(p) for p, _ in stacks)]
    if not stacks:
        raise RequestError("train.layer_decay needs a model with blocks")
    made, begun = {}, False
    for name, _ in module.named_parameters():
        inside = next(((path, n) for path, n in stacks if name.startswith(path)), None)
        if inside:
            made[name] = inside[1] - int(name.removeprefix(inside[0]).partition(".")[0])
            begun = True
        else:
            made[name] = 0 if begun else 1 + max(n for _, n in stacks)
    return made


def widening(module: nn.Module, base_width: int) -> tuple[float, RMSNorm | LayerNorm]:
    """How many times as wide as `base_width` the model is, and the norm before its head; RequestError for families
    whose own initialisation follows the width."""
    family = next((m for m in module.modules() if type(m).__module__.rpartition(".")[2] in FAMILIES), None)
    table = next((m for m in module.modules() if isinstance(m, Embedding)), None)
    if family is None or table is None:
        raise RequestError(f"train.base_width is known for the families {', '.join(FAMILIES)} only")
    if base_width < 1:
        raise RequestError(f"train.base_width is {base_width}; it must be the width of a model")
    norm = next(m for m in family.children() if isinstance(m, RMSNorm | LayerNorm))
    return table.embedding_dim / base_width, norm


@torch.no_grad()
def widen(module: nn.Module, config: Train) -> None:
    """Give fresh weights the scale of `config.base_width`: hidden matrices / sqrt(m), the last norm / m."""
    if not config.base_width:
        return
    wide, norm = widening(module, config.base_width)
    inside = hidden(module)
    for name, p in module.named_parameters():
        if name in inside:
            p.div_(wide**0.5)
    for p in norm.parameters():
        p.div_(wide)
