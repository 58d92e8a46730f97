"""Distillation: a student learns from a frozen teacher's whole distribution as well as from the data.

Hinton et al. 2015, https://arxiv.org/abs/1503.02531 section 2:

    loss = alpha T^2 KL(teacher_T || student_T) + (1 - alpha) hard

where a distribution at temperature T is softmax(logits / T) and `hard` is the loss of the objective inside (`inner`:
next_token, masked, seq2seq, ...). `cosine` adds 1 - cos of both networks' last features, for students as wide as their
teacher: DistilBERT's third term (Sanh et al. 2019, https://arxiv.org/abs/1910.01108 section 3).

    meristem pretrain distil objective.teacher=runs/large data.corpus=CORPUS

The teacher is read from its folder and belongs to nobody's parameters: no optimizer sees it and no checkpoint holds it.
"""
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.hub import hf
from meristem.nn.linear import Embedding, compute_in
from meristem.objectives.base import Forward, Objective, make


class Distillation(Objective):
    """Another objective with a teacher beside the data; facts: the sums of `soft`, `hard` and `cosine`.

    `inner` names the objective and `fields` are its own; `codec` is the run's.
    """

    def __init__(self, model: nn.Module, teacher: str = "", temperature: float = 2.0, alpha: float = 0.5,
                 cosine: float = 0.0, inner: str = "next_token", fields: Mapping[str, Any] | None = None,
                 codec: Codec | None = None):
        super().__init__(model)
        if not teacher:
            raise RequestError("distillation needs a teacher; add objective.teacher=FOLDER of a trained model")
        if temperature <= 0 or not 0 <= alpha <= 1 or cosine < 0:
            raise RequestError(f"objective.temperature={temperature} must be above 0, alpha={alpha} in [0, 1] and "
                               f"cosine={cosine} at least 0")
        self.temperature, self.alpha, self.cosine = temperature, alpha, cosine
        loaded = hf.load(teacher)
        _same_ids(model, loaded, codec, teacher)
        first = next(m for m in model.modules() if isinstance(m, Embedding))
        compute_in(loaded.module.requires_grad_(False), first.compute)
        # Tuples, because a module that is an attribute would be saved, and the model twice.
        self.held = make(inner, model, fields or {}, codec), loaded.module
        self.seen: dict[str, Tensor] = {}                      # what last entered the student's and the teacher's head
        if cosine:
            _head(model).register_forward_pre_hook(lambda _, given: self.seen.update(student=given[0]))
            _head(loaded.module).register_forward_pre_hook(lambda _, given: self.seen.update(teacher=given[0]))

    @property
    def inner(self) -> Objective:
        """The objective whose data and loss these are."""
        return self.held[0]

    @property
    def teacher(self) -> nn.Module:
        """The frozen network."""
        return self.held[1]

    def prepare(self, batch: Batch) -> Batch:
        """As the inner objective does."""
        return self.inner.prepare(batch)

    def weight(self, batch: Batch) -> Tensor:
        """As the inner objective counts."""
        return self.inner.weight(batch)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What both networks are called with."""
        return self.inner.inputs(batch)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's logits first, then as every objective."""
        self.teacher.eval()
        with torch.no_grad():
            taught = self.teacher(**self.inputs(batch))
        return super().forward({**batch, "taught": taught})

    def score(self, output: Float[Tensor, "*B V"], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Student's logits and a batch with the teacher's (`taught`) -> the weighted sum of both losses."""
        hard, facts = self.inner.score(output, batch)
        weight, t = batch["weight"].to(output.device), self.temperature
        student, taught = ((x.float() / t).log_softmax(-1) for x in (output, batch["taught"]))
        soft = t * t * (F.kl_div(student, taught, reduction="none", log_target=True).sum(-1) * weight).sum()
        loss = self.alpha * soft + (1 - self.alpha) * hard
        facts = {**facts, "soft": soft, "hard": hard}
        if self.cosine:
            ours, theirs = (self.seen.pop(who).float() for who in ("student", "teacher"))
            facts["cosine"] = ((1 - F.cosine_similarity(ours, theirs, -1)) * weight).sum()
            loss = loss + self.cosine * facts["cosine"]
        return loss, facts

    def flops(self, of: Forward) -> float:
        """Those of the inner objective, and the teacher's forward pass."""
        return self.inner.flops(of) + of(self.teacher)

    def after_step(self, step: int) -> None:
        """As the inner objective, which knows the same model."""
        self.inner.after_step(step)


def _same_ids(model: nn.Module, loaded: hf.Loaded, codec: Codec | None, teacher: str) -> None:
    """RequestError when student and teacher read other ids, so that their distributions cannot be compared."""
    config: Any = model.config
    if loaded.config.vocab != config.vocab:
        raise RequestError(f"the teacher {teacher} has {loaded.config.vocab} tokens, the student {config.vocab}; train "
                           "the student with the teacher's tokenizer")
    if codec and loaded.codec and loaded.codec.hash != codec.hash:
        raise RequestError(f"the teacher {teacher} has another tokenizer than this run; use one corpus and data.codec "
                           "for both")


def _head(module: nn.Module) -> nn.Module:
    """What takes the last features: an encoder's transform before its vocabulary head, else the head."""
    children = dict(module.named_children())
    if not (found := children.get("transform") or children.get("head")):
        raise RequestError("objective.cosine compares what enters the heads, and this model has none; "
                           "set objective.cosine=0")
    return found
