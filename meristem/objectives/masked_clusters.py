"""HuBERT: say in which cluster of sounds each hidden stretch belongs.

Hsu et al. 2021, https://arxiv.org/abs/2106.07447, section II: 8 % of the places begin a hidden stretch of ten, and the
loss is a cross-entropy at the hidden places. HuBERT's first clusters are k-means of cepstra; here they are those of
BEST-RQ (Chiu et al. 2022, https://arxiv.org/abs/2202.01855, section 3): the nearest of random codewords to a random
projection of the normalised log-mel frame, which nothing must be fitted for and no resume can change. The second round
(section IV-B) hides clusters of what a first HuBERT, the `teacher`, hears: k-means of a layer of it over the first
batch, fitted when training begins and saved with it.

    meristem pretrain hubert data.corpus=SOUNDS.jsonl --out runs/first
    meristem pretrain hubert data.corpus=SOUNDS.jsonl objective.teacher=runs/first --out runs/second
"""
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.codecs.audio import Mel, log_mel
from meristem.core import parallel
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.generate.base import evaluating
from meristem.hub import hf
from meristem.objectives.base import Objective
from meristem.objectives.speech_contrast import stretches

WIDTH, MELS = 16, 40                    # of the projection; bands of the frames
ROUNDS = 20                             # of k-means


class MaskedClusters(Objective):
    """Summed over hidden places; facts: `accuracy`."""

    def __init__(self, model: nn.Module, begin: float = 0.08, stretch: int = 10, seed: int = 0, teacher: str = "",
                 layer: int = -1):
        super().__init__(model)
        config: Any = model.config
        if vars(config).get("head") != "clusters":
            raise RequestError("objective.name=masked_clusters needs a head over clusters; set model.name=wav2vec2, "
                               "model.kind=hubert, model.head=clusters")
        self.begin, self.stretch = begin, stretch
        rng = torch.Generator().manual_seed(seed)
        self.register_buffer("project", torch.randn(MELS, WIDTH, generator=rng) / MELS**0.5, persistent=False)
        words = F.normalize(torch.randn(config.clusters, WIDTH, generator=rng), dim=-1)
        self.register_buffer("words", words, persistent=False)
        self.seed, self.layer = seed, layer
        self.teacher = [hf.load(teacher).module.float().requires_grad_(False)] if teacher else []      # no part of it
        if self.teacher:
            c: Any = self.teacher[0].config
            if "strides" not in vars(c) or (c.rate, c.strides, c.kernels) != (config.rate, config.strides,
                                                                             config.kernels):
                raise RequestError(f"{teacher} does not hear the places that this model does; name a run of recipe "
                                   "hubert or wav2vec2 with the same rate, strides and kernels")
            self.register_buffer("centres", torch.zeros(config.clusters, c.dim))
            self.register_buffer("fitted", torch.tensor(0))

    def prepare(self, batch: Batch) -> Batch:
        """hidden bool [B, T], clusters int64 [B, T], weight [B, T]."""
        if "sound" not in batch:
            raise RequestError("masked_clusters needs sounds; set data.examples=sounds")
        hidden = stretches(self.model.config, batch, self.begin, self.stretch)
        return {**batch, "hidden": hidden, "clusters": self.clusters(batch["sound"], hidden.shape[1]),
                "weight": hidden.float()}

    def clusters(self, sound: Float[Tensor, "B N"], length: int) -> Int[Tensor, "B T"]:
        """The cluster of each place: of the log-mel frame that begins where its samples do, or of the teacher's."""
        if self.teacher:
            return self._taught(sound)
        config: Any = self.model.config
        hop = 1
        for stride in config.strides:
            hop *= stride
        frames = torch.from_numpy(log_mel(sound.cpu().numpy(), Mel(config.rate, 2 * hop, hop, MELS))).to(sound.device)
        frames = (frames - frames.mean(-1, keepdim=True)) / (frames.std(-1, keepdim=True) + 1e-3)
        near = F.normalize(frames.mT @ self.project, dim=-1) @ self.words.T      # type: ignore[operator]
        found = near.argmax(-1)
        return F.pad(found, (0, max(0, length - found.shape[1])))[:, :length]

    def _taught(self, sound: Float[Tensor, "B N"]) -> Int[Tensor, "B T"]:
        """The nearest of the centres, which the first batch gives."""
        found: list[Tensor] = []
        teacher: Any = self.teacher[0].to(sound.device)
        handle = teacher.blocks[self.layer].register_forward_hook(lambda module, args, out: found.append(out))
        try:
            with evaluating(teacher):
                teacher.features(sound)
        finally:
            handle.remove()
        points = F.layer_norm(found[0].float(), found[0].shape[-1:])
        if not self.fitted:
            self.centres.copy_(k_means(parallel.gather(points.flatten(0, 1)), len(self.centres),   # type: ignore
                                       self.seed))
            self.fitted.fill_(1)                               # type: ignore[operator]
        return torch.cdist(points, self.centres.expand(len(points), -1, -1)).argmin(-1)          # type: ignore

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """source [B, N], heard [B], hidden [B, T]."""
        return {"source": batch["sound"], "heard": batch["heard"], "hidden": batch["hidden"]}

    def score(self, output: Float[Tensor, "B T K"], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of clusters -> (summed loss, sum of right first guesses)."""
        nll = F.cross_entropy(output.float().flatten(0, 1), batch["clusters"].flatten(), reduction="none")
        right = (output.argmax(-1) == batch["clusters"]).float()
        return (nll.view_as(right) * batch["weight"]).sum(), {"accuracy": (right * batch["weight"]).sum()}


def k_means(points: Float[Tensor, "N D"], count: int, seed: int) -> Float[Tensor, "K D"]:
    """Centres of `count` clusters (Lloyd 1982), from points drawn by the seed, the likelier the further they lie from
    those drawn before (k-means++, Arthur & Vassilvitskii 2007); a centre that no point is near to stays."""
    rng = torch.Generator().manual_seed(seed)
    drawn = [int(torch.randint(len(points), (1,), generator=rng))]
    away = torch.full((len(points),), torch.inf)
    for _ in range(count - 1):
        away = torch.minimum(away, (points - points[drawn[-1]]).square().sum(1).cpu())
        drawn.append(int(torch.multinomial(away + 1e-9, 1, generator=rng)))
    centres = points[drawn].clone()
    for _ in range(ROUNDS):
        near = F.one_hot(torch.cdist(points, centres).argmin(1), count).float()
        held = near.sum(0)[:, None]
        centres = torch.where(held > 0, near.T @ points / held.clamp(min=1), centres)
    return centres
