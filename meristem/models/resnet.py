"""ResNet: the ordinary convolutional network, which the transformers over pictures are judged beside.

He et al. 2015, https://arxiv.org/abs/1512.03385 (table 1: the sizes; figure 5: basic and bottleneck blocks), as
transformers writes it: stride 2 in the 3 x 3 convolution of a bottleneck, as torchvision has it too. Its batch norms
learn from the rows of one forward pass, so with train.micro another function is learned: leave it at 0.

    model = Model(Config(kind="basic", image=32, widths=(32, 64), depths=(1, 1))); model(torch.rand(8, 3, 32, 32))
"""
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.core.names import FieldMap, Group, Kind, NameMap, NameMaps
from meristem.nn.conv import Conv, Stem
from meristem.nn.linear import Linear
from meristem.nn.mlp import ACTIVATIONS, Activation

NARROW = 4                              # a bottleneck's inner width over its outer one


@dataclass(frozen=True)
class Config:
    """A network's shape; `image` is the side of the pictures that it is given, any other works too."""

    kind: Literal["bottleneck", "basic"] = "bottleneck"
    head: Literal["none", "image"] = "none"
    image: int = 224
    channels: int = 3
    stem: int = 64
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    halve_first: bool = False           # whether the first stage halves the picture, as the others do
    halve_early: bool = False           # bottleneck: stride 2 in its first convolution (the paper's own, "v1")
    activation: Activation = "relu"
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths) or not self.widths or min(*self.widths, *self.depths, self.stem) < 1:
            raise ValueError(f"widths {self.widths} and depths {self.depths} must be as many, and at least 1 each")
        if self.kind == "bottleneck" and min(self.widths) < NARROW:
            raise ValueError(f"the widths of bottlenecks must be at least {NARROW}, not {self.widths}")


class Unit(nn.Module):
    """activation(norm(conv x)); the last of a branch has no activation."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, activation: str = "",
                 kind: type[Conv] = Conv):
        super().__init__()
        self.conv = kind(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
        self.norm, self.activation = nn.BatchNorm2d(outputs), activation

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O h w"]:
        """[B, in, H, W] -> [B, out, H / stride, W / stride]."""
        x = self.norm(self.conv(x))
        return ACTIVATIONS[self.activation](x) if self.activation else x


class Block(nn.Module):
    """activation(shortcut(x) + branch(x)): two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1."""

    def __init__(self, c: Config, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.shortcut = Unit(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else None
        if c.kind == "basic":
            units = [Unit(inputs, outputs, 3, stride, c.activation), Unit(outputs, outputs)]
        else:
            first, second, inner = stride if c.halve_early else 1, 1 if c.halve_early else stride, outputs // NARROW
            units = [Unit(inputs, inner, 1, first, c.activation), Unit(inner, inner, 3, second, c.activation),
                     Unit(inner, outputs, 1)]
        self.branch, self.activation = nn.Sequential(*units), c.activation

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O h w"]:
        """[B, in, H, W] -> [B, out, H / stride, W / stride]."""
        return ACTIVATIONS[self.activation](self.branch(x) + (x if self.shortcut is None else self.shortcut(x)))


class Model(nn.Module):
    """Images -> maps of features or class logits; `pool` is the picture as one vector."""

    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.stem = Unit(c.channels, c.stem, 7, 2, c.activation, Stem)
        self.stages = nn.ModuleList(nn.ModuleList(blocks) for blocks in _stages(c))
        self.head = Linear(c.widths[-1], len(c.labels)) if c.head == "image" else None
        self.initialise()

    def initialise(self) -> None:
        """Convolutions as He et al. 2015, https://arxiv.org/abs/1502.01852, equation 10; a classifier of zeros."""
        for module in self.modules():
            if isinstance(module, Conv):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if self.head is not None:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E h w"]:
        """The maps after the last stage: a 32nd of the side (a 64th with `halve_first`) for four stages."""
        x = F.max_pool2d(self.stem(images), 3, stride=2, padding=1)
        for stage in self.stages:
            for block in stage:                                                # type: ignore[attr-defined]
                x = block(x)
        return x

    def pool(self, features: Float[Tensor, "B E h w"]) -> Float[Tensor, "B E"]:
        """The picture as one vector: the mean of every map."""
        return features.mean((2, 3))

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E *hw"]:
        """Maps [B, E, h, w], or class logits [B, L] with the "image" head."""
        features = self.features(images)
        return features if self.head is None else self.head(self.pool(features))


def _stages(c: Config) -> Iterator[list[Block]]:
    strides = [2 if c.halve_first else 1, *[2] * (len(c.widths) - 1)]
    for (inputs, outputs), depth, stride in zip(pairwise((c.stem, *c.widths)), c.depths, strides, strict=True):
        yield [Block(c, inputs, outputs, stride), *(Block(c, outputs, outputs, 1) for _ in range(depth - 1))]


BASIC = (64, 128, 256, 512)
SIZES = {                                                       # table 1
    "resnet-18": Config(kind="basic", head="image", widths=BASIC, depths=(2, 2, 2, 2)),
    "resnet-34": Config(kind="basic", head="image", widths=BASIC),
    "resnet-50": Config(head="image"),
    "resnet-101": Config(head="image", depths=(3, 4, 23, 3)),
    "resnet-152": Config(head="image", depths=(3, 8, 36, 3)),
}

UNIT = (("conv.weight", "convolution.weight"), ("norm.{x}", "normalization.{x}"))
PLACES = (("stem", "embedder.embedder"),
          ("stages.{i}.{j}.shortcut", "encoder.stages.{i}.layers.{j}.shortcut"),
          ("stages.{i}.{j}.branch.{k}", "encoder.stages.{i}.layers.{j}.layer.{k}"))
ROWS = tuple((f"{ours}.{a}", f"{theirs}.{b}") for ours, theirs in PLACES for a, b in UNIT)
NAMES = {"none": NameMap(*ROWS),
         "image": NameMap(*((ours, f"resnet.{theirs}") for ours, theirs in ROWS), ("head.{x}", "classifier.1.{x}"))}
HF = NameMaps(lambda c: NAMES[c.head])

# what a backbone would hand out changes nothing; the side is ours, their network takes any
UNUSED = Group(("stage_names", "out_features", "out_indices"), lambda whole, kind: {}, lambda config, kind: {})
HF_CONFIG = FieldMap(
    Kind("ResNetModel", "resnet", {"head": "none"}), Kind("ResNetForImageClassification", "resnet", {"head": "image"}),
    rows=(("kind", "layer_type", "bottleneck"), ("image", "image_size", 224), ("channels", "num_channels", 3),
          ("stem", "embedding_size", 64), ("widths", "hidden_sizes"), ("depths", "depths"),
          ("halve_first", "downsample_in_first_stage", False), ("halve_early", "downsample_in_bottleneck", False),
          ("activation", "hidden_act", "relu")),
    fixed={}, labels="labels", groups=(UNUSED,))
