"""What an objective is. The trainer knows these methods and nothing else.

An objective is a module that holds whatever training involves: the model and, if the method needs them, a teacher, a
reference, a value head, a frozen autoencoder. So one optimizer sees every trainable parameter and one state dict saves
everything. `inputs` and `score` are apart so that a pipeline can run the model between them on other processes.
"""
import abc
import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.codecs.chat import Chat
from meristem.core import registry
from meristem.core.errors import RequestError, nearest
from meristem.core.types import Batch
from meristem.data.conversations import Reader
from meristem.data.sounds import Changes, Form
from meristem.generate.looks import Looks, laid_over
from meristem.generate.pictures import Painter
from meristem.nn import moe
from meristem.nn.image import between
from meristem.plan.cost import BACKWARD

GIVEN = ("codec", "reader")             # arguments of objectives that a run knows and nobody sets
Forward = Callable[[nn.Module], float]  # FLOPs of a forward pass of a network over one row


class Objective(nn.Module, abc.ABC):
    """Base class: owns `model`; subclasses give `inputs` and `score`, and the rest where they need it."""

    anywhere = True                     # False: it asks networks while it prepares, so it stays on the CPU

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.routed = moe.layers(model)
        self.register_forward_pre_hook(_here)
        self.beside: tuple[nn.Module, ...] = ()                # frozen networks asked like the model, to the same bits

    def _apply(self, fn: Any, recurse: bool = True) -> "Objective":
        """A frozen network kept in a tuple, so that it is not saved, moves with the others."""
        for value in vars(self).values():
            for held in value if isinstance(value, tuple) else ():
                if isinstance(held, nn.Module):
                    held._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.model.parameters()).device

    @property
    def picture(self) -> tuple[int, int]:
        """Side and channels of the pictures that it is given: what its model's config says."""
        config = vars(self.model.config)
        if "image" not in config:
            raise RequestError("this model sees no pictures; take one that does, or another data.examples")
        return config["image"], config["inputs"] if "inputs" in config else config["channels"]

    @property
    def frames(self) -> int:
        """How many frames the films have that it is given."""
        config = vars(self.model.config)
        if config.get("frames", 1) < 2:
            raise RequestError("this model sees no films; set model.frames, or take another data.examples")
        return config["frames"]

    @property
    def slots(self) -> tuple[int, int]:
        """The id that stands for a picture among words, and how many such tokens a picture takes."""
        config = vars(self.model.config)
        if "image_token" not in config:
            raise RequestError("this model reads no pictures among words; take model.name=llava or flamingo")
        return config["image_token"], config["image_tokens"]

    changes = Changes()                 # how sounds are changed for training

    @property
    def sound(self) -> Form:
        """The form of the sounds that it is given: what its model's config says."""
        config: Any = self.model.config
        if "rate" not in vars(config):
            raise RequestError("this model hears nothing; take one that does (whisper, wav2vec2), or another "
                               "data.examples")
        return Form(config.rate, config.samples, vars(config).get("mels", 0), self.changes)

    def prepare(self, batch: Batch) -> Batch:
        """Corrupt, mask or add noise. Runs without gradients, before `weight` is asked."""
        return batch

    def painter(self, codec: Codec | None = None) -> Painter:
        """What paints with the model as it was trained to; RequestError for one that paints nothing."""
        raise RequestError("this model paints no pictures; take one of recipe diffusion or latent_diffusion")

    @property
    def reads(self) -> Literal["", "labels", "captions"]:
        """What of a row its painter is told."""
        return "captions"

    def asked(self, batch: Batch, codec: Codec, count: int) -> tuple[str, ...]:
        """What a painter is asked for to show what it learned: the captions of the first rows of a batch."""
        return tuple(codec.decode(row.numpy()) for row in batch["tokens"][:count])

    def settled(self, config: Any, held_out: Sequence[Batch]) -> Any:
        """The model's config as it is written at the end: with what only the trained weights tell, if anything."""
        return config

    @property
    def illustrates(self) -> bool:
        """Whether `illustrate` shows something."""
        return isinstance(self.model, Looks) and vars(self.model.config).get("frames", 1) == 1

    def illustrate(self, batch: Batch) -> UInt8[Tensor, "N C H W"]:
        """Pictures of what the model makes of some rows: here where it looks, where it can say that."""
        if not isinstance(self.model, Looks):
            raise RequestError("this objective shows no pictures")
        return laid_over(batch["images"], self.model.looks(between(batch["images"])).mean(1))

    def weight(self, batch: Batch) -> Tensor:
        """How many terms the loss sums over (scalar); the trainer divides by the total over micro-batches and ranks."""
        return batch["weight"].sum()

    @abc.abstractmethod
    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the model is called with."""

    @abc.abstractmethod
    def score(self, output: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over its terms (scalar, fp32), and other sums worth logging."""

    def output(self, batch: Batch) -> Any:
        """What `score` is given: the model's output on `inputs`."""
        return self.model(**self.inputs(batch))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs -> model -> score; in training also the balance losses of mixture-of-experts layers (nn.moe)."""
        loss, facts = self.score(self.output(batch), batch)
        trained = [layer for layer in self.routed if layer.training]
        if not trained:
            return loss, facts
        (owed, balance), weight = moe.settle(trained), self.weight(batch)
        return loss + owed * weight, {**facts, "balance": balance * weight}

    def after_step(self, step: int) -> None:
        """Whatever follows an update: moving a teacher, adapting a penalty; a subclass calls this one too."""
        moe.adjust(self.routed)

    def after_skip(self) -> None:
        """An update was dropped: forget what its forward passes left."""
        moe.adjust(self.routed, move=False)

    def flops(self, of: Forward) -> float:
        """FLOPs that a row of a batch costs a step, where `of(network)` is those of a forward pass over it.

        Here forward and backward of the model; a subclass adds what else it asks. What turns data into the model's
        input (an autoencoder, a text tower) counts nowhere.
        """
        return float((1 + BACKWARD) * of(self.model))

    def kept(self) -> dict[str, Tensor]:
        """What a finished run keeps beside the model: a reward model's head."""
        return {}


def twin(model: nn.Module) -> nn.Module:
    """A copy of a model as it is now, in which whatever is not trained is the same memory (LoRA's base).

    Its weights keep asking for gradients, that nobody reads: compiled without them it would round otherwise, and a
    policy must equal its reference to the bit at the first step. Hold it in a tuple, so that it is not saved.
    """
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


def _here(objective: Any, given: tuple[Batch]) -> tuple[Batch]:
    """A batch is made on the CPU, its random numbers the same everywhere, and scored where the weights are."""
    device = objective.device
    return ({key: value.to(device) for key, value in given[0].items()},)


def make(name: str, model: nn.Module, fields: Mapping[str, Any], codec: Codec | None = None,
         chat: Chat | None = None) -> Objective:
    """The objective class of `objectives/<name>.py` around `model`; `fields` are its keyword arguments.

    One that has a parameter `codec` is given the run's, one that has `reader` that codec with the chat template.
    RequestError for a field that it does not have.
    """
    kind = getattr(registry.load("objectives", name), name.title().replace("_", ""))
    asked = [key for key in inspect.signature(kind.__init__).parameters if key not in ("self", "model")]
    if unknown := [key for key in fields if key not in asked or key in GIVEN]:
        raise RequestError(f"no field {unknown[0]!r} in objective {name}; "
                           f"{nearest(unknown[0], [key for key in asked if key not in GIVEN])}")
    given = {"codec": codec, "reader": Reader(codec, chat) if codec else None}
    return kind(model, **{key: value for key, value in given.items() if key in asked}, **fields)
