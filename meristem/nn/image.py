"""Pictures as tensors: bytes to numbers from -1 to 1."""
from jaxtyping import Float
from torch import Tensor


def between(images: Tensor) -> Float[Tensor, "B C H W"]:
    """Bytes as numbers from -1 to 1; what is float already is left alone."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1
