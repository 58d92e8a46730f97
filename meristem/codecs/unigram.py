"""Unigram language model tokenizer (Kudo 2018, https://arxiv.org/abs/1804.10959), on bytes.

Every way to cut a text has a probability, the product of its pieces'; the most likely one is taken. Pieces are learned
by EM from too many to `vocab`. As we fit it, text is split as for `bpe` and the 256 bytes are pieces, so every text can
be encoded and comes back exactly. Published ones (T5, XLM-R) are read too; those normalise text first, and what does
not come back then is caught where bytes are counted (`base.gives_back`). `fit(texts, 4096).save(folder)`.
"""
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from meristem.codecs import base, bpe
from meristem.core.errors import RequestError

SPLITS = ("train",)                     # pieces are learned: the other splits stay unseen
ENCODER = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "mask": "<mask>"}   # after the end token: ids 1 .. 4
LONGEST = 16                            # bytes of a piece


class Unigram(base.Fast):
    """A `Codec` around a `tokenizers.Tokenizer`."""

    name = "unigram"


def fit(texts: Iterable[str], vocab: int, encoder: bool = False) -> Unigram:
    """Learn `vocab` pieces from at most 8 MB of `texts`; `encoder` adds the marks that an encoder needs (<mask>, ...).

    RequestError when `vocab` cannot hold the 256 bytes and the marks, or there is no text.
    """
    roles = {"end": base.END, **(ENCODER if encoder else {})}
    if vocab < 256 + len(roles):
        raise RequestError(f"vocab is {vocab}; a byte-level one needs at least {256 + len(roles)} "
                           f"(256 bytes and {', '.join(roles.values())})")
    chosen = bpe.sample(texts)
    if not chosen:
        raise RequestError("there is no text to fit a vocabulary to")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(bpe.SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = list(roles.values())
    trainer = trainers.UnigramTrainer(vocab_size=vocab, special_tokens=special, show_progress=False,
                                      max_piece_length=LONGEST,
                                      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(chosen, trainer)
    tokenizer.model = models.Unigram(_in_order(json.loads(tokenizer.to_str())["model"]["vocab"], special))
    if encoder:
        cls, sep = ((roles[role], special.index(roles[role])) for role in ("cls", "sep"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls[0]} $A {sep[0]}", pair=f"{cls[0]} $A {sep[0]} $B:1 {sep[0]}:1", special_tokens=[cls, sep])
    return Unigram(tokenizer, roles)


def _in_order(pieces: list[tuple[str, float]], special: list[str]) -> list[tuple[str, float]]:
    """The same pieces in an order and with scores that do not depend on the library's hash tables.

    Its sums differ in their last digits between fits; bytes that the text lacks are scored just above the worst piece,
    0.0001 apart in the order of a table.
    """
    lowest = round(min(score for piece, score in pieces if piece not in special), 6)
    scores = {piece: lowest if len(piece) == 1 and score < lowest + 0.03 else round(score, 6)
              for piece, score in pieces if piece not in special}
    return [(token, 0.0) for token in special] + sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def load(folder: Path) -> Unigram:
    """The tokenizer in `folder`, ours or a published one."""
    tokenizer = base.read_fast(folder)
    return Unigram(tokenizer, base.read_roles(folder, tokenizer))
