"""A run on a mesh of devices that are not here: what lies where, memory, communication, time, energy, money.

    found = place(run, "h100-sxm")                             # run.train.mesh = "dp=64,tp=8,pp=4"; nothing is computed
    print("\n".join(found.explain()))

The model is built on the meta device and divided by the rules that divide a real one (`train.pipeline`,
`train.tensor`), so a mesh that a run would refuse is refused here. Bytes follow `plan.cost`: what this code keeps.
Seconds are those of the busiest stage: its arithmetic at REACHED of the device's peak, then its messages at LINKED of
its links, over (micro-batches + stages - 1) turns of a pipeline, then what happens once a step. REACHED is fitted to
one published run, Megatron-Turing NLG 530B on 2,240 A100s (Smith et al. 2022, https://arxiv.org/abs/2201.11990 section
2.4: 60.1 s a step); its runs on 2,800 and 3,360 check the rest (tests/train/test_placement.py). No figure of it was
measured with this code on such devices.
"""
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel

from meristem.core import registry
from meristem.core.config import build
from meristem.core.errors import RequestError
from meristem.core.mesh import AXES, Mesh
from meristem.core.run import Run
from meristem.nn import moe
from meristem.nn.attention import Attention
from meristem.nn.linear import Linear
from meristem.nn.moe import Experts
from meristem.plan import energy
from meristem.plan.cost import LOGIT_BYTES, RUNTIME, SCORE_BYTES, Cost, stored
from meristem.plan.devices import Device, device
from meristem.train import tensor
from meristem.train.mesh import refuse_uneven
from meristem.train.pipeline import layers_of

REACHED = 0.54                          # of peak, by the layers' arithmetic alone
LINKED = 0.75                           # of a link's rate, by large messages
BRIEF = 0.01                            # seconds: shorter turns of a stage hang on latencies, which are not counted
DAY = 86_400


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline on one of its devices: bytes by use, bytes sent a step, seconds."""

    name: str                           # "embedding, layers 0 to 2"
    layers: int
    processes: tuple[int, int]          # first and last
    parameters: int
    memory: dict[str, int]
    recomputed: dict[str, int]          # the same with train.recompute
    sent: dict[str, float]              # by axis, bytes a step
    turn: float                         # seconds of a micro-batch, forward and backward
    after: float                        # seconds once a step: gradients, optimizer
    compute: float                      # seconds of arithmetic in `turn`


@dataclass(frozen=True)
class Placement:
    """A run on a mesh: `stages` and what follows from them."""

    mesh: str
    device: str
    devices: int
    nodes: int
    memory: int                         # bytes of one device
    micro: int                          # micro-batches a step
    recompute: bool
    stages: tuple[Stage, ...]
    step_seconds: float
    waiting: float                      # share of a step in which a stage has nothing to do
    tokens_per_second: float
    utilisation: float                  # model FLOPs, whole attention square, over peak (PaLM, appendix B)
    days: float
    megawatt_hours: float | None        # None: the maker rates no watts
    dollars: float | None = field(default=None)

    @property
    def fullest(self) -> Stage:
        """The stage that needs most memory."""
        return max(self.stages, key=lambda s: sum(s.memory.values()))

    def explain(self) -> list[str]:
        """Lines for people."""
        full = self.fullest
        need, other = sum(full.memory.values()), sum(full.recomputed.values())
        lines = [f"mesh {self.mesh}: {self.devices:,} x {self.device} in {self.nodes:,} node{'s' * (self.nodes > 1)}, "
                 f"{self.micro} micro-batches a step"]
        for first, last in _alike(self.stages):
            span = f"stage {first}" if first == last else f"stages {first} to {last}"
            a, b = self.stages[first], self.stages[last]
            name = a.name if first == last else f"{a.layers} layers each"
            lines.append(f"  {span} (processes {a.processes[0]:,} to {b.processes[1]:,}): {name}; "
                         f"{a.parameters / 1e6:,.4g} M parameters a device")
        uses = ", ".join(f"{use} {size / 1e9:.3g}" for use, size in full.memory.items() if size >= 5e6)
        lines.append(f"memory of the fullest device, GB: {uses}; in all {need / 1e9:.3g} of {self.memory / 1e9:.3g}")
        if not self.recompute:
            lines.append(f"  with recomputation (train.recompute=true): {other / 1e9:.3g}")
        if need > self.memory:
            lines.append("  it does NOT fit: " + ("turn recomputation on" if other <= self.memory and not self.recompute
                                                  else "more tp or pp, fewer rows in train.micro"))
        busiest = max(self.stages, key=lambda s: sum(s.sent.values()))
        if sent := ", ".join(f"{axis} {size / 1e9:.3g}" for axis, size in busiest.sent.items() if size):
            lines.append(f"sent by a device in a step, GB: {sent}")
        lines.append(f"step: {self.step_seconds:.3g} s predicted, {self.waiting:.0%} of it waiting for other stages; "
                     f"{self.tokens_per_second:,.0f} tokens/s, {self.utilisation:.1%} of peak")
        if max(s.turn for s in self.stages) < BRIEF:
            lines.append("  so short a step hangs on latencies, which are not counted: expect it to take longer")
        spent = "" if self.megawatt_hours is None else f", {self.megawatt_hours:,.3g} MWh"
        money = "" if self.dollars is None else f", {self.dollars:,.0f} dollars"
        return [*lines, f"the run: {self.days:.3g} days{spent}{money}"]


def place(run: Run, name: str, vocab: int = 0, price: float = 0.0) -> Placement:
    """Lay `run` out on its `train.mesh` of devices called `name`; `price` in dollars a device-hour.

    `vocab`: of a codec that is not fitted yet; 0: its `vocab` field. RequestError for an unknown device, and where the
    mesh does not fit the model, the batch or whole nodes.
    """
    return _Layout(run, device(name), vocab or int(run.data.codec.fields.get("vocab", 256))).placement(name, price)


class _Layout:
    """The rules that a run's mesh, model and batch give; all byte and FLOP counts are of one device."""

    def __init__(self, run: Run, kind: Device, vocab: int):
        t, self.run, self.kind, self.mesh = run.train, run, kind, Mesh.of(run.train.mesh)
        self.bytes = 2 if t.dtype == "bfloat16" else 4
        self.peak = kind.flops(t.dtype)
        entry = registry.load("models", run.model.name)
        config = build(entry.Config, run.model, **{"context": t.context, **run.model.fields, "vocab": vocab})
        with torch.device("meta"):
            self.model: nn.Module = entry.Model(config)
        self.cost = Cost.of(self.model, t.context)
        m = self.mesh
        self.styles: dict[str, ParallelStyle] = tensor.plan(self.model, m.tp) if m.tp > 1 else {}
        children = dict(self.model.named_children())
        blocks = children.get("blocks")
        self.blocks = list(blocks) if isinstance(blocks, nn.ModuleList) else [
            b for c in self.model.modules() if isinstance(c, nn.ModuleList) for b in c]
        self.prefixes = {block: name for name, block in self.model.named_modules() if block in set(self.blocks)}
        self.each = layers_of(self.model, m.pp) // m.pp if m.pp > 1 else len(self.blocks)
        micro = t.micro or t.batch
        self.count = math.ceil(t.batch / micro)
        self.refuse(micro)
        self.tokens = micro // m.rows * t.context // m.cp      # of a micro-batch, on one device
        self.sharing = m.dp * m.cp * m.ep
        self.sharded = t.shard and m.pp == 1 and self.sharing > 1
        head, embed = children.get("head"), children.get("embed")
        self.tied = isinstance(head, nn.Linear) and isinstance(embed, nn.Embedding) and head.weight is embed.weight

    def refuse(self, micro: int) -> None:
        """RequestError where something does not divide."""
        m, t = self.mesh, self.run.train
        refuse_uneven(t, m)
        experts = [len(e.gate) for e in self.model.modules() if isinstance(e, Experts)]
        if m.world > self.kind.node and m.world % self.kind.node:
            raise RequestError(f"mesh {m} has {m.world} processes, which do not fill nodes of {self.kind.node}")
        if t.batch % micro:
            raise RequestError(f"train.batch={t.batch} is no multiple of train.micro={micro}")
        if t.context % m.cp:
            raise RequestError(f"train.context={t.context} does not divide into cp={m.cp} equal parts")
        if m.ep > 1 and (not experts or any(e % m.ep for e in experts)):
            raise RequestError(f"{experts[0] if experts else 'no'} experts do not divide into ep={m.ep} equal parts")
        if m.pp > 1 and t.pipeline == "1f1b" and self.count < m.pp:
            raise RequestError(f"1f1b needs at least as many micro-batches as stages: {self.count} for pp={m.pp}; "
                               "set train.micro lower, or use gpipe")

    def placement(self, name: str, price: float) -> Placement:
        """The answer."""
        m, t, count = self.mesh, self.run.train, self.count
        stages = tuple(self.stage(s) for s in range(m.pp))
        turn = max(s.turn for s in stages)
        step = (count + m.pp - 1) * turn + max(s.after for s in stages)
        rate = t.batch * t.context / step
        hours = t.steps * step / 3600 * m.world
        watts = self.kind.watts
        return Placement(
            mesh=str(m), device=name, devices=m.world, nodes=math.ceil(m.world / self.kind.node),
            memory=self.kind.memory, micro=count, recompute=t.recompute, stages=stages, step_seconds=step,
            waiting=(m.pp - 1) * turn / step, tokens_per_second=rate,
            utilisation=rate * self.cost.training_flops_full / (m.world * self.peak), days=t.steps * step / DAY,
            megawatt_hours=energy.megawatt_hours(hours, watts) if watts else None,
            dollars=hours * price if price else None)

    def stage(self, s: int) -> Stage:
        """One stage, on any of its devices."""
        m, t = self.mesh, self.run.train
        mine = self.blocks[s * self.each: (s + 1) * self.each]
        first, last = s == 0, s == m.pp - 1
        across = m.world // m.pp
        tables = {"embedding": first, f"layers {s * self.each} to {s * self.each + len(mine) - 1}": True,
                  "norm and head": last}
        parameters = sum(self.part(n, p.numel()) for n, p in self.owned(s))
        sent = self.sent(mine, first, last, parameters)
        passes = 4 if t.recompute else 3
        flops = passes * sum(Cost.of(b, t.context).forward_flops for b in mine) / m.tp
        if last:
            flops += 3 * 2 * self.cost.width * self.cost.vocab / m.tp
        compute = self.tokens * flops / (self.peak * REACHED)
        gathered = sent["dp"] * 2 / 3 if self.sharded else 0.0                 # twice weights to once gradients
        within = {axis: size / self.count / self.rate(axis) for axis, size in sent.items() if axis != "dp"}
        turn = max(compute + sum(within.values()), gathered / self.count / self.rate("dp"))
        state = parameters // (self.sharing if self.sharded else 1)
        touched = state * (4 * 3 + 2 * self.moments())                         # read all, write weights and moments
        after = (sent["dp"] - gathered) / self.rate("dp") + touched / self.kind.bandwidth
        return Stage(", ".join(k for k, v in tables.items() if v), len(mine), (s * across, (s + 1) * across - 1),
                     parameters,
                     self.memory(s, mine, parameters, t.recompute), self.memory(s, mine, parameters, True), sent, turn,
                     after, compute)

    def owned(self, s: int) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of a stage; a tied table lies on the first and the last."""
        last = self.mesh.pp - 1
        for name, p in self.model.named_parameters():
            top, _, rest = name.partition(".")
            number = rest.partition(".")[0]
            at = int(number) // self.each if top == "blocks" and last else 0 if top in ("embed", "place") else last
            if at == s or (self.tied and name == "embed.weight" and s == last):
                yield name, p

    def part(self, name: str, size: int) -> int:
        """How many of a parameter's numbers lie on one device before dp divides them."""
        layer, _, which = name.rpartition(".")
        style = self.styles.get(layer)
        if isinstance(style, ColwiseParallel) or (isinstance(style, RowwiseParallel) and which == "weight"):
            return size // self.mesh.tp
        return size // self.mesh.ep if layer.endswith("experts") else size

    def moments(self) -> float:
        """Bytes of the optimizer's state a parameter."""
        t = self.run.train
        return self.cost.memory(1, t.optimizer, t.ema > 0)["moments"] / self.cost.parameters

    def memory(self, s: int, mine: list[nn.Module], parameters: int, recompute: bool) -> dict[str, int]:
        """Bytes by use of a device of stage `s`."""
        m, t = self.mesh, self.run.train
        state = parameters // (self.sharing if self.sharded else 1)
        flight = 1 if m.pp == 1 else self.count if t.pipeline == "gpipe" else min(self.count, m.pp - s)
        kept = [self.kept(b) for b in mine]
        linear = [sum(self.part(f"{name}.weight", x.weight.numel()) for name, x in self.linears(b)) for b in mine]
        expert = [sum(p.numel() for e in b.modules() if isinstance(e, Experts) for p in e.parameters()) // m.ep
                  for b in mine]
        whole = [a + b for a, b in zip(linear, expert, strict=True)]
        head = self.part("head.weight", self.cost.width * self.cost.vocab) if s == m.pp - 1 else 0
        cast = (2 if self.bytes == 2 else 0) * ((max(whole) if recompute else sum(whole) * flight) + head)
        inner = self.bytes * self.cost.width * len(mine) * flight + max(kept) if recompute else sum(kept) * flight
        return {"weights": 4 * state, "gradients": 4 * state, "moments": round(self.moments() * state),
                "gathered": 4 * (2 * max(whole) + head) if self.sharded else 0, "casts": cast,
                "activations": self.tokens * inner,
                "logits": self.tokens * self.cost.vocab * (LOGIT_BYTES if self.bytes == 2 else 20) if head else 0,
                "runtime": RUNTIME}

    def linears(self, block: nn.Module) -> Iterator[tuple[str, Linear]]:
        """A block's linear layers under the model's names for them."""
        for name, layer in block.named_modules(prefix=self.prefixes[block]):
            if isinstance(layer, Linear):
                yield name, layer

    def kept(self, block: nn.Module) -> int:
        """Bytes a token that a block keeps for its backward pass, as `plan.cost` counts them, over tp."""
        t, tp, total = self.run.train, self.mesh.tp, 0.0
        for name, x in self.linears(block):
            style = self.styles.get(name)
            total += self.bytes / 2 * (x.in_features / (tp if isinstance(style, RowwiseParallel) else 1)
                                       + x.out_features / (tp if isinstance(style, ColwiseParallel) else 1))
        for a in (a for a in block.modules() if isinstance(a, Attention)):
            keys = stored(a.reach, t.context) if self.mesh.cp == 1 else t.context
            total += round((SCORE_BYTES - 4 + 2 * self.bytes) * a.heads * keys) / tp + 4 * self.cost.width
        for layer in moe.layers(block):
            _, hidden, dim = layer.experts.gate.shape
            total += layer.top_k * self.bytes / 2 * 3 * (dim + hidden)
        return round(total)

    def sent(self, mine: list[nn.Module], first: bool, last: bool, parameters: int) -> dict[str, float]:
        """Bytes that a device sends in a step, by axis; sums travel in rings: 2 (n - 1) / n of what is summed."""
        m, t, count = self.mesh, self.run.train, self.count
        x = self.tokens * self.cost.width * self.bytes
        again = 1 if t.recompute else 0
        styles = [self.styles.get(name) for b in mine for name, _ in self.linears(b)]
        sums = (1 + again) * sum(isinstance(style, RowwiseParallel) for style in styles)
        sums += sum(isinstance(style, ColwiseParallel) for style in styles) + first + last
        logits = self.tokens * self.cost.vocab * self.bytes if last else 0
        keys = sum(2 * a.groups * a.head_dim for b in mine for a in b.modules() if isinstance(a, Attention)) / m.tp
        routed = sum(layer.top_k for b in mine for layer in moe.layers(b))
        found = {
            "pp": float(x * (2 - first - last) * count),       # forward to the next, gradients to the one before
            "dp": self.over_data(parameters),
            "cp": _rest(m.cp) * self.tokens * keys * self.bytes * (2 + again) * count,
            "ep": _rest(m.ep) * x * routed * (4 + 2 * again) * count,
            "tp": _rest(m.tp) * (2 * x * sums + logits) * count}
        return {axis: found[axis] for axis in AXES}

    def over_data(self, parameters: int) -> float:
        """Bytes that a device sends for gradients, and for weights where dp divides them, which each micro-batch
        gathers twice."""
        each = _rest(self.sharing) * 4 * parameters
        return each * (2 * self.count + 1) if self.sharded else 2 * each

    def rate(self, axis: str) -> float:
        """Bytes/s of an axis: its processes are neighbours in a node, or not."""
        sizes = dict(zip(AXES, self.mesh.sizes, strict=True))
        inside = math.prod(sizes[a] for a in AXES[AXES.index(axis) + 1:])
        span = inside * (2 if axis == "pp" else sizes[axis])                   # a stage speaks to the next one only
        return LINKED * (self.kind.link if span <= self.kind.node else self.kind.network)


def _rest(count: int) -> float:
    """(n - 1) / n: the share of a thing that a ring sends on from each of n processes."""
    return (count - 1) / count


def _alike(stages: tuple[Stage, ...]) -> list[tuple[int, int]]:
    """First and last of each run of stages with as many parameters a device: the middle ones are one line."""
    runs: list[list[int]] = []
    for i, stage in enumerate(stages):
        middle = 0 < i < len(stages) - 1
        if runs and middle and runs[-1][0] > 0 and stages[runs[-1][0]].parameters == stage.parameters:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return [(a, b) for a, b in runs]
