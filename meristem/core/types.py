"""What travels between the trunks: a `Document` on the bytes side, a `Batch` on the maths side.

| field of a Batch | shape and type | meaning |
| --- | --- | --- |
| tokens | int64 [B, T+1] | ids; the model reads [:, :-1] and is scored on [:, 1:] |
| weight | float32 [B, T] | how much each prediction counts; 0 for prompts and padding |

B batch rows, T time. A field means the same thing to every objective; a new field is a new row of this table.
"""
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:                       # curation reads documents without paying 0.8 s for torch
    from torch import Tensor

Batch = dict[str, "Tensor"]


@dataclass(frozen=True)
class Document:
    """One unit of raw data. `id` is the xxh3-128 of its bytes (hex), so equal content has an equal id."""

    id: str
    source: str
    licence: str
    fields: dict[str, Any]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text field; KeyError for a document of another modality."""
        return self.fields["text"]
