"""Output that must match a regular expression or a JSON schema: tokens that would leave the grammar are banned.

    complete(module, codec, prompts, Sampling(schema={"type": "object", ...}))            # see generate.text
    complete(module, codec, prompts, Sampling(regex=r"[A-Z][a-z]{2,9}"))
    complete(module, codec, prompts, Sampling(lark=calls(tools)))                         # see agents.policy

Willard & Louf 2023, https://arxiv.org/abs/2307.09702. The grammar itself is the work of `llguidance`, which walks the
vocabulary as a prefix tree of bytes at every token; it is an extra: pip install 'meristem[serve]'. JSON is written
without white space between its parts. A text that is cut off by `length` is not whole; `accepts` tells. With
`Sampling.whole` it is not cut off but closed: a token that leaves too little room to close the text is banned.
"""
import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meristem.codecs.base import END, TOKENIZER, Codec, read_tokenizer
from meristem.core.errors import MachineError, RequestError
from meristem.generate.sampling import BANNED, Sampling

CLOSING = '}]"0123456789'                # single characters that end a form, in the order in which they are tried
TRIED = 8                               # of the likeliest tokens are looked at for one that leaves room to close
NEAR = 128                              # tokens: with more room than this beside the way out, nothing is looked at


class Grammar:
    """Steers one row; see `base.Control`. `ends` (the codec's end token first) are allowed where the text is whole.

    `closing`, tokens of one character by how soon they end a form, asks for a whole text within `left` tokens.
    `hurried` says that the room, not the model, chose one of them.
    """

    def __init__(self, matcher: Any, vocab: int, ends: Sequence[int], left: int = 0,
                 closing: np.ndarray | None = None):
        self.matcher, self.vocab, self.ends, self.left, self.closing = matcher, vocab, list(ends), left, closing
        self.hurried = False
        self.ways: dict[int, list[int]] = {}                   # the next token -> a way out behind it, that is short
        self.way: list[int] | None = None                      # one from here

    def apply(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """-inf for every token that cannot come next."""
        allowed = self._allowed(self.matcher)
        if self.matcher.is_error():
            raise MachineError(f"the grammar gave up: {_line(self.matcher)}")
        if allowed[self.ends[0]]:
            allowed[self.ends] = True
        return self._in_time(logits.masked_fill(torch.from_numpy(~allowed), BANNED))

    def push(self, token: int) -> None:
        """This token was written."""
        if not self.matcher.consume_token(token):
            raise MachineError(f"the grammar gave up: {_line(self.matcher)}")
        if self.way is not None:
            self.way = self.ways.get(token, self.way[1:] if self.way[:1] == [token] else None)
        self.left, self.ways = self.left - 1, {}

    def copy(self) -> "Grammar":
        """The same state, going its own way from here."""
        other = Grammar(self.matcher.deep_copy(), self.vocab, self.ends, self.left, self.closing)
        other.hurried, other.ways, other.way = self.hurried, dict(self.ways), self.way
        return other

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens, after those written so far, make a whole text."""
        matcher = self.matcher.deep_copy()
        return bool(matcher.consume_tokens(list(tokens)) and matcher.is_accepting())

    def _allowed(self, matcher: Any) -> Bool[np.ndarray, "V"]:
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        return bits[:self.vocab] == 1

    def _in_time(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """Of the likeliest tokens those after which the text can be closed in the room that is left."""
        if self.closing is None:
            return logits
        if self.way is None:
            self.way = self._out(self.matcher, self.left)
        if self.way is None or self.left > len(self.way) + NEAR:
            return logits
        kept, likeliest = torch.full_like(logits, BANNED), logits.topk(min(TRIED, len(logits))).indices.tolist()
        for token in likeliest:
            if logits[token] > BANNED and (token in self.ends or self._closes(token)):
                kept[token] = logits[token]
        if bool(kept.max() == BANNED):
            kept[self.way[0] if self.way else self.ends[0]] = 0.0
        self.hurried |= bool(kept[likeliest[0]] == BANNED)
        return kept

    def _closes(self, token: int) -> bool:
        after = self.matcher.deep_copy()
        way = self._out(after, self.left - 1) if after.consume_token(token) else None
        if way is not None:
            self.ways[token] = way
        return way is not None

    def _out(self, matcher: Any, most: int) -> list[int] | None:
        """A way to a whole text of at most so many tokens, found without turning back, or None."""
        assert self.closing is not None
        matcher, out = matcher.deep_copy(), list[int]()
        while not matcher.is_accepting():
            if len(out) >= most:
                return None
            step = matcher.compute_ff_tokens()                 # what must come next in any case
            if not step:
                possible = self.closing[self._allowed(matcher)[self.closing]]
                if not len(possible):
                    return None
                # inside a text both brackets are letters: only a quotation mark ends it
                quote = possible[2:3] if possible[:2].tolist() == self.closing[:2].tolist() else possible
                step = quote[:1].tolist()
            if not matcher.consume_tokens(step):
                return None
            out += step
        return out if len(out) <= most else None


def grammar(sampling: Sampling, codec: Codec, vocab: int, limits: Mapping[str, Any] | None = None,
            also: Collection[int] = ()) -> Grammar | None:
    """What `sampling` demands of the text, at its beginning; None when it demands nothing.

    `vocab` is the width of the model's logits; `limits` are fields of llguidance's LLParserLimits, for grammars of
    strangers; `also` are further tokens that end a text, such as a chat template's. RequestError for a grammar that
    cannot be read, a codec that cannot be steered, or a missing package.
    """
    if not sampling.demands:
        return None
    try:
        import llguidance
    except ImportError:
        raise RequestError("output by a schema, a grammar or a regular expression needs the package llguidance: "
                           "pip install 'meristem[serve]'") from None
    if sampling.regex is not None:
        rules = llguidance.LLMatcher.grammar_from_regex(sampling.regex)
    elif sampling.lark is not None:
        rules = llguidance.LLMatcher.grammar_from_lark(sampling.lark)
    else:
        rules = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(dict(sampling.schema or {})),
                                                              overrides={"whitespace_flexible": False})
    matcher = llguidance.LLMatcher(_tokenizer(codec, vocab), rules, log_level=0,
                                   limits=llguidance.LLParserLimits(**limits) if limits else None)
    if matcher.is_error():
        raise RequestError(f"the {sampling.demands} cannot be used: {_line(matcher)}")
    closing = _closing(codec) if sampling.whole else None
    return Grammar(matcher, vocab, [codec.end, *sorted(set(also) - {codec.end})], sampling.length, closing)


def _closing(codec: Codec) -> np.ndarray:
    """Tokens of one character: `CLOSING` in its order, then the others."""
    texts = [codec.decode([token]) for token in range(codec.vocab)]
    place = {character: number for number, character in enumerate(CLOSING)}
    found = [token for token, text in enumerate(texts) if len(text) == 1]
    return np.array(sorted(found, key=lambda token: place.get(texts[token], len(place))))


def _tokenizer(codec: Codec, vocab: int) -> Any:
    """The codec as llguidance sees it: the bytes of each token, from the codec's tokenizer.json."""
    import llguidance
    with TemporaryDirectory() as folder:
        codec.save(Path(folder))
        text = (Path(folder) / TOKENIZER).read_text(encoding="utf-8")
        if read_tokenizer(Path(folder))["model"].get("type") == "WordLevel":
            return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Characters(codec)), n_vocab=vocab)
    try:
        return _from_json(text, vocab, codec.end)
    except ValueError as error:
        raise RequestError(f"the tokens of a {codec.name} codec are not plain pieces of text, so a grammar cannot "
                           f"steer them: {error}") from None


@lru_cache(maxsize=4)
def _from_json(text: str, vocab: int, end: int) -> Any:
    import llguidance
    return llguidance.LLTokenizer(text, n_vocab=vocab, eos_token=end)          # about 1 s for 128,000 tokens


class _Characters:
    """A codec of single characters, in the form that llguidance asks for."""

    def __init__(self, codec: Codec):
        self.codec = codec
        self.eos_token_id, self.bos_token_id, self.special_token_ids = codec.end, None, [codec.end]
        characters = [codec.decode([i]) for i in range(codec.vocab)]
        self.tokens = [c.encode() or END.encode() for c in characters]
        self.known = set(characters)

    def __call__(self, text: str) -> list[int]:
        return self.codec.encode("".join(c for c in text if c in self.known)).tolist()


def _line(matcher: Any) -> str:
    return " ".join(matcher.get_error().split())[:200]
