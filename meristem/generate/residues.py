"""What a model of masked residues says of a chain, each place masked alone: it scores mutations and colours chains.

Meier et al. 2021, https://doi.org/10.1101/2021.07.09.450648, section 3 ("masked marginals").

    marginals(module, codec, "MKVLA")                          # log p of every token at every place, [5, V]
"""
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.generate.base import evaluating

TOGETHER = 16                           # masked copies of the chain a forward pass


def marginals(module: nn.Module, codec: Codec, chain: str) -> Float[Tensor, "L V"]:
    """log p of every residue at each place of a chain that is masked there alone.

    Of a chain longer than the context as much is read around each place as fits (Meier et al., appendix A).
    """
    ids = torch.from_numpy(codec.encode(chain)).long()
    room = min(len(ids), vars(module.config)["context"] - 2)
    ends = [torch.full((TOGETHER, 1), codec.marks[mark]) for mark in ("cls", "sep")]
    found = []
    with evaluating(module):
        for places in torch.arange(len(ids)).split(TOGETHER):
            first = (places - room // 2).clamp(0, len(ids) - room)
            tokens = ids[first[:, None] + torch.arange(room)]
            tokens[torch.arange(len(places)), places - first] = codec.marks["mask"]
            whole = torch.cat([ends[0][:len(places)], tokens, ends[1][:len(places)]], 1)
            found.append(module(whole, places=(places - first + 1)[:, None])[:, 0].float().log_softmax(-1))
    return torch.cat(found)
