"""Pipeline parallelism: the layers of a decoder over several processes, micro-batches flowing through them.

    pipeline = Pipeline(objective, group, schedule="1f1b")     # on every process of `group`, in the order of ranks
    sums = pipeline.backward(micro, share)                     # instead of objective(batch) and .backward() for each

GPipe: Huang et al. 2019, https://arxiv.org/abs/1811.06965 (all forward, then all backward; activations of every
micro-batch are kept). 1F1B: Narayanan et al. 2019, https://arxiv.org/abs/1806.03377 (each stage alternates, so at most
as many micro-batches as stages are kept). Both leave (stages - 1) / (micro-batches + stages - 1) of the time idle. The
schedules, sends and receives are `torch.distributed.pipelining`'s; this file cuts models and objectives for them.

Each process keeps the family's own `Model`, in which the layers of other stages are replaced by modules that do
nothing: no family knows that it was cut, and every tensor keeps its name. Every stage has the whole batch (data is a
function of the step), so only activations travel. A head tied to the embedding exists on the first and the last stage;
their gradients are added up, so both stay equal.
"""
import json
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.nn import moe
from meristem.nn.linear import Embedding
from meristem.objectives.base import Objective
from meristem.train.divided import alike, local

Kind = Literal["gpipe", "1f1b"]
SCHEDULES: dict[str, type[ScheduleGPipe] | type[Schedule1F1B]] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
T = TypeVar("T")
MODEL, EMBED, HEAD = "model.", "model.embed.weight", "model.head.weight"       # names in an objective's state
PARTS = {"embed", "place", "blocks", "norm", "head"}           # a decoder that can be cut has these children, or fewer
Sums = dict[str, Tensor]


class Enter(nn.Module):
    """Stands for the embedding in later stages: ids -> the activations that were received."""

    x: Tensor

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What `x` was set to."""
        return self.x


class Nothing(nn.Module):
    """Stands for a table that is added to the embedding (learned positions): 0."""

    def forward(self, ids: Int[Tensor, "..."]) -> Float[Tensor, ""]:
        """A scalar zero."""
        return torch.zeros((), device=ids.device)


class Skip(nn.Module):
    """Stands for a block of another stage: x -> x."""

    def forward(self, x: Float[Tensor, "B T D"], *rest: object) -> Float[Tensor, "B T D"]:
        """The first argument."""
        return x


class Leave(nn.Module):
    """Stands for the last norm in earlier stages: keeps what comes out of the stage's last block."""

    x: Tensor

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """x -> x, kept."""
        self.x = x
        return x


class Owed(torch.autograd.Function):
    """x -> x; its backward also sends a gradient of 1 into a loss owed here (Megatron-LM's auxiliary losses)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        """Keeps nothing."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The loss is a scalar."""
        return grad, torch.ones((), dtype=torch.float32, device=grad.device)


def layers_of(model: nn.Module, stages: int) -> int:
    """How many blocks a decoder has; RequestError where it cannot be cut into `stages` equal runs of them."""
    children = dict(model.named_children())
    blocks = children.get("blocks")
    if not isinstance(blocks, nn.ModuleList) or set(children) - PARTS or PARTS - {"place"} - set(children):
        raise RequestError("this model family cannot be cut into pipeline stages (decoders of blocks between an "
                           "embedding and a norm and head can); use pp=1")
    if stages < 1 or len(blocks) % stages:
        raise RequestError(f"{len(blocks)} layers do not divide into pp={stages} stages; "
                           f"pp may be {', '.join(str(n) for n in range(1, len(blocks) + 1) if len(blocks) % n == 0)}")
    return len(blocks)


def cut(model: nn.Module, stage: int, stages: int) -> None:
    """Leave in `model` what the stage-th of `stages` stages runs, in place; names stay. RequestError: see
    `layers_of`."""
    each = layers_of(model, stages) // stages
    blocks = model.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    for i in range(len(blocks)):
        if i // each != stage:
            blocks[i] = Skip()
    if stage > 0:
        for name, child in list(model.named_children()):
            if isinstance(child, Embedding):
                model.set_submodule(name, Enter() if name == "embed" else Nothing())
    if stage < stages - 1:
        model.set_submodule("norm", Leave())
        model.set_submodule("head", nn.Identity())


class Stage(nn.Module):
    """What torch's schedule calls: (activations, micro-batch number) -> activations, or logits on the last stage."""

    def __init__(self, objective: Objective, first: bool, last: bool, layers: int):
        super().__init__()
        self.objective, self.first, self.last, self.layers = objective, first, last, layers
        self.micro: Sequence[Batch] = ()
        self.share = 1.0
        self.sums: Sums = {}

    def forward(self, x: Tensor, number: Int[Tensor, "1"]) -> Tensor:
        """The objective's own inputs go to every stage; `x` replaces their embedding in all but the first."""
        objective, batch = self.objective, self.micro[int(number)]
        if not self.first:
            objective.model.get_submodule("embed").x = x
        out = objective.model(**objective.inputs(batch))
        if not self.last:
            out = objective.model.get_submodule("norm").x
        trained = [layer for layer in objective.routed if layer.training]
        if not trained or not torch.is_grad_enabled():
            return out
        (owed, balance), weight = moe.settle(trained), objective.weight(batch)
        self.add("loss", owed * weight)
        self.add("balance", balance * weight * len(trained) / self.layers)     # their mean over all stages' layers
        return Owed.apply(out, (owed * weight / self.share).float())

    def loss(self, output: Float[Tensor, "B T V"], number: Int[Tensor, "1"]) -> Float[Tensor, ""]:
        """The objective's score of one micro-batch, over the step's share."""
        loss, facts = self.objective.score(output, self.micro[int(number)])
        for name, value in {"loss": loss, **facts}.items():
            self.add(name, value)
        return loss / self.share

    def add(self, name: str, value: Tensor) -> None:
        """Sum up a fact of this stage, in fp32."""
        self.sums[name] = self.sums.get(name, torch.zeros((), device=value.device)) + value.detach().float()


class Pipeline:
    """One stage of an objective's model; every method but `own` must be called by all processes of the group.

    Build it before the optimizer: it drops the parameters of the other stages from `objective.model`.
    """

    def __init__(self, objective: Objective, group: dist.ProcessGroup | None = None, schedule: Kind = "1f1b"):
        if schedule not in SCHEDULES:
            raise RequestError(f"no pipeline schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
        self.objective, self.group, self.schedule = objective, group, schedule
        self.rank, self.stages = dist.get_rank(group), dist.get_world_size(group)
        model = objective.model
        routed = len(objective.routed)
        layers_of(model, self.stages)
        embed, head = model.get_submodule("embed"), model.get_submodule("head")
        assert isinstance(embed, Embedding) and isinstance(head, nn.Linear)
        self.width, self.device, self.table = embed.embedding_dim, embed.weight.device, embed
        self.tied = self.stages > 1 and head.weight is embed.weight
        ends = {0: embed.weight, self.stages - 1: head.weight} if self.tied else {}
        self.twin: Tensor | None = ends.get(self.rank)         # this stage's half of a tied table
        cut(model, self.rank, self.stages)
        objective.routed = moe.layers(model)
        self.stage = Stage(objective, self.rank == 0, self.rank == self.stages - 1, max(1, routed))
        self.names = {name for name, _ in objective.state_dict().items()}
        self.always = {"loss", "balance"} if routed else {"loss"}
        self.facts: list[str] = []                             # what the last stage tells, learned in the first step
        self.built: dict[tuple[Any, ...], ScheduleGPipe | Schedule1F1B] = {}

    def backward(self, micro: Sequence[Batch], share: float) -> Sums:
        """Gradients of the summed loss over `share` into `.grad`; the summed loss and facts, equal on every stage.

        The micro-batches must have one shape. RequestError where there are fewer of them than 1F1B needs.
        """
        if self.schedule == "1f1b" and len(micro) < self.stages:
            raise RequestError(f"1f1b needs at least as many micro-batches as stages: {len(micro)} for "
                               f"pp={self.stages}; set train.micro lower, or use gpipe")
        self.run(micro, share, train=True)
        for p in self.objective.parameters():                  # a table divided over tp gets a whole gradient
            if p.grad is not None:
                p.grad = alike(p.grad, p)
        if self.twin is not None:
            self.add_twins()
        return self.shared()

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> Sums:
        """Forward only: the summed loss and facts of already prepared batches, equal on every stage."""
        alike: dict[tuple[Any, ...], list[Batch]] = {}
        for batch in batches:
            alike.setdefault(tuple(batch["tokens"].shape), []).append(batch)
        for some in alike.values():
            self.run(some, 1.0, train=False)
        return self.shared()

    def run(self, micro: Sequence[Batch], share: float, train: bool) -> None:
        """Send the micro-batches through the stages; what they score is in `stage.sums` afterwards."""
        stage, numbers = self.stage, torch.arange(len(micro))
        stage.micro, stage.share = micro, share
        schedule = self.scheduled(micro, train)
        call = schedule.step if train else schedule.eval
        call(*(() if self.rank else (numbers,)), target=numbers if stage.last else None, return_outputs=False,
             number=numbers)

    def scheduled(self, micro: Sequence[Batch], train: bool) -> ScheduleGPipe | Schedule1F1B:
        """The schedule for so many micro-batches of this shape; buffers are kept from step to step."""
        rows, length = self.objective.inputs(micro[0])["tokens"].shape
        key = (len(micro), rows, length, train)
        if key not in self.built:
            kind = self.schedule if train else "gpipe"
            dtype = self.table.compute or self.table.weight.dtype
            between = torch.empty(rows, length, self.width, dtype=dtype, device="meta", requires_grad=train)
            first = torch.empty(1, dtype=torch.int64, device="meta")
            stage = PipelineStage(self.stage, self.rank, self.stages, self.device, group=self.group,
                                  input_args=between if self.rank else first, output_args=between)
            self.built[key] = SCHEDULES[kind](stage, len(micro), self.stage.loss, scale_grads=False)
        return self.built[key]

    def shared(self) -> Sums:
        """The facts of all stages added up, and forgotten."""
        sums, self.stage.sums = self.stage.sums, {}
        if not self.facts:                                     # only the last stage knows what an objective tells
            self.facts = json.loads(self.told(json.dumps(sorted({*sums, *self.always})), self.stages - 1))
        zero = torch.zeros((), device=self.device)
        values = torch.stack([sums.get(name, zero) for name in self.facts])
        dist.all_reduce(values, group=self.group)
        return dict(zip(self.facts, values.unbind(), strict=True))

    def add_twins(self) -> None:
        """Sum the gradients of the tied table over the first and the last stage."""
        assert self.twin is not None and self.twin.grad is not None
        mine = local(self.twin.grad)
        other = torch.empty_like(mine)
        peer = self.stages - 1 if self.rank == 0 else 0
        for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, mine, group=self.group, group_peer=peer),
                                            dist.P2POp(dist.irecv, other, group=self.group, group_peer=peer)]):
            work.wait()
        mine.add_(other)                                       # a + b is b + a, to the last bit

    def gather(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """The whole model's tensors on the first stage, from what each stage has; {} on the others.

        `named` has names of the objective's state, or of an optimizer's ("parameter:moment").
        """
        mine = {n: t.contiguous() for n, t in self.kept(named).items()}
        shapes = json.dumps([[n, str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in mine.items()])
        whole = {} if self.rank else mine
        for source in range(1, self.stages):
            for name, dtype, shape in json.loads(self.told(shapes, source)):
                if self.rank == source:
                    dist.send(mine[name].to(self.device), group=self.group, group_dst=0)
                elif self.rank == 0:
                    whole[name] = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
                    dist.recv(whole[name], group=self.group, group_src=source)
        return whole

    def kept(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """What this stage has to say of the whole model, or of its moments; the first says what is not the model's."""
        if self.rank:
            return {n: t for n, t in named.items() if n.startswith(MODEL) and not self.copy(n)}
        return {**named, HEAD: named[EMBED]} if self.tied and EMBED in named else named

    def own(self, named: dict[str, T]) -> dict[str, T]:
        """This stage's share of the whole model's tensors: the inverse of `gather`, without communication."""
        mine = {name: t for name, t in named.items() if name.partition(":")[0] in self.names}
        if self.tied and self.stage.last:                      # its moments are kept under the embedding's name
            mine |= {HEAD + name[len(EMBED):]: t for name, t in named.items() if name.partition(":")[0] == EMBED}
        return mine

    def copy(self, name: str) -> bool:
        """Whether a name is the last stage's copy of a tied table, or of its moments."""
        return self.tied and self.stage.last and name.partition(":")[0] == HEAD

    def told(self, text: str, source: int) -> str:
        """The text of the stage `source`, on every stage."""
        data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(self.device)
        size = torch.tensor([len(data)], device=self.device)
        dist.broadcast(size, group=self.group, group_src=source)
        data = data if self.rank == source else torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        dist.broadcast(data, group=self.group, group_src=source)
        return bytes(data.cpu().numpy()).decode()
