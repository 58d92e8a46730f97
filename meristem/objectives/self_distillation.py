"""Self-distillation without labels: a student says of one view of a picture what its teacher says of another.

DINOv2: Oquab et al. 2023, https://arxiv.org/abs/2304.07193, section 4: the DINO loss between class tokens (Caron et al.
2021, https://arxiv.org/abs/2104.14294, algorithm 1), the iBOT loss of hidden patches (Zhou et al. 2021,
https://arxiv.org/abs/2111.07832, equation 2), and KoLeo, which spreads vectors out (Sablayrolles et al. 2018,
https://arxiv.org/abs/1806.03198, equation 2). The teacher is the moving average of the student. What keeps all pictures
from getting one answer is `centre`: "sinkhorn" balances the teacher's answers over a batch (Caron et al. 2020,
https://arxiv.org/abs/2006.09882, appendix A), "mean" subtracts their running mean (DINO, equation 4), "none" does
nothing, and collapses.

    meristem pretrain dino data.corpus=PICTURES

`spread` in the log says how far apart the vectors lie: 0 all in one direction, 1 in all. A run in which it stays next
to 0 is ended with a line that says so.
"""
import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core import parallel
from meristem.core.config import from_dict
from meristem.core.errors import MachineError, RequestError
from meristem.core.types import Batch
from meristem.data.views import Look, crops, hidden
from meristem.nn.image import between
from meristem.nn.linear import Linear
from meristem.objectives.base import Forward, Objective

GLOBAL = 2                              # large views, which the teacher sees too
STUDENT = 0.1                           # the student's temperature (DINO, section 3.1)
ROUNDS = 3                              # of Sinkhorn-Knopp
KEPT = 0.9                              # decay of the running mean
SMALL = (0.05, 0.4)                     # of the picture, that a small view shows (DINO, appendix E)
FROZEN = 1000                           # steps before prototypes learn: else they soon all agree, and say nothing of
                                        # a picture (DINO, appendix C: one epoch; SwAV, appendix A: 5,005 steps)
SHARE, CHANCE = (0.1, 0.5), 0.5         # of the patches that are hidden, in how many of the views (iBOT, appendix)
FLAT, PATIENCE = 0.02, 100              # a spread below this for so many steps in a row is a collapse


class Standard(nn.Module):
    """Batch normalisation by the rows of this call, all processes' together, without weights (Ioffe & Szegedy 2015,
    equation 1)."""

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """[..., D] -> [..., D], each column with mean 0 and deviation 1; the arithmetic in fp32."""
        rows = x.float().flatten(0, -2)
        mean = parallel.mean(rows.mean(0))
        spread = parallel.mean((rows - mean).square().mean(0))
        return ((x - mean) * (spread + 1e-5).rsqrt()).to(x.dtype)


class Head(nn.Module):
    """Vectors -> how well each prototype fits: an MLP, then cosines in a narrow space (DINO, appendix C)."""

    def __init__(self, dim: int, hidden: int, narrow: int, prototypes: int, standard: bool = False):
        super().__init__()
        norms = [Standard() if standard else nn.Identity() for _ in range(2)]
        self.layers = nn.Sequential(Linear(dim, hidden), norms[0], nn.GELU(), Linear(hidden, hidden), norms[1],
                                    nn.GELU(), Linear(hidden, narrow))
        self.prototypes = nn.Parameter(torch.randn(prototypes, narrow))
        self.frozen = False
        for layer in self.layers:
            if isinstance(layer, Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B K"]:
        """[..., D] -> [..., K], fp32 cosines."""
        prototypes = self.prototypes.detach() if self.frozen else self.prototypes
        return F.normalize(self.layers(x).float(), dim=-1) @ F.normalize(prototypes, dim=-1).T


class SelfDistillation(Objective):
    """Summed over pictures: dino + `ibot` x ibot + `koleo` x koleo; facts: the three, and `spread`.

    `look` are fields of `data.views.Look` for all views, and `small`, the area of the `local` ones of half the side.
    `temperature` is the teacher's; `momentum` the share of the teacher that a step keeps. `standard`: batch norms in
    the heads, which make the answers to different pictures differ from the first step on (DINO, appendix C), so that
    short runs learn; micro-batches then have means of their own.
    """

    def __init__(self, model: nn.Module, prototypes: int = 512, hidden: int = 512, narrow: int = 64,
                 ibot: float = 1.0, koleo: float = 0.1, centre: Literal["sinkhorn", "mean", "none"] = "sinkhorn",
                 momentum: float = 0.99, temperature: float = 0.05, local: int = 4, standard: bool = False,
                 look: Mapping[str, Any] | None = None):
        super().__init__(model)
        c: Any = model.config
        if vars(c).get("kind") != "dinov2":
            raise RequestError("self-distillation hides patches, so it needs a ViT with a token for them; set "
                               "model.name=vit model.kind=dinov2")
        side = max(c.patch, c.image // 2 // c.patch * c.patch)
        if centre not in ("sinkhorn", "mean", "none") or not 0 < momentum < 1 or temperature <= 0 or local < 0:
            raise RequestError(f"objective.centre={centre} is sinkhorn, mean or none, momentum={momentum} lies between "
                               f"0 and 1, temperature={temperature} is above 0, local={local} at least 0")
        self.ibot, self.koleo, self.centre, self.momentum = ibot, koleo, centre, momentum
        self.temperature, self.local = temperature, local
        fields = dict(look or {})
        area = fields.pop("small", SMALL)
        self.large = from_dict(Look, {"side": c.image, **fields})
        self.small = from_dict(Look, {"side": side, **fields, "area": area})
        self.heads = nn.ModuleDict({which: Head(c.dim, hidden, narrow, prototypes, standard)
                                    for which in ("cls", "patch")})
        self.teacher = copy.deepcopy(nn.ModuleDict({"model": model, "heads": self.heads})).requires_grad_(False)
        self.register_buffer("middle", torch.zeros(2, prototypes))             # of the teacher's answers: cls, patch
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))      # made so far
        self.register_buffer("flat", torch.zeros((), dtype=torch.int64))       # steps in a row without spread
        self.seen: tuple[Tensor, Tensor] | None = None                         # means and spread of the last forward

    def prepare(self, batch: Batch) -> Batch:
        """views [B, 2, C, S, S], small [B, L, C, s, s] and masked [B, 2, N], all drawn from one seed."""
        c: Any = self.model.config
        images = between(batch["images"])
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        masked = hidden(len(images) * GLOBAL, c.grid, c.grid, SHARE, CHANCE if self.ibot else 0.0, rng)
        return {"images": images, "views": crops(images, self.large, GLOBAL, rng),
                "small": crops(images, self.small, self.local, rng), "masked": masked.unflatten(0, (-1, GLOBAL)),
                "weight": torch.ones(len(images))}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The large views as the student sees them; `output` shows it the small ones too."""
        return {"images": batch["views"].flatten(0, 1), "masked": batch["masked"].flatten(0, 1)}

    def output(self, batch: Batch) -> dict[str, Tensor]:
        """What both say: cls [B, V, K] and patch [B, 2, N, K] of the student, taught and taught_patch of the teacher,
        and the vectors of the large views [B, 2, D]."""
        given, count = self.inputs(batch), len(batch["views"])
        for head in self.heads.values():
            head.frozen = bool(self.steps < FROZEN)                             # type: ignore[operator, assignment]
        first = 1 + self.model.config.registers                # type: ignore[union-attr, operator]
        self.teacher.eval()
        with torch.no_grad():
            model, heads = self.teacher["model"], self.teacher["heads"]
            taught = model.features(given["images"])                           # type: ignore[operator]
            known = {"known": taught[:, 0].float().unflatten(0, (count, -1)),
                     "taught": heads["cls"](taught[:, 0]).unflatten(0, (count, -1)),          # type: ignore[index]
                     "taught_patch": heads["patch"](taught[:, first:]).unflatten(0, (count, -1))}  # type: ignore[index]
        large = self.model.features(given["images"], given["masked"])          # type: ignore[operator]
        said = self.heads["cls"](large[:, 0]).unflatten(0, (count, -1))
        if self.local:
            small = self.model.features(batch["small"].flatten(0, 1))          # type: ignore[operator]
            said = torch.cat([said, self.heads["cls"](small[:, 0]).unflatten(0, (count, -1))], 1)
        return {"cls": said, "patch": self.heads["patch"](large[:, first:]).unflatten(0, (count, -1)),
                "vectors": large[:, 0].float().unflatten(0, (count, -1)), **known}

    def flops(self, of: Forward) -> float:
        """Also the teacher's pass over the large views, and the student's over the small ones, whose cost is taken to
        go with their area."""
        small = self.local / GLOBAL * (self.small.side / self.large.side) ** 2
        return (1 + small) * super().flops(of) + of(self.teacher["model"])

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """output -> score."""
        return self.score(self.output(batch), batch)

    def score(self, output: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What both say -> (summed loss, sums of its parts)."""
        count, masked = len(output["cls"]), batch["masked"].to(output["cls"].device)
        everything = torch.ones(output["taught"].shape[:2], dtype=torch.bool, device=masked.device)
        target = self._target(output["taught"], everything, 0)
        dino = views_loss(target, output["cls"]).sum()
        hid = self._target(output["taught_patch"], masked, 1)
        each = -(hid * (output["patch"] / STUDENT).log_softmax(-1)).sum(-1) * masked
        ibot = (each.sum(-1) / masked.sum(-1).clamp(min=1)).mean(1).sum()
        vectors = output["vectors"]
        koleo = sum((spread_out(vectors[:, g].contiguous()) for g in range(GLOBAL)), torch.zeros(())) / GLOBAL
        known = F.normalize(parallel.gather(output["known"][:, 0].contiguous()), dim=-1)
        spread = (1 - known.mean(0).square().sum()).clamp(min=0).sqrt()
        if self.training:
            means = [parallel.gather(output["taught"].flatten(0, 1)).mean(0),
                     parallel.gather(output["taught_patch"].flatten(0, 2)).mean(0)]
            self.seen = torch.stack(means).detach(), spread.detach()
        facts = {"dino": dino, "ibot": ibot, "koleo": koleo, "spread": spread * count}
        return dino + self.ibot * ibot + self.koleo * koleo, facts

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """The teacher follows the student; MachineError when the vectors have long been all alike."""
        super().after_step(step)
        kept = min(self.momentum, (1 + step) / (10 + step))    # the first weights are soon forgotten, as in train.ema
        mine = [*self.model.parameters(), *self.heads.parameters()]
        torch._foreach_lerp_(list(self.teacher.parameters()), [p.detach() for p in mine], 1 - kept)
        assert self.seen is not None
        (means, spread), self.seen = self.seen, None
        self.steps.add_(1)                                                      # type: ignore[operator]
        self.middle.lerp_(means, 1 - KEPT)                                      # type: ignore[operator]
        self.flat.copy_((self.flat + 1) * (spread < FLAT))                      # type: ignore[operator]
        if self.flat >= PATIENCE:                                               # type: ignore[operator]
            raise MachineError(f"the features have collapsed at step {step + 1}: all pictures have got nearly the same "
                               f"vector (spread {float(spread):.3f}, below {FLAT} for {PATIENCE} steps); start again "
                               "with objective.centre=sinkhorn, a lower train.lr or a larger objective.koleo")

    def after_skip(self) -> None:
        """A dropped update moves nothing."""
        super().after_skip()
        self.seen = None

    @torch.no_grad()
    def _target(self, logits: Float[Tensor, "B *N K"], real: Bool[Tensor, "B *N"], which: int) -> Tensor:
        """What the student is to say, [B, ..., K]: the teacher's answers, balanced; 0 where they are not `real`."""
        if self.centre == "sinkhorn":
            rows, kept = parallel.gather(logits), parallel.gather(real.float())
            mine = parallel.rank() + parallel.count() * torch.arange(len(logits), device=logits.device)
            return balanced(rows.flatten(0, -2) / self.temperature, kept.flatten()).view(rows.shape)[mine]
        middle = self.middle[which] if self.centre == "mean" else 0.0           # type: ignore[index]
        return ((logits - middle) / self.temperature).softmax(-1)


def views_loss(target: Float[Tensor, "B G K"], said: Float[Tensor, "B V K"]) -> Float[Tensor, "B"]:
    """Mean cross-entropy of each large view's target with what is said of every other view."""
    each = -target @ (said / STUDENT).log_softmax(-1).mT                        # [B, G, V]
    other = 1 - torch.eye(target.shape[1], said.shape[1], device=said.device)
    return (each * other).sum((1, 2)) / other.sum()


def balanced(logits: Float[Tensor, "N K"], real: Float[Tensor, "N"], rounds: int = ROUNDS) -> Float[Tensor, "N K"]:
    """Sinkhorn-Knopp: each of the `real` rows a distribution, all prototypes used equally often; other rows are 0."""
    q = (logits - logits.max()).exp() * real[:, None]
    share = real.sum().clamp(min=1) / q.shape[1]
    for _ in range(rounds):
        q = q * share / q.sum(0).clamp(min=1e-12)
        q = q / q.sum(1, keepdim=True).clamp(min=1e-12)
    return q


def spread_out(x: Float[Tensor, "b D"]) -> Float[Tensor, ""]:
    """KoLeo: the sum over rows here of -log of the distance to the nearest other one, wherever that is, on the unit
    sphere; 0 for one row."""
    x = F.normalize(x, dim=-1)
    others = parallel.gather(x)
    if len(others) < 2:
        return x.new_zeros(())
    mine = parallel.rank() + parallel.count() * torch.arange(len(x))
    with torch.no_grad():
        nearest = (x @ others.T).scatter(1, mine[:, None], -2.0).argmax(1)
    return -((x - others[nearest]).norm(dim=-1) + 1e-8).log().sum()
