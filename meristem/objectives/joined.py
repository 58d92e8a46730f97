"""Next-token prediction by a network that is joined from trained ones: a language model and a vision tower.

Alayrac et al. 2022, https://arxiv.org/abs/2204.14198 (section 3: both are frozen); Liu et al. 2023,
https://arxiv.org/abs/2304.08485 (section 4.2: the projector first, then the language model, too). `language` and
`vision` name run folders whose weights the parts begin with; "" = as they were drawn. What is trained is said by
`train.groups`, as anywhere. Batch: tokens, weight and images as for next_token.

    meristem pretrain flamingo data.corpus=ROWS objective.language=runs/lm objective.vision=runs/clip
"""
from typing import Any

from torch import nn

from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.objectives.next_token import NextToken

TOP = ("head.", "pooler.")              # of a vision tower: what stands on it is another task's


class Joined(NextToken):
    """Next-token prediction; RequestError when a folder's model has another shape than the part it should be."""

    def __init__(self, model: nn.Module, language: str = "", vision: str = ""):
        super().__init__(model)
        for part, folder in (("language", language), ("vision", vision)):
            if folder:
                fill(model, part, folder)


def fill(model: nn.Module, part: str, folder: str) -> None:
    """Give a part of a joined network the weights of a folder."""
    c: Any = model.config
    wanted = getattr(c, part)
    loaded = hf.load(folder)
    here, module = model.get_submodule(part), loaded.module
    if part == "vision" and "vision" in dict(module.named_children()):         # a CLIP: its vision tower alone
        module = module.get_submodule("vision")
    ours, theirs = ({n: tuple(t.shape) for n, t in m.state_dict().items()
                     if part == "language" or not n.startswith(TOP)} for m in (here, module))
    if loaded.family != wanted.name or ours != theirs:
        differ = next((n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)), "")
        raise RequestError(f"{folder} is a {loaded.family} that does not fit model.{part}, a {wanted.name}"
                           f"{f': {differ} is {theirs.get(differ)}, not {ours.get(differ)}' if differ else ''}; give "
                           f"model.{part} its shape")
    state = module.state_dict()
    here.load_state_dict({name: state[name] if name in ours else t for name, t in here.state_dict().items()})
