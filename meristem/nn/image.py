"""Pictures as tensors: bytes to numbers from -1 to 1."""
from jaxtyping import Float
from torch import Tensor


def between(images: Tensor) -> Float[Tensor, "B *P C H W"]:
    """Bytes as numbers from -1 to 1; what is float already is left alone."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1


def levelled(images: Float[Tensor, "B C H W"],
             levels: tuple[tuple[float, ...], tuple[float, ...]] | None) -> Float[Tensor, "B C H W"]:
    """Numbers from -1 to 1 as numbers from 0 to 1 less the mean of their channel, over its deviation; None: as is."""
    if levels is None:
        return images
    mean, std = (images.new_tensor(row)[:, None, None] for row in levels)
    return images / (2 * std) + (0.5 - mean) / std
