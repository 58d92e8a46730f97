"""Accelerators by name: what they can do at most, as their makers state it.

    device("h100-sxm").peak["bfloat16"]           # 989.4e12 FLOP/s, dense (sheets that print 1,979 count sparsity)

Rates are of one device and one direction: a sheet's 900 GB/s of NVLink are 450 each way. `node` devices share `link`;
beyond them lies `network`, the adapter of the maker's own reference system (a DGX A100 has eight of 200 Gb/s, a DGX
H100 eight of 400 Gb/s; cards in PCIe slots are taken to share one of 100 Gb/s). 0 means that the maker states nothing.
"""
from dataclasses import dataclass

from meristem.core.errors import RequestError, nearest

T, G = 10**12, 10**9
SHEET = "https://www.nvidia.com/en-us/data-center/"
CLOUD = "https://cloud.google.com/tpu/docs/"


@dataclass(frozen=True)
class Device:
    """One accelerator: FLOP/s by type, bytes, bytes/s, devices a node, watts, and where the figures stand."""

    peak: dict[str, float]
    memory: int
    bandwidth: float                    # of its memory
    link: float                         # to each of the others in its node, one direction
    node: int
    network: float                      # out of its node, one direction
    watts: float                        # rated, one device
    source: str

    def flops(self, dtype: str) -> float:
        """Peak FLOP/s of a compute type; RequestError where the device has no arithmetic of it."""
        if dtype not in self.peak:
            raise RequestError(f"this device has no {dtype} arithmetic; it has {', '.join(self.peak)}")
        return self.peak[dtype]


def _peak(half: float, single: float, eighth: float = 0.0, brain: bool = True) -> dict[str, float]:
    """TFLOP/s of fp16 (and bf16), fp32 (fp32 matrices are not sent through TF32) and fp8."""
    found = {"bfloat16": half * T} if brain else {}
    return {**found, "float16": half * T, "float32": single * T, **({"float8": eighth * T} if eighth else {})}


DEVICES = {
    "v100-sxm2-32gb": Device(_peak(125, 15.7, brain=False), 32 * G, 900 * G, 150 * G, 8, 12.5 * G, 300,
                             SHEET + "v100/"),
    "t4": Device(_peak(65, 8.1, brain=False), 16 * G, 320 * G, 16 * G, 1, 12.5 * G, 70, SHEET + "tesla-t4/"),
    "a100-pcie-40gb": Device(_peak(312, 19.5), 40 * G, 1555 * G, 32 * G, 4, 12.5 * G, 250, SHEET + "a100/"),
    "a100-sxm-40gb": Device(_peak(312, 19.5), 40 * G, 1555 * G, 300 * G, 8, 25 * G, 400, SHEET + "a100/"),
    "a100-sxm-80gb": Device(_peak(312, 19.5), 80 * G, 2039 * G, 300 * G, 8, 25 * G, 400, SHEET + "a100/"),
    "l40s": Device(_peak(362, 91.6, 733), 48 * G, 864 * G, 32 * G, 4, 12.5 * G, 350, SHEET + "l40s/"),
    "h100-pcie": Device(_peak(756, 51, 1513), 80 * G, 2000 * G, 64 * G, 4, 12.5 * G, 350, SHEET + "h100/"),
    "h100-sxm": Device(_peak(989.4, 66.9, 1978.9), 80 * G, 3350 * G, 450 * G, 8, 50 * G, 700, SHEET + "h100/"),
    "h200-sxm": Device(_peak(989.4, 66.9, 1978.9), 141 * G, 4800 * G, 450 * G, 8, 50 * G, 700, SHEET + "h200/"),
    "b200-sxm": Device(_peak(2250, 80, 4500), 180 * G, 8000 * G, 900 * G, 8, 50 * G, 1000, SHEET + "dgx-b200/"),
    "mi250x": Device(_peak(383, 95.7), 128 * G, 3277 * G, 100 * G, 4, 25 * G, 560,
                     "https://www.amd.com/en/products/accelerators/instinct/mi200/mi250x.html"),
    "mi300x": Device(_peak(1307.4, 163.4, 2614.9), 192 * G, 5300 * G, 448 * G, 8, 50 * G, 750,
                     "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html"),
    # One chip each; `node` is a pod, `link` all links of a chip together (v4's: Jouppi et al. 2023,
    # https://arxiv.org/abs/2304.01433). Google rates no watts; v4's are the largest that its page gives.
    "tpu-v4": Device({"bfloat16": 275 * T}, 32 * 2**30, 1200 * G, 300 * G, 4096, 3.1 * G, 192, CLOUD + "v4"),
    "tpu-v5e": Device({"bfloat16": 197 * T}, 16 * G, 819 * G, 200 * G, 256, 3.1 * G, 0, CLOUD + "v5e"),
    "tpu-v5p": Device({"bfloat16": 459 * T}, 95 * G, 2765 * G, 600 * G, 8960, 6.2 * G, 0, CLOUD + "v5p"),
    "tpu-v6e": Device({"bfloat16": 918 * T}, 32 * G, 1638 * G, 400 * G, 256, 12.5 * G, 0, CLOUD + "v6e"),
}


def device(name: str) -> Device:
    """The device called so; RequestError names all of them."""
    if name not in DEVICES:
        raise RequestError(f"no device {name!r}; {nearest(name, DEVICES)} (known: {', '.join(DEVICES)})")
    return DEVICES[name]
