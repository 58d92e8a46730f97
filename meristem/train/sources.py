"""Where the batches of a run come from: packed documents, worked examples, pairs, pictures.

    source = source_of(run, corpus, codec, shards, "train", objective)         # source(step): its micro-batches
    batches = held_out_of(run, corpus, codec, shards, objective)               # what a validation looks at
"""
from collections.abc import Callable

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.core.run import Run
from meristem.core.types import Batch
from meristem.corpus.store import Corpus
from meristem.data import encoders, examples, pairs, pictures
from meristem.data.loader import Packed, separate, sweep
from meristem.data.segments import ENTRY as SEGMENTS
from meristem.data.segments import Segments
from meristem.data.shards import Shards
from meristem.objectives.base import Objective

VALIDATION_TOKENS = 1 << 17             # held-out tokens a validation looks at, at most
VALIDATION_PICTURES = 1024
Source = Callable[[int], list[Batch]]   # a step's micro-batches, as a pure function of the step


def source_of(run: Run, corpus: Corpus, codec: Codec, shards: Shards, split: str, objective: Objective) -> Source:
    """Where batches of one split come from: packed documents, worked examples, or pictures."""
    t = run.train
    seed = seed_of(run.seed, "order", split)
    if run.data.examples == pictures.ENTRY:
        side, channels = objective.picture
        return pictures.Pictures.of(corpus, codec, split, side, channels, t.context, (t.batch, seed, t.micro))
    if run.data.examples == SEGMENTS:
        side, channels = objective.picture
        return Segments.of(corpus, split, side, channels, (t.batch, seed, t.micro))
    if run.data.examples in encoders.ENTRIES:
        given = encoders.Given(corpus, codec, shards.split(split), t.context, (t.batch, seed, t.micro))
        return encoders.source(run.data.examples, given)
    if run.data.examples == pairs.ENTRY:
        return pairs.Pairs(pairs.texts(corpus, split), codec, t.context, t.batch, seed, micro=t.micro)
    if run.data.examples:
        found = examples.find(run.data.examples)(corpus, split)
        return examples.Completions(found, codec, t.context, t.batch, seed, micro=t.micro)
    return Packed(shards.split(split), t.context, t.batch, seed, micro=t.micro)


def apart(run: Run, batches: list[Batch], end: int) -> list[Batch]:
    """Batches whose documents do not see each other, where the run wants that; RequestError for rows of examples that
    number their parts themselves."""
    if run.data.packing == "separate" and run.data.examples in (pairs.ENTRY, *encoders.ENTRIES):
        raise RequestError(f"data.packing=separate tells packed documents apart, and the rows of data.examples="
                           f"{run.data.examples} are no such ones; leave data.packing=joined")
    return [separate(batch, end) for batch in batches] if run.data.packing == "separate" else batches


def held_out_of(run: Run, corpus: Corpus, codec: Codec, shards: Shards, objective: Objective) -> list[Batch]:
    """The validation batches of a run, at most about VALIDATION_TOKENS tokens, the same ones every time."""
    t = run.train
    if not run.data.examples:
        return list(sweep(shards.split("validation"), t.context, t.micro or t.batch, VALIDATION_TOKENS))
    source = source_of(run, corpus, codec, shards, "validation", objective)
    if isinstance(source, pictures.Pictures):
        return list(source.held_out(t.micro or t.batch, VALIDATION_PICTURES))
    if isinstance(source, Segments):
        return list(source.held_out(t.micro or t.batch, VALIDATION_PICTURES))
    if isinstance(source, encoders.Source):
        return list(encoders.held_out(source, t.micro or t.batch, VALIDATION_TOKENS))
    if isinstance(source, pairs.Pairs):
        return list(source.held_out(t.micro or t.batch, VALIDATION_TOKENS))
    assert isinstance(source, examples.Completions)
    steps = max(1, min(source.order.n // t.batch, VALIDATION_TOKENS // (t.batch * t.context)))
    return [batch for step in range(steps) for batch in source(step)]
