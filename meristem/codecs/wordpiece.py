"""WordPiece (Schuster & Nakajima 2012; Wu et al. 2016, https://arxiv.org/abs/1609.08144), as BERT uses it.

Words are cut into the longest known pieces from the left; `##` begins a piece inside a word. **It is lossy**: text is
cleaned, lower-cased and stripped of accents (unless `lowercase=False`), spacing is forgotten, and a word with a
character that is not in the alphabet is [UNK]. `decode` gives readable words, not the text, so nothing may be counted
per byte with it (`base.gives_back`). `fit(texts, 8192).save(folder)`; `load(folder)` reads BERT's own files as well.
"""
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from meristem.codecs import base, bpe
from meristem.core.errors import RequestError

SPLITS = ("train",)                     # pieces are learned: the other splits stay unseen
ROLES = {"pad": "[PAD]", "unknown": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}    # ids 0 .. 4
ALPHABET = 1000                         # different characters at most, as in BERT's own vocabularies


class WordPiece(base.Fast):
    """A `Codec` that does not give the text back; [SEP] ends documents."""

    name = "wordpiece"


def fit(texts: Iterable[str], vocab: int, lowercase: bool = True) -> WordPiece:
    """Learn `vocab` pieces from at most 8 MB of `texts`. RequestError for a vocabulary too small for the alphabet."""
    chosen = bpe.sample(texts)
    if not chosen:
        raise RequestError("there is no text to fit a vocabulary to")
    tokenizer = Tokenizer(models.WordPiece(unk_token=ROLES["unknown"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = list(ROLES.values())
    trainer = trainers.WordPieceTrainer(vocab_size=vocab, special_tokens=special, show_progress=False,
                                        limit_alphabet=ALPHABET)
    tokenizer.train_from_iterator(chosen, trainer)
    if tokenizer.get_vocab_size() > vocab:                     # the library never drops a letter to fit
        raise RequestError(f"vocab is {vocab}; the alphabet of this text needs at least {tokenizer.get_vocab_size()}")
    cls, sep = ((ROLES[role], special.index(ROLES[role])) for role in ("cls", "sep"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls[0]} $A {sep[0]}", pair=f"{cls[0]} $A {sep[0]} $B:1 {sep[0]}:1", special_tokens=[cls, sep])
    return WordPiece(tokenizer, {"end": ROLES["sep"], **ROLES})


def load(folder: Path) -> WordPiece:
    """The tokenizer in `folder`, ours or a published BERT's."""
    tokenizer = base.read_fast(folder)
    return WordPiece(tokenizer, base.read_roles(folder, tokenizer))
