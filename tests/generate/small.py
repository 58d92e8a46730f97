"""A small random model that the tests of decoding share."""
from functools import cache

import numpy as np
import torch

from meristem.models.llama import Config, Model

VOCAB = 61


@cache
def model(seed: int = 0, layers: int = 2, move: float = 0.3, vocab: int = VOCAB, context: int = 96) -> Model:
    """Every weight is moved, because fresh blocks are the identity."""
    torch.manual_seed(seed)
    generator = torch.Generator()
    made = Model(Config(vocab=vocab, context=context, dim=32, layers=layers, heads=4, groups=2))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(move * torch.randn(p.shape, generator=generator.manual_seed(p.numel() + seed)))
    return made.eval()


def prompts(count: int, seed: int = 0, longest: int = 30) -> list[np.ndarray]:
    """Ragged rows of 1 to `longest` ids."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, rng.integers(1, longest + 1)) for _ in range(count)]
