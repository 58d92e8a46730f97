"""Build the kernel and say what it can do here: `python -m meristem.nn.kernel`."""
from meristem.nn import kernel

if __name__ == "__main__":
    print(kernel.why())
