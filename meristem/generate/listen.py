"""What was said, and when: Whisper's decoding, with its rules for times and its windows over long sounds.

Radford et al. 2022, https://arxiv.org/abs/2212.04356 (section 2.3: tasks as tokens; section 3.8 and 4.5: times and
windows). A model whose tokenizer has the marks is prompted with them; any other begins with its start token.

    transcribe(module, codec, [samples])                        # ["seven", ...]: sounds of at most the model's length
    for part in segments(module, codec, samples): ...           # Part(0.0, 2.4, "Ask not"), a long sound
"""
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from meristem.codecs.audio import Mel, fit, log_mel, normal
from meristem.codecs.base import Codec, Fast
from meristem.core.errors import RequestError
from meristem.generate.autoregressive import generate
from meristem.generate.sampling import BANNED

BEGIN, TASK, PLAIN = "<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>"
TIME = re.compile(r"<\|(\d+\.\d\d)\|>")
FIRST = 1.0                             # seconds: the latest beginning of the first words of a window
TOGETHER = 16                           # sounds heard at once


class Heard:
    """Frames beside the prompts, encoded once (`generate.base.Read`)."""

    def __init__(self, module: nn.Module, frames: Float[Tensor, "B M N"]):
        self.module = module
        self.memory = module.encode(frames)                    # type: ignore[operator]

    def caches(self, rows: Sequence[int], length: int) -> list[Any]:
        """The cache of a decoder that writes for these rows."""
        return self.module.caches(self.memory[torch.tensor(rows)], length)         # type: ignore[operator]


@dataclass(frozen=True)
class Part:
    """Words with their beginning and end in seconds."""

    start: float
    end: float
    text: str


class Times:
    """Whisper's rules (`generate.base.Control`): times come in pairs around words, never go back, and come where all
    of them together are likelier than any word. `times` are the ids of 0.00, 0.02, ... in order."""

    def __init__(self, times: Sequence[int], end: int, plain: int = -1):
        self.first, self.count, self.end, self.plain = times[0], len(times), end, plain
        self.written: list[int] = []

    def apply(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """Logits of the next token; -inf where it must not stand."""
        out = logits.clone()
        last, stop = self.first, self.first + self.count
        if self.plain >= 0:
            out[self.plain] = BANNED
        was = [self.is_time(token) for token in self.written]
        if was and was[-1]:
            if len(was) < 2 or was[-2]:                        # a pair is complete: words must follow
                out[last:stop] = BANNED
            else:                                              # an end stands alone: a beginning, or the end of all
                kept = out[[*range(last, stop), self.end]].clone()
                out[:] = BANNED
                out[[*range(last, stop), self.end]] = kept
        known = [token for token in self.written if self.is_time(token)]
        if known:
            alone = was[-1] and not (len(was) < 2 or was[-2])
            out[last:known[-1] + (0 if alone else 1)] = BANNED
        if not self.written:
            kept = out[last:min(stop, last + round(FIRST / 0.02) + 1)].clone()
            out[:] = BANNED
            out[last:last + len(kept)] = kept
        logp = out.float().log_softmax(-1)
        words = torch.cat([logp[:last], logp[stop:]])
        if logp[last:stop].logsumexp(0) > words.max():
            kept = out[last:stop].clone()
            out[:] = BANNED
            out[last:stop] = kept
        return out

    def is_time(self, token: int) -> bool:
        """Whether a token is a time."""
        return self.first <= token < self.first + self.count

    def push(self, token: int) -> None:
        """This token was written."""
        self.written.append(token)

    def copy(self) -> "Times":
        """The same state, going its own way from here."""
        other = Times(range(self.first, self.first + self.count), self.end, self.plain)
        other.written = list(self.written)
        return other


def prompt(config: Any, codec: Codec, times: bool = False, language: str = "") -> list[int]:
    """The tokens before a text: Whisper's marks where the tokenizer has them, else the model's start token."""
    special: dict[str, int] = codec.special if isinstance(codec, Fast) else {}
    if BEGIN not in special:
        return [config.start]
    spoken = [special[f"<|{language}|>"]] if f"<|{language}|>" in special else []
    return [special[BEGIN], *spoken, *([special[TASK]] if TASK in special else []),
            *([special[PLAIN]] if PLAIN in special and not times else [])]


def frames_of(config: Any, sounds: Sequence[Float32[np.ndarray, "_N"]]) -> Float[Tensor, "B M N"]:
    """Log-mel frames of sounds at the model's rate, each cut or padded to the model's length."""
    c = config
    samples = np.stack([fit(sound, c.samples) for sound in sounds])
    return torch.from_numpy(log_mel(samples, Mel(c.rate, c.rate // 40, c.rate // 100, c.mels)))


def transcribe(module: nn.Module, codec: Codec, sounds: Sequence[Float32[np.ndarray, "_N"]], *, length: int = 0,
               language: str = "") -> list[str]:
    """The likeliest text of each sound, greedily; what is longer than the model hears is cut."""
    out: list[str] = []
    letters = vars(module.config).get("head") == "ctc"
    for start in range(0, len(sounds), TOGETHER):
        if letters:
            out += [codec.decode(ids).strip() for ids in _lettered(module, sounds[start:start + TOGETHER])]
            continue
        made = _written(module, codec, sounds[start:start + TOGETHER], length, language, False)
        out += [codec.decode(tokens).strip() for tokens in made]
    return out


def segments(module: nn.Module, codec: Codec, sound: Float32[np.ndarray, "N"], *, language: str = "") -> list[Part]:
    """Words with their times over a sound of any length: each window begins where the last words before it ended.

    RequestError for a tokenizer without times.
    """
    config: Any = module.config
    times = times_of(codec)
    seconds, at, found = config.samples / config.rate, 0.0, list[Part]()
    while at * config.rate < len(sound) - config.rate // 10:
        some = sound[int(at * config.rate):]
        tokens = _written(module, codec, [some], 0, language, True)[0]
        parts, until = parse(tokens, codec, times)
        rest = len(some) / config.rate                         # the last window ends in silence that is not the sound's
        found += [Part(at + p.start, at + min(p.end, rest), p.text) for p in parts if p.text and p.start < rest]
        at += until if 0.1 < until <= seconds else seconds
    return found


def times_of(codec: Codec) -> dict[int, float]:
    """Token -> seconds, of a tokenizer with times."""
    special: dict[str, int] = codec.special if isinstance(codec, Fast) else {}
    found = {id: float(match[1]) for text, id in special.items() if (match := TIME.fullmatch(text))}
    if not found:
        raise RequestError("this tokenizer has no times (<|0.00|> and on); transcribe without them")
    return dict(sorted(found.items()))


def parse(tokens: Sequence[int], codec: Codec, times: dict[int, float]) -> tuple[list[Part], float]:
    """The parts between times, and where the last closed one ends (0 where none does)."""
    parts, start, words, until = list[Part](), -1.0, list[int](), 0.0
    for token in tokens:
        if token not in times:
            words.append(token)
        elif start >= 0 and words:
            until = times[token]
            parts.append(Part(start, until, codec.decode(words).strip()))
            start, words = -1.0, []
        else:
            start = times[token]
    return parts, until


def collapsed(logits: Float[Tensor, "B T V"], frames: Tensor, blank: int) -> list[list[int]]:
    """The likeliest letter of each place, repeats once, blanks left out."""
    best = logits.argmax(-1)
    return [[int(t) for t in torch.unique_consecutive(row[:n]) if t != blank] for row, n in
            zip(best, frames.tolist(), strict=True)]


def _written(module: nn.Module, codec: Codec, sounds: Sequence[np.ndarray], length: int, language: str,
             times: bool) -> list[list[int]]:
    config: Any = module.config
    first = np.array(prompt(config, codec, times, language))
    with torch.no_grad():
        heard = Heard(module, frames_of(config, sounds))
    rules = [Times(list(times_of(codec)), codec.end, _plain(codec)) for _ in sounds] if times else []
    made = generate(module, [first] * len(sounds), length=length or config.context - len(first), stop={codec.end},
                    source=heard, grammars=rules)
    return [one.tokens for one in made]


@torch.no_grad()
def _lettered(module: nn.Module, sounds: Sequence[np.ndarray]) -> list[list[int]]:
    """Ids that a head of letters reads off samples."""
    config: Any = module.config
    heard = torch.tensor([min(len(sound), config.samples) for sound in sounds])
    samples = np.stack([fit(normal(sound[:config.samples]), config.samples) for sound in sounds])
    logits = module(torch.from_numpy(samples), heard)
    return collapsed(logits, config.frames(heard).clamp(min=1), config.end)


def _plain(codec: Codec) -> int:
    return codec.special.get(PLAIN, -1) if isinstance(codec, Fast) else -1
