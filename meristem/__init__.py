"""meristem: one readable codebase for the whole foundation-model lifecycle.

    import meristem
    model = meristem.load("runs/quickstart/base")        # a run folder, a model folder, or a LoRA adapter folder
    print(model.generate("def read_lines(path):"))
"""
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meristem.api import Model, load, save

__version__ = "0.1.0"
__all__ = ["Model", "load", "save"]


def __getattr__(name: str) -> Any:
    """`load`, `save` and `Model` import torch when they are first used, not with the package (PEP 562)."""
    if name in __all__:
        from meristem import api
        return getattr(api, name)
    raise AttributeError(f"module 'meristem' has no attribute {name!r}")
