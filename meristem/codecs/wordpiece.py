"""WordPiece (Schuster & Nakajima 2012; Wu et al. 2016, https://arxiv.org/abs/1609.08144), as BERT uses it.

Words are cut into the longest known pieces from the left; `##` begins a piece inside a word. **It is lossy**: text is
cleaned, lower-cased and stripped of accents (unless `lowercase=False`), spacing is forgotten, and a word with a
character that is not in the alphabet is [UNK]. `decode` gives readable words, not the text, so nothing may be counted
per byte with it (`base.gives_back`). `fit(texts, 8192).save(folder)`; `load(folder)` reads BERT's own files as well.
"""
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from meristem.codecs import base, bpe
from meristem.core.errors import RequestError

SPLITS = ("train",)                     # pieces are learned: the other splits stay unseen
ROLES = {"pad": "[PAD]", "unknown": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}    # ids 0 .. 4
PRIVATE = 0xF0000                       # a plane of Unicode that no text uses
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
    words: Counter[str] = Counter()
    for text in chosen:
        normal = tokenizer.normalizer.normalize_str(text)
        words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    special = list(ROLES.values())
    pieces = special + _pieces(words, vocab - len(special))
    if len(pieces) > vocab:
        raise RequestError(f"vocab is {vocab}; the alphabet of this text needs at least {len(pieces)}")
    tokenizer.model = models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token=ROLES["unknown"])
    tokenizer.decoder = decoders.WordPiece()
    cls, sep = ((ROLES[role], special.index(ROLES[role])) for role in ("cls", "sep"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls[0]} $A {sep[0]}", pair=f"{cls[0]} $A {sep[0]} $B:1 {sep[0]}:1", special_tokens=[cls, sep])
    tokenizer.add_special_tokens(special)
    return WordPiece(tokenizer, {"end": ROLES["sep"], **ROLES})


def _pieces(words: Counter[str], vocab: int) -> list[str]:
    """`vocab` pieces by byte-pair merges, letters first; every letter both as a beginning and inside a word.

    The library's own trainer numbers the letters inside words in the order of a hash table, so that two fits differ.
    Its pair merges do not depend on one; so letters inside words go to it as letters of a private range.
    """
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    alphabet = sorted(sorted(letters, key=lambda c: (-letters[c], c))[:ALPHABET])
    inside = {letter: chr(PRIVATE + n) for n, letter in enumerate(alphabet)}
    back = {away: letter for letter, away in inside.items()}
    spelled = [word[0] + "".join(inside[c] for c in word[1:]) for word in sorted(words) if set(word) <= inside.keys()]
    counts = [words[word] for word in sorted(words) if set(word) <= inside.keys()]
    merger = Tokenizer(models.BPE())
    merger.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False, initial_alphabet=[*alphabet, *back])
    merger.train_from_iterator((" ".join([w] * n) for w, n in zip(spelled, counts, strict=True)), trainer)
    ids = merger.get_vocab()
    return [("##" if token[0] in back else "") + "".join(back.get(c, c) for c in token)
            for token in sorted(ids, key=ids.__getitem__)]


def load(folder: Path) -> WordPiece:
    """The tokenizer in `folder`, ours or a published BERT's."""
    tokenizer = base.read_fast(folder)
    return WordPiece(tokenizer, base.read_roles(folder, tokenizer))
