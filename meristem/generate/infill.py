"""Fill in the middle: how a prefix, a suffix and what stands between them become one row for a left-to-right model.

Bavarian et al. 2022, https://arxiv.org/abs/2207.14255, section 3, with the sentinel tokens of StarCoder:

    PSM   <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle end
    SPM   <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle end          (section 3.1, the second variant)

A model trained on such rows (`objectives/fill_in_the_middle.py`) fills a gap by going on after the row without its
middle: `prompt(codec, "def add(a, b):\n    ", "\n\nprint(add(1, 2))")`, then `generate` until the end token.
"""
from dataclasses import dataclass

import numpy as np

from meristem.codecs.base import Codec, Fast, begin
from meristem.core.errors import RequestError

STARCODER = ("<fim_prefix>", "<fim_middle>", "<fim_suffix>")   # what we fit: data.codec.special=[...]
SPELLED = (STARCODER, ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),      # Qwen2.5-Coder
           ("<fim-prefix>", "<fim-middle>", "<fim-suffix>"))                        # SantaCoder


@dataclass(frozen=True)
class Sentinels:
    """The ids of the three tokens that no text is ever parsed as."""

    prefix: int
    middle: int
    suffix: int

    @classmethod
    def of(cls, codec: Codec) -> "Sentinels":
        """Those of a codec, in any of the spellings known; RequestError when it has none."""
        special: dict[str, int] = codec.special if isinstance(codec, Fast) else {}
        for names in SPELLED:
            if all(name in special for name in names):
                return cls(*(special[name] for name in names))
        raise RequestError(f"the tokenizer has no special tokens {', '.join(STARCODER)}, so nothing marks the gap; fit "
                           f"one that has: data.codec.name=bpe 'data.codec.special={list(STARCODER)}'")

    def arrange(self, prefix: np.ndarray, middle: np.ndarray, suffix: np.ndarray, spm: bool = False) -> np.ndarray:
        """One row of ids in PSM or SPM order, without an end token; `middle` comes last, so that it can be left out."""
        if spm:
            parts = [[self.prefix, self.suffix], suffix, [self.middle], prefix, middle]
        else:
            parts = [[self.prefix], prefix, [self.suffix], suffix, [self.middle], middle]
        return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


def prompt(codec: Codec, prefix: str, suffix: str, spm: bool = False, room: int = 0, begins: bool = True) -> np.ndarray:
    """The ids after which a model writes what belongs between two texts, taken as one document.

    `room` > 0: at most so many ids; what lies farthest from the gap is left out, from both sides alike. `begins`: the
    document begins with the prefix, so the token before a document comes first.
    """
    before, after = codec.encode_batch([prefix, suffix])
    sentinels, keep = Sentinels.of(codec), room - 4            # three sentinels and the end token
    if 0 < room <= 4:
        raise RequestError(f"{room} tokens leave no room for the text around a gap; ask for fewer new tokens")
    if 0 < room < len(before) + len(after) + 4:
        after = after[:max(keep // 2, keep - len(before))]
        before = before[len(before) + len(after) - keep:]
    row = sentinels.arrange(before, np.empty(0, np.int64), after, spm)
    return np.concatenate([[begin(codec)], row]) if begins else row
