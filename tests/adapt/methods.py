"""Small models of every family and adapters that compute something: what the tests of this folder share."""
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from meristem.core import registry
from meristem.core.config import Part, build
from meristem.hub import hf

TOKENS = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(0))
PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
TEXT = {"vocab": 61, "context": 32, "dim": 32, "layers": 2, "heads": 4}
FIELDS: dict[str, dict[str, Any]] = {
    "llama": {**TEXT, "groups": 2, "hidden": 48}, "gpt2": TEXT, "neox": TEXT, "palm": TEXT,
    "starcoder2": {**TEXT, "groups": 2}, "mixtral": {**TEXT, "groups": 2, "hidden": 48, "experts": 4},
    "llama4": {**TEXT, "groups": 2, "head_dim": 8, "hidden": 24, "experts": 4},
    "bert": {**TEXT, "dropout": 0.0, "head": "lm"}, "t5": {**TEXT, "hidden": 64},
    "vit": {"image": 16, "patch": 8, "dim": 32, "layers": 2, "heads": 4, "head": "image", "labels": ("a", "b")}}
DECODERS = ("llama", "gpt2", "neox", "palm", "starcoder2", "mixtral", "llama4")


def small(family: str, seed: int = 0, **fields: Any) -> nn.Module:
    """A small model with every weight moved away from zero, the same at every call."""
    entry = registry.load("models", family)
    torch.manual_seed(seed)
    module = entry.Model(build(entry.Config, Part(family, {**FIELDS[family], **fields}))).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape) * 0.05)
    return module


def output(module: nn.Module, family: str) -> torch.Tensor:
    """What a model makes of the same input."""
    if family == "vit":
        return module(images=PIXELS)
    return module(TOKENS, source=TOKENS.flip(1)) if family == "t5" else module(TOKENS)


def shaken(module: nn.Module, std: float = 0.1) -> nn.Module:
    """The adapted module with every trained number moved."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * std)
    return module


def attach(module: nn.Module, method: str, **fields: Any) -> nn.Module:
    """The module adapted by one method, seed 1."""
    entry = registry.load("adapt", method)
    made: nn.Module = entry.attach(module, entry.Config(**fields), 1)
    return made


def theirs(folder: Path, module: nn.Module, family: str) -> Any:
    """The base as a model of transformers."""
    if not folder.exists():
        hf.save(folder, family, module.config, module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auto = {"vit": transformers.AutoModelForImageClassification,
                "t5": transformers.AutoModelForSeq2SeqLM,
                "bert": transformers.AutoModelForMaskedLM}.get(family, transformers.AutoModelForCausalLM)
        return auto.from_pretrained(folder).eval()
