"""Where the batches of a run come from: packed documents, worked examples, pairs, pictures.

    source = source_of(run, corpus, codec, shards, "train", objective)         # source(step): its micro-batches
    batches = held_out_of(run, corpus, codec, shards, objective)               # what a validation looks at
"""
from collections.abc import Callable

from meristem.codecs.base import Codec
from meristem.codecs.chat import Chat
from meristem.core.errors import RequestError
from meristem.core.random import seed_of
from meristem.core.run import Run
from meristem.core.types import Batch
from meristem.corpus.store import Corpus
from meristem.data import (
    clips,
    conversations,
    edits,
    encoders,
    examples,
    interleaved,
    pairs,
    pictures,
    preferences,
    questions,
    series,
    sounds,
)
from meristem.data.conversations import Conversations, Reader
from meristem.data.loader import Packed, separate, sweep
from meristem.data.preferences import Judged, Preferences
from meristem.data.questions import Questions
from meristem.data.segments import ENTRY as SEGMENTS
from meristem.data.segments import Segments
from meristem.data.shards import Shards
from meristem.objectives.base import Objective
from meristem.objectives.rollouts import Rollouts
from meristem.train import mixed

VALIDATION_TOKENS = 1 << 17             # held-out tokens a validation looks at, at most
VALIDATION_PICTURES = 1024
DIALOGUES = (conversations.ENTRY, preferences.PAIRS, preferences.JUDGED, questions.ENTRY, interleaved.ENTRY)
NUMBERED = (pairs.ENTRY, *encoders.ENTRIES, *DIALOGUES)        # entries whose rows number their parts themselves
Source = Callable[[int], list[Batch]]   # a step's micro-batches, as a pure function of the step


def source_of(run: Run, corpus: Corpus, codec: Codec, shards: Shards, split: str, objective: Objective,
              chat: Chat | None = None) -> Source:
    """Where batches of one split come from: packed documents, worked examples, or pictures."""
    t = run.train
    seed = seed_of(run.seed, "order", split)
    if run.data.mixture:
        return mixed.source(run, corpus, shards, split)
    if run.data.examples == pictures.ENTRY:
        side, channels = objective.picture
        return pictures.Pictures.of(corpus, codec, split, side, channels, t.context, (t.batch, seed, t.micro))
    if run.data.examples == clips.ENTRY:
        side, channels = objective.picture
        return clips.source(corpus, codec, split, (objective.frames, side, channels), t.context,
                            (t.batch, seed, t.micro))
    if run.data.examples == interleaved.ENTRY:
        reader = interleaved.Writer(Reader(codec, chat), *objective.slots)
        return interleaved.Interleaved.of(corpus, reader, split, objective.picture, t.context, (t.batch, seed, t.micro))
    if run.data.examples == edits.ENTRY:
        side, channels = objective.picture
        return edits.Source.of(corpus, codec, split, side, channels, t.context, (t.batch, seed, t.micro))
    if run.data.examples == series.ENTRY:
        told = vars(objective.model.config)
        return series.Windows.of(corpus, split, told["context"], told["horizon"], (t.batch, seed, t.micro))
    if run.data.examples == sounds.ENTRY:
        return sounds.Sounds.of(corpus, codec, split, objective.sound, t.context, (t.batch, seed, t.micro))
    if run.data.examples == SEGMENTS:
        side, channels = objective.picture
        return Segments.of(corpus, split, side, channels, (t.batch, seed, t.micro))
    if run.data.examples in encoders.ENTRIES:
        given = encoders.Given(corpus, codec, shards.split(split), t.context, (t.batch, seed, t.micro))
        return encoders.source(run.data.examples, given)
    if run.data.examples in DIALOGUES:
        return dialogues_of(run, corpus, Reader(codec, chat), split, objective)
    if run.data.examples == pairs.ENTRY:
        return pairs.Pairs(pairs.texts(corpus, split), codec, t.context, t.batch, seed, micro=t.micro)
    if run.data.examples:
        found = examples.find(run.data.examples)(corpus, split)
        return examples.Completions(found, codec, t.context, t.batch, seed, micro=t.micro)
    return Packed(shards.split(split), t.context, t.batch, seed, micro=t.micro)


def dialogues_of(run: Run, corpus: Corpus, reader: Reader, split: str,
                 objective: Objective) -> Conversations | Preferences | Questions:
    """Conversations, judged answers, or prompts that a policy answers."""
    t, entry, seed = run.train, run.data.examples, seed_of(run.seed, "order", split)
    if entry == conversations.ENTRY:
        rows = conversations.of(corpus, split, conversations.is_whole, "conversations (messages, or prompt and "
                                "completion)")
        return Conversations(rows, reader, t.context, t.batch, seed, micro=t.micro)
    if entry == questions.ENTRY:
        if not isinstance(objective, Rollouts):
            raise RequestError("data.examples=questions is answered by a policy; set objective.name=grpo or ppo")
        if objective.reuse > 1 and t.micro:
            raise RequestError("answers that serve several steps are drawn together: leave train.micro at 0, or set "
                               "objective.epochs=1 and objective.minibatches=1")
        rows = conversations.of(corpus, split, questions.is_question, "questions (prompt and answer, or input and "
                                "target)")
        return Questions(rows, reader, t.context, objective.length, t.batch, seed, micro=t.micro)
    kind = Preferences if entry == preferences.PAIRS else Judged
    rows = conversations.of(corpus, split, lambda fields: preferences.wanted(entry, fields),
                            "judged answers (prompt, chosen and rejected, or prompt, completion and label)")
    return kind(rows, reader, t.context, t.batch, seed, micro=t.micro)


def apart(run: Run, batches: list[Batch], end: int) -> list[Batch]:
    """Batches whose documents do not see each other, where the run wants that; RequestError for rows of examples that
    number their parts themselves."""
    if run.data.packing == "separate" and run.data.examples in NUMBERED:
        raise RequestError(f"data.packing=separate tells packed documents apart, and the rows of data.examples="
                           f"{run.data.examples} are no such ones; leave data.packing=joined")
    return [separate(batch, end) for batch in batches] if run.data.packing == "separate" else batches


def held_out_of(run: Run, corpus: Corpus, codec: Codec, shards: Shards, objective: Objective,
                chat: Chat | None = None) -> list[Batch]:
    """The validation batches of a run, at most about VALIDATION_TOKENS tokens, the same ones every time."""
    t = run.train
    if not run.data.examples:
        return list(sweep(shards.split("validation"), t.context, t.micro or t.batch, VALIDATION_TOKENS))
    source = source_of(run, corpus, codec, shards, "validation", objective, chat)
    if isinstance(source, pictures.Pictures | edits.Source | Segments):
        return list(source.held_out(t.micro or t.batch, VALIDATION_PICTURES))
    if isinstance(source, sounds.Sounds | series.Windows):
        return list(source.held_out(t.micro or t.batch, VALIDATION_PICTURES))
    if isinstance(source, encoders.Source):
        return list(encoders.held_out(source, t.micro or t.batch, VALIDATION_TOKENS))
    if isinstance(source, interleaved.Interleaved):
        return list(source.held_out(t.micro or t.batch, VALIDATION_PICTURES))
    if isinstance(source, pairs.Pairs | Conversations | Preferences | Questions):
        return list(source.held_out(t.micro or t.batch, VALIDATION_TOKENS))
    assert isinstance(source, examples.Completions)
    steps = max(1, min(source.order.n // t.batch, VALIDATION_TOKENS // (t.batch * t.context)))
    return [batch for step in range(steps) for batch in source(step)]
