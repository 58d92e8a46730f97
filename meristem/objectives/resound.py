"""Train a neural audio codec: the sound that comes back should be like the one that went in.

Zeghidour et al. 2021, https://arxiv.org/abs/2107.03312, section III-E (equation 5, without its discriminators): spectra
of several window lengths, their differences and those of their logarithms; the samples themselves; and vectors should
lie near their codewords (`commit`).

    meristem pretrain audio_codec data.corpus=SOUNDS.jsonl
"""
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.codecs.audio import Mel, bands
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.objectives.base import Objective

WINDOWS = (64, 128, 256, 512, 1024)


class Resound(Objective):
    """Summed over sounds; facts: `spectrum`, `samples`, and `words`, how many codewords of a level are in use."""

    def __init__(self, model: nn.Module, commit: float = 0.25, samples: float = 1.0):
        super().__init__(model)
        if not {"levels", "codes", "hop"} <= set(dir(model.config)):
            raise RequestError("objective.name=resound trains a codec; set model.name=audio_codec")
        self.commit, self.samples = commit, samples

    def prepare(self, batch: Batch) -> Batch:
        """Every sound counts 1."""
        if "sound" not in batch:
            raise RequestError("resound needs sounds; set data.examples=sounds")
        return {**batch, "weight": torch.ones(len(batch["sound"]))}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """source [B, N]."""
        return {"source": batch["sound"]}

    def score(self, output: tuple[Tensor, Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sound again, ids and distances -> (summed loss, sums)."""
        (again, ids, away), sound = output, batch["sound"]
        again = again.float()
        spectrum = spectra(again, sound, vars(self.model.config)["rate"])
        plain = (again - sound).abs().mean(1)
        loss = spectrum + self.samples * plain + self.commit * away.mean(1)
        words = torch.tensor(float(sum(len(ids[..., n].unique()) for n in range(ids.shape[-1])) / ids.shape[-1]))
        return loss.sum(), {"spectrum": spectrum.sum(), "samples": plain.sum(), "words": words * len(sound)}


def spectra(a: Float[Tensor, "B N"], b: Float[Tensor, "B N"], rate: int) -> Float[Tensor, "B"]:
    """How unlike two sounds are in their mel spectra, on the mean over window lengths."""
    total = torch.zeros(len(a), device=a.device)
    for window in WINDOWS:
        count = max(8, window // 8)
        table = torch.from_numpy(bands(Mel(rate, window, window // 4, min(count, 64)))).float().to(a.device)
        shape = torch.hann_window(window, device=a.device)
        x, y = (torch.stft(s, window, window // 4, window=shape, return_complex=True).abs().mT @ table for s in (a, b))
        total = total + (x - y).abs().mean((1, 2)) / y.mean((1, 2)).clamp(min=1e-3)
        total = total + (x.clamp(min=1e-4).log() - y.clamp(min=1e-4).log()).abs().mean((1, 2))
    return total / len(WINDOWS)
