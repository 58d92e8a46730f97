"""Beam search: the likeliest texts that a fixed number of candidates finds (Graves 2012, https://arxiv.org/abs/1211.3711;
length normalisation: Wu et al. 2016, https://arxiv.org/abs/1609.08144 section 7, in the simpler form of transformers).

    generate(module, prompts, Sampling(beams=4, length_penalty=1.0))

Scores, candidates and the moment to stop are those of transformers' beam search with `early_stopping=False`: each step
takes the best (1 + stop tokens) * beams continuations; those that end among the first `beams` are finished, with
log-probability / tokens ** length_penalty (the stop token counts); the best that do not end go on; a prompt is done
when its best open beam could no longer beat its worst finished one.
"""
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meristem.generate.base import Control, Generation, Read, likeliest, normaliser, prefill, steered
from meristem.generate.sampling import BANNED, Sampling

NEVER = -1e9                            # the score of a beam that must not win


@dataclass
class _Beam:
    """An open candidate: what it wrote, and what steers it."""

    made: Generation
    score: float
    controls: list[Control]

    def grown(self, token: int, logp: float, top: list[tuple[int, float]] | None, score: float) -> "_Beam":
        """This beam with one more token."""
        m = self.made
        made = Generation([*m.tokens, token], [*m.logprobs, logp], False, [*m.top, top] if top else [], score)
        controls = [control.copy() for control in self.controls]
        for control in controls:
            control.push(token)
        return _Beam(made, score, controls)


@dataclass
class _Search:
    """One prompt: its open beams, best first, and its finished texts, best first."""

    row: int
    beams: list[_Beam]
    finished: list[Generation] = field(default_factory=list)


def search(module: nn.Module, prompts: Sequence[np.ndarray], sampling: Sampling, stop: Collection[int],
           on_token: Callable[[int, int], bool | None] | None, controls: list[list[Control]],
           ends: Callable[[int, list[int]], bool] | None, source: Read | None) -> list[Generation]:
    """The best finished text of each prompt; `on_token` hears of its tokens when all prompts are done."""
    count, out = sampling.beams, [Generation() for _ in prompts]
    cache, logits = prefill(module, prompts, sampling.length, source)
    searches = [_Search(row, [_Beam(Generation(), 0.0 if i == 0 else NEVER, [c.copy() for c in controls[row]])
                              for i in range(count)]) for row in range(len(prompts))]
    keep = torch.arange(len(prompts)).repeat_interleave(count)
    logits = logits[keep]
    for place in range(sampling.length):
        parents, going = [], []
        candidates = _continuations(searches, logits, sampling, len(stop))
        for i, (one, found) in enumerate(zip(searches, candidates, strict=True)):
            chosen = _settle(one, found, sampling, stop, ends, place)
            if chosen:
                going.append(one)
                parents += [i * count + beam for beam in chosen]
            else:
                out[one.row] = one.finished[0]
        searches = going
        if not searches:
            break
        keep = torch.tensor(parents) if place else keep[torch.tensor(parents)]     # the prompts' rows are repeated here
        for layer in cache:
            layer.keep(keep)
        at = torch.tensor([len(prompts[one.row]) + place for one in searches]).repeat_interleave(count)[:, None]
        new = torch.tensor([[b.made.tokens[-1]] for one in searches for b in one.beams])
        logits = module(new, positions=at, cache=cache)[:, 0].float()
    if on_token:
        for row, made in enumerate(out):
            for token in made.tokens:
                on_token(row, token)
    return out


@dataclass
class _Found:
    """A continuation: the beam it grows from, its token, the sum so far, its own log-probability, its rivals."""

    beam: int
    token: int
    score: float
    logp: float
    top: list[tuple[int, float]] | None


def _continuations(searches: Sequence[_Search], logits: Float[Tensor, "N V"], sampling: Sampling,
                   stops: int) -> list[list[_Found]]:
    """The best continuations of each prompt's beams, best first."""
    total = normaliser(logits)
    logp = logits - total[:, None]
    steps, dead = steered(logp, [beam.controls for one in searches for beam in one.beams])
    steps = steps.masked_fill(torch.tensor(dead)[:, None], BANNED)
    tops = likeliest(logits, total, sampling.top_logprobs) if sampling.top_logprobs else None
    count, vocab = sampling.beams, logits.shape[-1]
    scores = torch.tensor([[beam.score for beam in one.beams] for one in searches])                # [P, beams]
    sums = (steps.view(len(searches), count, vocab) + scores[:, :, None]).flatten(1)
    best, index = sums.topk(min(max(2, 1 + stops) * count, count * vocab))
    out = []
    for i, (values, places) in enumerate(zip(best.tolist(), index.tolist(), strict=True)):
        rows = [i * count + place // vocab for place in places]
        own = logp[rows, [place % vocab for place in places]].tolist()
        out.append([_Found(place // vocab, place % vocab, value, p, tops[row] if tops else None)
                    for place, value, p, row in zip(places, values, own, rows, strict=True)])
    return out


def _settle(one: _Search, found: list[_Found], sampling: Sampling, stop: Collection[int],
            ends: Callable[[int, list[int]], bool] | None, place: int) -> list[int]:
    """Finish what ends, open the best of the rest; the beams they grew from, or none when the prompt is done."""
    count, penalty = sampling.beams, (place + 1) ** sampling.length_penalty
    over: list[bool] = []
    for rank, f in enumerate(found):
        beam = one.beams[f.beam]
        stops = f.token in stop or bool(ends and ends(one.row, [*beam.made.tokens, f.token]))
        over.append(stops or place == sampling.length - 1)
        if over[-1] and rank < count and f.score > NEVER / 2:
            m, text = beam.made, f.token not in stop
            one.finished.append(Generation([*m.tokens, f.token] if text else m.tokens,
                                           [*m.logprobs, f.logp] if text else m.logprobs, stops,
                                           [*m.top, f.top] if text and f.top else m.top, f.score / penalty))
    one.finished = sorted(one.finished, key=lambda m: -m.score)[:count]                # stable: older ones stay ahead
    alive = [f for f, ended in zip(found, over, strict=True) if not ended and f.score > BANNED][:count]
    full = len(one.finished) == count
    if not alive or (full and alive[0].score / penalty <= one.finished[-1].score):
        if not one.finished:                                   # everything was banned before anything could end
            one.finished.append(max((b.made for b in one.beams), key=lambda m: m.score))
        return []
    spare = [replace(alive[0], score=NEVER)] * (count - len(alive))            # keeps the batch's shape, never wins
    one.beams = [one.beams[f.beam].grown(f.token, f.logp, f.top, f.score) for f in [*alive, *spare]]
    return [f.beam for f in [*alive, *spare]]
