"""Proteins between letters and ids: ESM's vocabulary of 33, one id a residue; nothing is fitted.

Lin et al. 2022, https://doi.org/10.1126/science.ade2574 (fair-esm's alphabet): four marks, 25 letters by frequency in
UniRef, dot and gap, an unused id, and the mask. Spaces are passed over, so `M K T` and `MKT` are one chain; whatever is
no capital letter of the alphabet is <unk>. `fit().save(folder)` writes tokenizer.json and ESM's own vocab.txt; `load`
reads either. Ids are those of transformers' EsmTokenizer.
"""
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from meristem.codecs import base

SPLITS = ()                             # the alphabet is known
MARKS = ("<cls>", "<pad>", "<eos>", "<unk>")                   # ids 0 .. 3
RESIDUES = "LAGVSERTIDPKQNFYMHWC"       # the twenty of the genetic code, ids 4 .. 23
TOKENS = (*MARKS, *RESIDUES, *"XBUZO.-", "<null_1>", "<mask>")
ROLES = {"end": "<eos>", "sep": "<eos>", "cls": "<cls>", "pad": "<pad>", "mask": "<mask>", "unknown": "<unk>"}
LIST = "vocab.txt"


class Protein(base.Fast):
    """A `Codec` that gives a chain back when it holds nothing but residues; <eos> ends it."""

    name = "protein"

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and vocab.txt."""
        super().save(folder)
        (folder / LIST).write_text("\n".join(TOKENS), encoding="utf-8")


def fit(texts: Iterable[str] = ()) -> Protein:
    """The alphabet of ESM, whatever the texts."""
    tokenizer = Tokenizer(models.WordLevel({token: n for n, token in enumerate(TOKENS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s"), "")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <eos>", special_tokens=[("<cls>", 0), ("<eos>", 2)])
    tokenizer.add_special_tokens([*MARKS, "<null_1>", "<mask>"])
    return Protein(tokenizer, ROLES)


def is_list(folder: Path) -> bool:
    """Whether a folder has ESM's vocab.txt (which published checkpoints have in place of tokenizer.json)."""
    path = folder / LIST
    return path.is_file() and path.stat().st_size < 1 << 10 and tuple(path.read_bytes().decode().split()) == TOKENS


def is_one(model: dict[str, Any]) -> bool:
    """Whether the model of a tokenizer.json is this vocabulary."""
    return model.get("type") == "WordLevel" and model.get("vocab") == {token: n for n, token in enumerate(TOKENS)}


def load(folder: Path) -> Protein:
    """The codec of a folder, ours or a published ESM's."""
    if is_list(folder):
        return fit()
    tokenizer = base.read_fast(folder)
    return Protein(tokenizer, base.read_roles(folder, tokenizer))
