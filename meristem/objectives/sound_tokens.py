"""AudioLM's shape: predict a text and then its sound, codeword by codeword, with any decoder.

Borsos et al. 2022, https://arxiv.org/abs/2209.03143, section 3. Sounds become the codewords of a frozen neural codec
(models/audio_codec.py), which are tokens of the decoder's own vocabulary (generate/speak.py), as in AudioPaLM
(Rubenstein et al. 2023, https://arxiv.org/abs/2306.12925, section 3.1). Loss on the sound alone; the text is given.

    meristem pretrain speak data.corpus=SPEECH.jsonl objective.ear=runs/audio_codec
"""
from typing import Any

import torch
from torch import Tensor, nn

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.data.sounds import Form
from meristem.generate.speak import Speaker, ids_of
from meristem.hub import hf
from meristem.objectives.next_token import NextToken


class SoundTokens(NextToken):
    """Summed -log p(codeword | text, codewords so far)."""

    anywhere = False

    def __init__(self, model: nn.Module, codec: Codec, ear: str = ""):
        super().__init__(model)
        if not ear:
            raise RequestError("which codewords? add objective.ear=FOLDER of a run of recipe audio_codec")
        # A tuple, because a module that is an attribute would be saved with the model.
        self.frozen, self.codec = (hf.load(ear).module.requires_grad_(False),), codec
        c: Any = self.ear.config
        if not {"levels", "codes", "hop"} <= set(dir(c)):
            raise RequestError(f"{ear} is no audio codec; train one with recipe audio_codec")
        self.ids = ids_of(codec, c.levels, c.codes)
        context = vars(model.config)["context"]
        if context < c.frames * c.levels + 2:
            raise RequestError(f"a sound of {c.frames * c.levels} tokens and its text exceed the model's context of "
                               f"{context}; raise model.context")

    @property
    def ear(self) -> Any:
        """What turns sounds into codewords and back."""
        return self.frozen[0]

    @property
    def sound(self) -> Form:
        """What the codec hears."""
        c = self.ear.config
        return Form(c.rate, c.samples)

    def prepare(self, batch: Batch) -> Batch:
        """tokens [B, T+1]: text, its end, codewords, padding; weight [B, T], 1 where a codeword is predicted."""
        if "sound" not in batch:
            raise RequestError("sound_tokens needs sounds; set data.examples=sounds")
        codes = self.ear.tokens(batch["sound"])                                    # [B, frames, levels]
        levels = torch.arange(codes.shape[2])
        said = self.ids[levels, codes].flatten(1)
        words, read = batch["tokens"][:, :-1], (batch["segments"] == 0).sum(1)
        context: int = vars(self.model.config)["context"]
        words = words[:, :context + 1 - said.shape[1]]
        read = read.clamp(max=words.shape[1])
        at = torch.arange(words.shape[1] + said.shape[1])
        place = (at - read[:, None]).clamp(min=0, max=said.shape[1] - 1)
        first = words.gather(1, at.clamp(max=words.shape[1] - 1).expand(len(words), -1))
        inside = (at >= read[:, None]) & (at < read[:, None] + said.shape[1])
        tokens = torch.where(at < read[:, None], first, torch.where(inside, said.gather(1, place), self.codec.end))
        return {"tokens": tokens, "weight": inside[:, 1:].float()}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """tokens [B, T]."""
        return {"tokens": batch["tokens"][:, :-1]}

    def speaker(self, codec: Codec) -> Speaker:
        """What speaks with the model as it was trained to."""
        return Speaker(self.model, codec, self.ear)
