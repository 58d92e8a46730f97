"""Texts of models that keep no pages, each in one turn of the engine: those that see, encoder-decoders, LSTMs.

    job = alone(model, ids, sampling, copies=2, source=shown)  # heard like an `Ask`: pieces as they appear, then `Done`

It is `generate.text.complete` with the same seed, so the words are those of `meristem generate`. The engine does
nothing else meanwhile: others wait for the whole text, not for a token of it. A client that leaves, or a deadline, ends
it at the next piece.
"""
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from meristem.generate.base import Read
from meristem.generate.sampling import Sampling
from meristem.generate.seq2seq import EncoderDecoder
from meristem.generate.text import complete
from meristem.serve.jobs import Call, Done, Piece, Token
from meristem.serve.loading import TextModel
from meristem.serve.settings import Late, TooLong


class Left(Exception):
    """Nobody listens any more."""


def alone(model: TextModel, ids: Sequence[int], sampling: Sampling, copies: int, client: str, deadline: float,
          source: Read | None = None) -> Call:
    """The job of one prompt; of an encoder-decoder the ids are what it reads. `TooLong` for what it cannot."""
    if len(ids) > model.context:
        raise TooLong(f"a text of {len(ids)} tokens exceeds the model's context of {model.context}; shorten it")
    job = Call(client=client, cost=len(ids), deadline=deadline)
    rows = [np.asarray(ids, dtype=np.int32)] * copies

    def heard(row: int, piece: str) -> None:
        if job.cancelled:
            raise Left
        if time.monotonic() > job.deadline:
            raise Late("the request took longer than its deadline")
        job.tell(Piece(row, piece, ()))

    def work(module: Any) -> Done:
        prompts, read = rows, source
        if isinstance(module, EncoderDecoder):
            prompts = [np.array([model.module.config.start])] * copies
        made = complete(module, model.codec, prompts, sampling, on_text=heard, also=model.stops,
                        source=rows if isinstance(module, EncoderDecoder) else read)
        for i, one in enumerate(made):
            tops = one.top or [[]] * len(one.tokens)
            tokens = [Token(*facts) for facts in zip(one.tokens, one.logprobs, tops, strict=True)]
            job.tell(Piece(i, "", tokens, one.reason))
        return Done(None, {"prompt": len(ids), "written": sum(len(one.tokens) for one in made)})

    job.work = work
    return job
