"""Diffusion: predict the noise (or the image, the velocity, the flow) from a noisy image and the time.

Ho et al. 2020, https://arxiv.org/abs/2006.11239, algorithm 1; targets and schedules: nn/noise.py; min-SNR weights:
Hang et al. 2023, https://arxiv.org/abs/2303.09556 (`gamma`); learned variance: Nichol & Dhariwal 2021,
https://arxiv.org/abs/2102.09672, equation 16 (a model with twice the outputs). With `autoencoder` a folder, images are
latents (Rombach et al. 2021). Conditions: a row's label, or with `text` a folder, its caption through that text tower,
both frozen; a share `drop` of the rows goes without, for guidance (Ho & Salimans 2022). With model.inputs twice
model.outputs the model is shown a picture as further channels: with `low` it enlarges what it is shown, the picture at
that side, stretched (Saharia et al. 2021, https://arxiv.org/abs/2104.07636, section 2); with `edits` it does to a
picture what the caption says (Brooks et al. 2022, https://arxiv.org/abs/2211.09800, section 3.2, without its second
guidance), from rows of data.examples=edits.

    meristem pretrain diffusion data.corpus=PICTURES objective.target=velocity
"""
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.data.pictures import captions
from meristem.generate.pictures import Diffuser, Told, by_caption, by_class, by_nothing, stretched
from meristem.hub import hf
from meristem.nn.image import between
from meristem.nn.linear import Entrance, compute_in
from meristem.nn.noise import Schedule, Target, add, split, wanted
from meristem.objectives.base import Objective

VARIANCE = 0.001                        # weight of the bound on the learned variance (Improved DDPM, section 3.1)


class Diffusion(Objective):
    """Summed over pictures: the mean squared error a number; fact: `bound` where the variance is learned."""

    def __init__(self, model: nn.Module, target: Target = "noise", schedule: str = "linear", steps: int = 1000,
                 zero_snr: bool = False, gamma: float = 0.0, drop: float = 0.1, autoencoder: str = "", text: str = "",
                 low: int = 0, edits: bool = False, codec: Codec | None = None):
        super().__init__(model)
        try:
            self.schedule = Schedule(schedule, steps, zero_snr=zero_snr)        # type: ignore[arg-type]
        except ValueError as error:
            raise RequestError(f"objective: {error}") from None
        if target == "noise" and zero_snr:
            raise RequestError("objective.target=noise says nothing about the image at the last step of zero_snr; take "
                               "velocity or start")
        if target == "velocity" and schedule == "flow":
            raise RequestError("objective.target=velocity belongs to schedules of steps; with flow take flow")
        self.target: Target = target
        self.gamma, self.drop, self.low, self.edits = gamma, drop, low, edits
        c = vars(model.config)
        self.classes, self.learned = c.get("classes", 0), c["outputs"] == 2 * c["inputs"]
        if (c["inputs"] == 2 * c["outputs"]) != bool(low or edits) or (low and (edits or autoencoder)):
            raise RequestError("a model with twice as many inputs as outputs enlarges or edits pictures: give both "
                               "that and either objective.low, the side of the small ones (and no autoencoder), or "
                               "objective.edits=true")
        if bool(text) != (c.get("cross", 0) > 0 and not c.get("embedding", 0)):
            raise RequestError("a model with model.cross attends to a text: give both that and objective.text=FOLDER")
        # Tuples, because a module that is an attribute would be saved with the model.
        first = next(m for m in model.modules() if isinstance(m, Entrance))
        loaded = [hf.load(folder) if folder else None for folder in (autoencoder, text)]
        self.frozen = tuple(compute_in(one.module.requires_grad_(False), first.compute) if one else None
                            for one in loaded)
        own = loaded[1].codec if loaded[1] else None
        if codec and own and own.hash != codec.hash:
            raise RequestError(f"the captions are read by another tokenizer than {text}'s; add data.codec.name=saved "
                               f"data.codec.folder={text}")
        self.codec = own or codec
        self.blank = self.no_caption(codec) if text else None

    @property
    def anywhere(self) -> bool:         # type: ignore[override]
        """In pixels and without captions no other network is asked."""
        return not any(self.frozen) and type(self) is Diffusion

    @property
    def picture(self) -> tuple[int, int]:
        """Side and channels before the autoencoder, where there is one."""
        side, channels = super().picture
        if self.autoencoder is None:
            return side, channels // 2 if self.shown else channels
        c = self.autoencoder.config
        return side * c.shrink, c.inputs

    @property
    def shown(self) -> bool:
        """Whether the model sees a picture beside the noisy one."""
        return self.low > 0 or self.edits

    @property
    def autoencoder(self) -> Any:
        """What turns images into latents."""
        return self.frozen[0]

    @property
    def text(self) -> Any:
        """What reads captions."""
        return self.frozen[1]

    def prepare(self, batch: Batch) -> Batch:
        """Draw times and noise; images become latents, captions vectors, and some conditions are dropped."""
        images = self.encoded(batch["images"])
        rows = len(images)
        steps = torch.randint(0, self.schedule.steps, (rows,))
        dropped = torch.rand(rows) < self.drop
        made: Batch = {**batch, "images": images, "noise": torch.randn_like(images), "time": steps.float(),
                       "weight": torch.ones(rows)}
        if self.classes:
            if "labels" not in batch:
                raise RequestError("this model is told a class, and the corpus has no labels; set model.classes=0")
            made["labels"] = torch.where(dropped, vars(self.model)["none"], batch["labels"])
        if self.text is not None:
            tokens = batch["tokens"][:, :-1].clone()
            if tokens.shape[1] != (context := self.text.config.context):
                raise RequestError(f"captions of {tokens.shape[1]} tokens are no input of this text tower; set "
                                   f"train.context={context}")
            assert self.blank is not None
            tokens[dropped] = self.blank
            made["condition"] = self.text.text.features(tokens)
        if self.low:
            made["beside"] = stretched(images, self.low, images.shape[-1])
        if self.edits:
            if "before" not in batch:
                raise RequestError("what is edited? set data.examples=edits, with a corpus of pictures before and "
                                   "after")
            made["beside"] = self.encoded(batch["before"])
        return made

    def encoded(self, images: Tensor) -> Tensor:
        """Pictures between -1 and 1, or their latents."""
        images = between(images)
        return images if self.autoencoder is None else self.autoencoder.encode(images).float()

    def no_caption(self, codec: Codec | None) -> Tensor:
        """The tokens of an empty caption [T]; end tokens where there is no codec to ask."""
        c = self.text.config
        return torch.full((c.context,), c.end) if codec is None else torch.from_numpy(
            captions(codec, [""], c.context)[0][0, :-1]).long()

    def painter(self, codec: Codec | None = None) -> Diffuser:
        """The model as `generate.pictures` asks it; pixels are kept between -1 and 1, latents are not."""
        c: Any = self.model.config
        told: Told = by_nothing
        if self.classes:
            told = by_class(c.labels, int(vars(self.model)["none"]))
        elif self.text is not None:
            assert self.codec is not None, "captions need a codec"
            told = by_caption(self.text.text, self.codec)
        channels = c.inputs // 2 if self.shown else c.inputs
        return Diffuser(self.model, told, self.schedule, self.target, (channels, c.image, c.image),
                        "euler" if self.schedule.kind == "flow" else "dpm_solver",
                        1.0 if self.autoencoder is None else 0.0, self.autoencoder, self.low, self.edits)

    @property
    def reads(self) -> Literal["", "labels", "captions"]:
        """A class, a caption or nothing."""
        return "labels" if self.classes else "captions" if self.text is not None else ""

    def asked(self, batch: Batch, codec: Codec, count: int) -> tuple[str, ...]:
        """The classes or captions of the first rows; nothing where the model is told nothing."""
        if self.reads == "labels":
            names = vars(self.model.config)["labels"]
            return tuple(names[i] if names else str(i) for i in batch["labels"][:count].tolist())
        return super().asked(batch, codec, count) if self.reads else ("",) * min(count, len(batch["images"]))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The noisy images [B, C, H, W], time [B] and the condition."""
        a, s = self.schedule.scales(batch["time"].long())
        noisy = add(batch["images"], batch["noise"], a, s)
        told = ["labels"] * (self.classes > 0) + ["condition"] * (self.text is not None)
        if self.shown:
            noisy = torch.cat([noisy, batch["beside"]], 1)
        return {"images": noisy, "time": batch["time"], **{key: batch[key] for key in told}}

    def score(self, output: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the model said [B, C or 2C, H, W] -> (summed loss, facts)."""
        a, s = self.schedule.scales(batch["time"].long())
        said = output.float()
        variance = None
        if self.learned:
            said, variance = said.chunk(2, 1)
        error = (said - wanted(self.target, batch["images"], batch["noise"], a, s)).square()
        each = error.flatten(1).mean(1)
        if self.gamma:
            each = each * self.balance(a, s).to(each)
        loss = each.sum()
        if variance is None:
            return loss, {}
        bound = self.bound(said.detach(), variance, batch, a, s).sum()
        return loss + VARIANCE * bound, {"bound": bound}

    def balance(self, a: Tensor, s: Tensor) -> Tensor:
        """min(SNR, gamma) for an error of the image, as a weight of the target's own error (min-SNR, section 3.4)."""
        snr = (a / s).square()
        least = snr.clamp(max=self.gamma)
        return {"noise": least / snr.clamp(min=1e-8), "start": least, "velocity": least * s.square(),
                "flow": least * (s / (a + s)).square()}[self.target]

    def bound(self, said: Tensor, variance: Tensor, batch: Batch, a: Tensor, s: Tensor) -> Tensor:
        """KL of the true step back from the model's, bits a number [B]; its gradient reaches the variance alone.

        At step 0 the paper has the likelihood of bytes instead; here the step's variance is that of step 1.
        """
        step, schedule = batch["time"].long(), self.schedule
        noisy = add(batch["images"], batch["noise"], a, s)
        beta, now, before = schedule.betas[step], schedule.kept[step], schedule.before[step]
        left, right = before.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - before) / (1 - now)
        true = add(batch["images"], noisy, left, right)
        guessed = add(split(self.target, said, noisy, a, s)[0], noisy, left, right)
        low, high = (table[step].log().to(said).reshape(-1, 1, 1, 1) for table in (schedule.posterior, schedule.betas))
        share = (variance + 1) / 2                             # equation 15: between the two bounds
        log = share * high + (1 - share) * low
        kl = 0.5 * (log - low + torch.exp(low - log) + (true - guessed).square() * torch.exp(-log) - 1)
        return kl.flatten(1).mean(1) / math.log(2.0)
