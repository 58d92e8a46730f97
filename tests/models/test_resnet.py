"""ResNet computes what transformers computes, both ways, with the statistics of its batch norms."""
from pathlib import Path
from typing import Any

import pytest
import torch

from meristem.models.resnet import Config, Model
from meristem.nn.linear import compute_in
from tests.models import parity

SMALL = {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [2, 1]}
OURS = {"stem": 8, "widths": (16, 24), "depths": (2, 1), "image": 24}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bottleneck": ({}, {}),
    "basic": ({"layer_type": "basic"}, {"kind": "basic"}),
    "halved": ({"downsample_in_first_stage": True, "downsample_in_bottleneck": True},
               {"halve_first": True, "halve_early": True}),
}
HEADS = {"none": "Model", "image": "ForImageClassification"}
AUTO = {"none": "AutoModel", "image": "AutoModelForImageClassification"}


def pictures(side: int = 24) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(4))


def theirs(head: str, side: int = 24):
    return lambda model: getattr(model(pictures(side)), "logits" if head == "image" else "last_hidden_state")


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """Statistics that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(6)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            drawn = 0.1 * torch.rand(buffer.shape, generator=generator)
            buffer.copy_(drawn + 0.02 if "var" in name else drawn - 0.05)
        else:
            buffer.fill_(17)
    return model


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", CASES)
def test_both_ways(case: str, head: str, tmp_path: Path) -> None:
    fields, ours = CASES[case]
    labels = {"num_labels": 5} if head == "image" else {}
    model = moved(parity.theirs(f"ResNet{HEADS[head]}", "ResNetConfig", **SMALL, **fields, **labels))
    loaded = parity.read_theirs(model, tmp_path / "a", lambda m: m(pictures()), theirs(head))
    assert (loaded.family, loaded.config.head, loaded.config.image) == ("resnet", head, 224)
    with torch.no_grad():
        parity.close(loaded.module(pictures(40)), theirs(head, 40)(model))
    parity.theirs_reads("resnet", {**OURS, **ours, "head": head}, tmp_path / "b", lambda m: m(pictures()),
                        theirs(head), AUTO[head])


def test_it_trains_in_either_type_and_counts_its_batches() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        model = Model(Config(**OURS, kind="basic", head="image", labels=("a", "b", "c"))).train()
        compute_in(model, dtype)
        logits = model(pictures(32))
        assert logits.dtype == dtype and logits.shape == (2, 3)
        torch.nn.functional.cross_entropy(logits.float(), torch.tensor([0, 2])).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert int(model.stem.norm.num_batches_tracked) == 1 and model.stem.norm.running_mean.abs().sum() > 0


def test_a_vector_is_the_mean_of_the_maps() -> None:
    model = Model(Config(**OURS)).eval()
    features = model.features(pictures())
    torch.testing.assert_close(model.pool(features)[1, 3], features[1, 3].mean())


def test_shapes_that_cannot_be() -> None:
    for wrong in ({"depths": (1,)}, {"widths": (3, 8)}, {"widths": (), "depths": ()}, {"stem": 0}):
        with pytest.raises(ValueError):
            Config(**{**OURS, **wrong})
