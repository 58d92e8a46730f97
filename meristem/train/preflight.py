"""What can be known in seconds before hours are spent: disk, tokenizer, first loss; if asked, a round trip and a batch.

    quick(parts, trainer, folder, progress)                        # every new run: refuses, or warns of a wrong loss
    for check in thorough(parts, trainer, folder): print(check.line())     # meristem pretrain RECIPE --check

A network that knows nothing gives every id the same probability, so its next-token loss is ln(vocabulary): another
number means a wrong scale of the weights, a shifted target or a mask that is upside down. One batch that cannot be
learned by heart means that gradients do not reach the weights (Karpathy 2019,
https://karpathy.github.io/2019/04/25/recipe/). Weights and generators are left as they were.
"""
import copy
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from meristem.core.errors import MachineError
from meristem.core.files import digest_bytes
from meristem.core.progress import Progress
from meristem.core.types import Batch
from meristem.objectives.rollouts import Rollouts
from meristem.train.checkpoint import Checkpoints
from meristem.train.hooks import validate
from meristem.train.trainer import Trainer

if TYPE_CHECKING:
    from meristem.train.run import Parts

NEAR = 0.1                              # share of ln(vocabulary) that the first loss may be off
ROWS = 2                                # of the first batch: 2 x 256 targets tell a first loss to 2 %
ROOM = 3                                # checkpoints that must fit, at least
STEPS = 30                              # updates on one batch
FALL = 0.8                              # of its first loss, at most, is left after them
BLIND = ("next_token", "fill_in_the_middle")                   # objectives whose first loss is ln(vocabulary)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, what was found, and whether that is well."""

    name: str
    well: bool
    found: str

    def line(self) -> str:
        """For people."""
        return f"{'ok  ' if self.well else 'BAD '} {self.name}: {self.found}"


def quick(parts: "Parts", trainer: Trainer, folder: Path, progress: Progress) -> None:
    """The checks of every new run: MachineError when the disk or the tokenizer is not what it must be, and a warning
    when the first loss is not."""
    for check in (disk(parts, trainer, folder), tokenizer(parts)):
        if not check.well:
            raise MachineError(f"{check.name}: {check.found}")
    first = first_loss(parts)
    if first and not first.well:
        progress.warn(f"{first.name}: {first.found}")


def thorough(parts: "Parts", trainer: Trainer, folder: Path) -> list[Check]:
    """Every check; nothing of the run is written or changed."""
    checks = [disk(parts, trainer, folder), tokenizer(parts), first_loss(parts), round_trip(trainer, folder),
              one_batch(parts)]
    return [check for check in checks if check]


def disk(parts: "Parts", trainer: Trainer, folder: Path) -> Check:
    """Whether three checkpoints fit, or those that are kept and two more."""
    count = max(ROOM, parts.run.train.keep + 2)                # one that the guard could go back to, one being written
    each = checkpoint_bytes(trainer)
    free = shutil.disk_usage(existing(folder)).free
    return Check("disk", free >= count * each, f"{free / 1e9:.3g} GB free for {count} checkpoints of {each / 1e9:.2g} "
                 f"GB in {folder}" + ("" if free >= count * each else "; free some space, lower train.keep, or choose "
                                      "another --out"))


def checkpoint_bytes(trainer: Trainer) -> int:
    """Bytes of a checkpoint: the objective's state, and two moments of everything trained (Muon keeps one)."""
    state = {t.data_ptr(): t.numel() * t.element_size() for t in trainer.objective.state_dict().values()}
    return sum(state.values()) + 2 * sum(p.numel() * p.element_size() for p in trainer.optim.params)


def tokenizer(parts: "Parts") -> Check:
    """Whether the shards are those of this corpus and this tokenizer, and hold no id beyond the model's vocabulary."""
    index = parts.shards.index
    same = index["codec"] == parts.codec.hash and index["corpus"] == parts.corpus.hash and \
        parts.shards.hash == digest_bytes(parts.corpus.hash, parts.codec.hash)
    return Check("tokenizer", same, f"{parts.codec.hash[:12]}, {parts.codec.vocab} ids, as the shards say" if same else
                 f"the shards in {parts.shards.folder} were made with {index['codec'][:12]}, the tokenizer is "
                 f"{parts.codec.hash[:12]}; remove that folder")


def first_loss(parts: "Parts") -> Check | None:
    """The loss of an untrained model beside ln(vocabulary); None where that is not what to expect."""
    if parts.run.base or parts.run.objective.name not in BLIND:
        return None
    loss, blind = validate(parts.objective, [few(parts.source(0)[0])]), math.log(parts.codec.vocab)
    well = abs(loss - blind) <= NEAR * blind
    return Check("first loss", well, f"{loss:.3f}, and ln({parts.codec.vocab}) is {blind:.3f}" + ("" if well else
                 ": the model does not start blind (scale of the weights, shifted targets, or a mask?)"))


def round_trip(trainer: Trainer, folder: Path) -> Check:
    """Whether the training state comes back from the disk with every bit."""
    tensors = {"model": dict(trainer.objective.state_dict()), "optim": trainer.optim.state()}
    with tempfile.TemporaryDirectory(dir=existing(folder), prefix=".tmp-check-") as place, \
            Checkpoints(Path(place)) as checkpoints:
        checkpoints.save(0, tensors, {})
        checkpoints.wait()
        found = checkpoints.newest()
    equal = found is not None and all(same(tensor, found[1][key][name]) for key, named in tensors.items()
                                      for name, tensor in named.items())
    count = sum(len(named) for named in tensors.values())
    return Check("save and load", equal, f"{count} tensors came back " + ("bit for bit" if equal else "changed"))


def one_batch(parts: "Parts") -> Check | None:
    """Whether a copy of the model learns two rows by heart: the loss after 30 updates beside the first.

    None for a policy, whose rows are its own and whose loss does not fall.
    """
    if isinstance(parts.objective, Rollouts):
        return None
    objective = copy.deepcopy(parts.objective)
    rows = few(parts.source(0)[0])
    with torch.random.fork_rng(), torch.compiler.set_stance("force_eager"):
        losses = []
        optim = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=parts.run.train.lr)
        objective.train()
        for _ in range(STEPS):
            torch.manual_seed(0)                               # the same masks each time: it is one batch
            batch = objective.prepare(rows)
            loss, _ = objective(batch)
            (loss / objective.weight(batch).clamp(min=1)).backward()
            optim.step()
            optim.zero_grad()
            objective.after_step(0)
            losses.append(float(loss.detach()))
    well = losses[-1] < FALL * losses[0]
    return Check("one batch", well, f"its loss is {losses[-1] / losses[0]:.0%} of the first after {STEPS} updates" +
                 ("" if well else "; gradients do not reach the weights, or train.lr is far off"))


def few(batch: Batch) -> Batch:
    """The first two rows of a batch."""
    return {key: value[:ROWS] for key, value in batch.items()}


def same(a: Tensor, b: Tensor) -> bool:
    """Equal in every bit and type."""
    return a.dtype == b.dtype and torch.equal(a.detach(), b)


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(p for p in [folder.absolute(), *folder.absolute().parents] if p.is_dir())
