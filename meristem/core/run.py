"""`Run`: everything that decides what a training run computes. A recipe returns one; a run folder keeps one.

The resolved Run is written to `recipe.json` before the first step, and `meristem pretrain --from RUN` repeats it.
Field meanings stand beside the fields; units are in the names or the comments.
"""
from dataclasses import dataclass, field
from typing import Literal

from meristem.core.config import Part


@dataclass(frozen=True)
class Data:
    """What is trained on. `corpus` is a folder that `meristem curate` wrote."""

    corpus: str = ""
    codec: Part = field(default_factory=lambda: Part("bpe", {"vocab": 4096}))
    examples: str = ""                  # "" = packed documents; else an entry of data.examples ("function_bodies")
    packing: Literal["joined", "separate"] = "joined"          # whether the documents of a row see those before them
    mixture: Part | None = None         # Part("fixed", {"by": "kind", "weights": {...}}): how much of each source


@dataclass(frozen=True)
class Group:
    """The parameters in whose name the regex `match` is found; of several rows the first that finds a name counts."""

    match: str
    lr: float = 1.0                     # times the run's learning rate
    decay: float | None = None          # weight decay; None = as if there were no row
    freeze: bool = False                # no gradient, no optimizer state, never changed


@dataclass(frozen=True)
class Train:
    """How it is trained. Rows are sequences of `context` tokens; `batch` counts rows per update over all ranks."""

    steps: int = 1000
    batch: int = 16
    micro: int = 0                      # rows per forward pass, over all ranks; 0 = the whole batch at once
    context: int = 256
    optimizer: Literal["adamw", "muon", "adafactor", "schedule_free"] = "adamw"
    lr: float = 3e-3
    groups: tuple[Group, ...] = ()      # exceptions for parameters by name
    layer_decay: float = 1.0            # learning rate of a block over that of the block above it
    base_width: int = 0                 # one `lr` for all widths, this width being as usual; 0 = no (train.groups)
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int = 50                    # steps of linear rise
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay: float = 0.2                  # wsd: the last share of steps, falling linearly to `floor`
    floor: float = 0.1                  # last learning rate over the peak
    clip: float = 1.0                   # largest gradient norm
    private_noise: float = 0.0          # DP-SGD: noise over `private_clip` in the sum of gradients; 0 = none
    private_clip: float = 1.0           # largest length of one row's gradient, with private_noise
    ema: float = 0.0                    # decay of an average of the weights; 0 = none is kept
    weights: Literal["average", "last"] = "average"            # which are validated and exported, if there are two
    guard: bool = True                  # refuse steps that spike, go back when the loss blows up (train.guard)
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"          # float16 is refused, with its measured rate
    mesh: str = ""                      # "dp=2,tp=2": the processes of torchrun and what they divide (core.mesh)
    shard: bool = True                  # dp divides parameters and moments too (FSDP); false: whole copies
    pipeline: Literal["1f1b", "gpipe"] = "1f1b"                # the schedule of pp
    recompute: bool = False             # keep the inputs of each block only and compute it again in the backward pass
    compile: bool = True                # torch.compile, region by region; needs a C++ compiler
    save_seconds: float = 60.0          # wall-clock between checkpoints
    keep: int = 2                       # newest checkpoints kept, and one to three to which the guard could go back
    permanent: int = 0                  # steps between checkpoints that are never deleted; 0 = none
    hang_seconds: float = 600.0         # without a step for so long: stacks are written, a hung process is named
    validate_every: int = 0             # steps; 0 = only at the end
    sample_every: int = 0               # steps; 0 = never


@dataclass(frozen=True)
class Run:
    """One training run, from scratch (`base` empty) or from another model's folder (`base`, usually with `adapt`)."""

    name: str
    model: Part = field(default_factory=lambda: Part("llama"))
    objective: Part = field(default_factory=lambda: Part("next_token"))
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    base: str = ""                      # a model folder to start from
    adapt: Part | None = None           # Part("lora", {"rank": 16}): train a few added tensors, freeze the rest
    seed: int = 0
