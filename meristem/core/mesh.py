"""How many processes share a run, and in which ways: `Mesh.of("dp=2,tp=2")`, the value of `train.mesh`.

| axis | what its processes divide | communication |
| --- | --- | --- |
| pp | layers (train/pipeline.py) | activations between neighbours |
| dp | rows of the batch, and with `train.shard` parameters, gradients and moments (train/shard.py) | once a layer |
| cp | each row's places: keys and values travel (train/context.py) | once an attention |
| ep | experts, and rows like dp: tokens travel (train/experts.py) | twice a mixture layer |
| tp | matrices (train/tensor.py) | twice a layer, so it is innermost: neighbours on one machine |

Process r stands where numpy.unravel_index(r, (pp, dp, cp, ep, tp)) says.
"""
import dataclasses

from meristem.core.errors import RequestError, nearest

AXES = ("pp", "dp", "cp", "ep", "tp")   # outermost first


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The size of each axis; their product is the number of processes."""

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1

    @staticmethod
    def of(text: str) -> "Mesh":
        """"dp=2,tp=2" as a Mesh; "" is one process. RequestError for another axis or a size that is no number > 0."""
        sizes: dict[str, int] = {}
        for word in filter(None, (w.strip() for w in text.split(","))):
            axis, _, size = word.partition("=")
            if axis not in AXES:
                raise RequestError(f"no axis {axis!r} in mesh {text!r}; {nearest(axis, AXES)}")
            if not size.isdigit() or int(size) < 1 or axis in sizes:
                raise RequestError(f"{word!r} in mesh {text!r} is not AXIS=NUMBER once, with a number above 0")
            sizes[axis] = int(size)
        return Mesh(**sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """In the order of AXES."""
        return tuple(getattr(self, axis) for axis in AXES)

    @property
    def world(self) -> int:
        """The number of processes."""
        return self.dp * self.tp * self.pp * self.cp * self.ep

    @property
    def rows(self) -> int:
        """How many processes have rows of their own: dp times ep."""
        return self.dp * self.ep

    def at(self, rank: int) -> dict[str, int]:
        """Where process `rank` stands on each axis."""
        place = {}
        for axis, size in zip(reversed(AXES), reversed(self.sizes), strict=True):
            rank, place[axis] = divmod(rank, size)
        return place

    def __str__(self) -> str:
        return ",".join(f"{axis}={size}" for axis, size in zip(AXES, self.sizes, strict=True) if size > 1) or "dp=1"
