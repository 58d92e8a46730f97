"""What every codec of text can do, and the two files in which one is kept: tokenizer.json, tokenizer_config.json.

The files are those of the `tokenizers` and `transformers` libraries: `PreTrainedTokenizerFast.from_pretrained(folder)`
gives the same ids. A codec's `hash` names its ids: shards made with another codec are other shards.
"""
import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer

from meristem.core import files
from meristem.core.errors import RequestError

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
END = "<|end|>"                         # stands after every document; id 0 in the codecs that we fit
# One thread at a time: tokenizers 0.23.3 gave threads that encoded side by side in a fresh process the ids of others'
# words (benchmarks.serving_soak: 19 wrong answers in the first second after a restart).
ENCODING = threading.Lock()
ROLES = {"end": "eos", "begin": "bos", "cls": "cls", "sep": "sep", "mask": "mask", "pad": "pad", "unknown": "unk"}


@runtime_checkable                      # the tests check every annotation at run time
class Codec(Protocol):
    """Text to ids and back; `decode(encode(text)) == text` for every text that can be written in UTF-8.

    That holds for char, bpe and unigram as we fit them, never for wordpiece: it drops case and spacing, and what its
    alphabet lacks becomes [UNK]. So whatever is counted per byte of text asks `gives_back` first. `marks` are the ids
    of tokens that stand for no text, by role: "end" always, encoders also have "cls", "sep", "mask" and "pad", and some
    published decoders "begin".
    """

    name: str
    vocab: int
    end: int
    hash: str
    marks: dict[str, int]

    def encode(self, text: str) -> Int32[np.ndarray, "n"]:
        """The ids of a text; special tokens that are spelled out in it are ordinary text."""
        ...

    def encode_batch(self, texts: list[str]) -> list[Int32[np.ndarray, "n"]]:
        """`encode` of each, on all cores where the codec can."""
        ...

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text stands in it: (first character, one past the last)."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids; special tokens give none."""
        ...

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into an existing folder."""
        ...


class Fast:
    """A `Codec` around a `tokenizers.Tokenizer`; `roles` are its special tokens by role ({"mask": "[MASK]"}).

    `special`: the ids of all its special tokens by spelling.
    """

    name = ""

    def __init__(self, tokenizer: Tokenizer, roles: dict[str, str]) -> None:
        self.tokenizer, self.roles = tokenizer, roles
        tokenizer.encode_special_tokens = True                 # input is never parsed for special tokens
        tokenizer.no_padding()                                 # some published files pad every text to 128 tokens
        tokenizer.no_truncation()
        self.marks = {role: tokenizer.token_to_id(token) for role, token in roles.items()}
        self.special = {t.content: id for id, t in tokenizer.get_added_tokens_decoder().items() if t.special}
        self.end = self.marks["end"]
        self.vocab = tokenizer.get_vocab_size()
        self._json = tokenizer.to_str(pretty=False)
        self.hash = files.digest_bytes(self._json)

    def encode(self, text: str) -> Int32[np.ndarray, "n"]:
        """The ids."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[Int32[np.ndarray, "n"]]:
        """The ids of each text, on all cores."""
        try:
            with ENCODING:
                found = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False) if texts else []
        except TypeError:                                      # what the library says of half a surrogate pair
            raise RequestError("the text holds half a surrogate pair, which is no character and has no UTF-8") from None
        return [np.array(e.ids, dtype=np.int32) for e in found]

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text stands in it: (first character, one past the last)."""
        with ENCODING:
            return self.tokenizer.encode(text, add_special_tokens=False).offsets

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text; special tokens vanish."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def starts(self) -> np.ndarray:
        """Whether each token of the vocabulary begins a word, bool [V]; for masking words whole.

        By the marks of the vocabulary's kind: no `##` before it (WordPiece), a leading space (the others), or a first
        character that is no letter or digit.
        """
        tokens = [self.tokenizer.id_to_token(i) or "" for i in range(self.vocab)]
        if json.loads(self._json)["model"]["type"] == "WordPiece":
            return np.array([not t.startswith("##") for t in tokens])
        return np.array([t[:1] in "\u0120\u010a\u0109\u2581" or not (t[0].isalnum() or t[0] == "_") for t in tokens])

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into `folder`."""
        write(folder, self._json, self.roles)


def write(folder: Path, tokenizer: str, roles: dict[str, str] | None = None) -> None:
    """Write the two files; `split_special_tokens` is what keeps a spelled-out `<|end|>` in user text harmless."""
    roles = {"pad": (roles or {}).get("end", END), **(roles or {"end": END})}
    files.write_bytes(folder / TOKENIZER, tokenizer.encode())
    types = ["token_type_ids"] if "sep" in roles and '"type_id":1' in tokenizer else []
    tokens = {f"{ROLES[role]}_token": token for role, token in roles.items()}
    files.write_json(folder / CONFIG, {
        "tokenizer_class": "PreTrainedTokenizerFast", **tokens,
        "split_special_tokens": True, "clean_up_tokenization_spaces": False, "add_bos_token": "begin" in roles,
        "add_eos_token": False, "model_input_names": ["input_ids", *types, "attention_mask"],
    })


def read_roles(folder: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """The special tokens that tokenizer_config.json names, by role; the end is [SEP] where it names no other.

    RequestError when there is no end, or a named token is not in the vocabulary.
    """
    config = files.read_json(Path(folder) / CONFIG) if (Path(folder) / CONFIG).exists() else {}
    named = {role: config.get(f"{theirs}_token") for role, theirs in ROLES.items()}
    roles = {role: t["content"] if isinstance(t, dict) else t for role, t in named.items() if t}
    roles = {"end": roles.get("sep", END), **roles}
    for role, token in list(roles.items()):
        if tokenizer.token_to_id(token) is None:
            if role == "end":
                raise RequestError(f"{Path(folder) / TOKENIZER} has no token {token!r}, which {CONFIG} names as "
                                   "eos_token")
            del roles[role]                                    # a token that transformers would add when it loads
    first = tokenizer.encode("", add_special_tokens=True).ids[:1]
    if "begin" in roles and not config.get("add_bos_token") and first != [tokenizer.token_to_id(roles["begin"])]:
        del roles["begin"]                                     # named, but not put before texts
    return roles


def begin(codec: Codec) -> int:
    """The token before a text: what its tokenizer puts there (Llama's <s>), else the end of the text before."""
    return codec.marks.get("begin", codec.end)


def read_fast(folder: Path) -> Tokenizer:
    """The tokenizer of a folder; RequestError when it is missing or not one."""
    read_tokenizer(folder)
    path = Path(folder) / TOKENIZER
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:                                 # the library raises bare Exception for any bad file
        raise RequestError(f"{path} is not a tokenizer: {error}") from None


def gives_back(codec: Codec, texts: Iterable[str]) -> None:
    """RequestError when a text does not survive encoding: bits per byte would then count what was never predicted."""
    for text in texts:
        if codec.decode(codec.encode(text)) != text:
            raise RequestError(f"the {codec.name} codec does not give back the text that begins {text[:30]!r}, so bits "
                               "per byte mean nothing with it; compare losses per token, or train with bpe")


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """tokenizer.json, parsed; RequestError when it is missing or not one."""
    tree = files.read_json(Path(folder) / TOKENIZER)
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise RequestError(f"{Path(folder) / TOKENIZER} is not a tokenizer: it has no model")
    return tree


def digest(tree: dict[str, Any]) -> str:
    """The hash of a codec: of its tokenizer.json, whatever the spacing and the order of its keys."""
    return files.digest_bytes(json.dumps(tree, sort_keys=True))
