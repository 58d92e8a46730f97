"""Characters that were decoded with the wrong charset somewhere on their way are put right, by ftfy's heuristics.

Speer 2019, "ftfy" (doi 10.5281/zenodo.2591652): UTF-8 that was read as Latin-1 and written again, and the like. Only
what is certain to be such is changed; control characters that no text has are removed. The ledger line of a changed
document says `repaired` and, in `was`, the id it had.
"""
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from meristem.core.errors import RequestError
from meristem.corpus.stages.base import Batch, changed

CONTROLS = re.compile("[\x01-\x08\x0b\x0e-\x1f\x7f\u200b\ufeff]")


@dataclass(frozen=True)
class Stage:
    """Repairs every document; code is left alone, where such characters may be meant."""

    def __call__(self, batch: Batch) -> Batch:
        """The batch with repaired texts."""
        try:
            fix = import_module("ftfy").fix_encoding
        except ImportError:
            raise RequestError("the stage repair needs a package: pip install ftfy") from None

        def change(text: str, kind: str) -> tuple[str, dict[str, Any]]:
            if kind == "code":
                return text, {}
            fixed = CONTROLS.sub("", text if text.isascii() else fix(text))
            return (fixed, {"repaired": True}) if fixed != text else (text, {})
        return changed(batch, change)
