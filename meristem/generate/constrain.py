"""Output that must match a regular expression or a JSON schema: tokens that would leave the grammar are banned.

    complete(module, codec, prompts, Sampling(schema={"type": "object", ...}))            # see generate.text
    complete(module, codec, prompts, Sampling(regex=r"[A-Z][a-z]{2,9}"))
    complete(module, codec, prompts, Sampling(lark=calls(tools)))                         # see agents.policy

Willard & Louf 2023, https://arxiv.org/abs/2307.09702. The grammar itself is the work of `llguidance`, which walks the
vocabulary as a prefix tree of bytes at every token; it is an extra: pip install 'meristem[serve]'. JSON is written
without white space between its parts. A text that is cut off by `length` is not whole; `accepts` tells.
"""
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meristem.codecs.base import END, TOKENIZER, Codec, read_tokenizer
from meristem.core.errors import MachineError, RequestError
from meristem.generate.sampling import BANNED, Sampling


class Grammar:
    """Steers one row; see `base.Control`. The codec's end token is allowed where the text is whole."""

    def __init__(self, matcher: Any, vocab: int):
        self.matcher, self.vocab = matcher, vocab

    def apply(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """-inf for every token that cannot come next."""
        bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        if self.matcher.is_error():
            raise MachineError(f"the grammar gave up: {_line(self.matcher)}")
        return logits.masked_fill(torch.from_numpy(bits[:self.vocab] == 0), BANNED)

    def push(self, token: int) -> None:
        """This token was written."""
        if not self.matcher.consume_token(token):
            raise MachineError(f"the grammar gave up: {_line(self.matcher)}")

    def copy(self) -> "Grammar":
        """The same state, going its own way from here."""
        return Grammar(self.matcher.deep_copy(), self.vocab)

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens, after those written so far, make a whole text."""
        matcher = self.matcher.deep_copy()
        return bool(matcher.consume_tokens(list(tokens)) and matcher.is_accepting())


def grammar(sampling: Sampling, codec: Codec, vocab: int, limits: Mapping[str, Any] | None = None) -> Grammar | None:
    """What `sampling` demands of the text, at its beginning; None when it demands nothing.

    `vocab` is the width of the model's logits; `limits` are fields of llguidance's LLParserLimits, for grammars of
    strangers. RequestError for a grammar that cannot be read, a codec that cannot be
    steered, or a missing package.
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
    return Grammar(matcher, vocab)


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
