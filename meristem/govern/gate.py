"""The licence gate at release: a model leaves only when no training document's licence forbids it.

    found = check(Path("runs/mine"))                           # what the corpus's licences say
    refuse(Path("runs/mine"), "permissive,unknown")            # RequestError names the documents

Without a list, what forbids is a licence that allows no derived work (CC-BY-ND and its kin, proprietary text); of
`A OR B` both must. With a list (SPDX identifiers, `permissive`, `unknown`), every document must stand under one of it,
by the rule that curation's own stage follows. Whether a model is a derived work is for a lawyer to say: the gate makes
sure that the question was asked. A corpus that is not here is not checked, and that is said.
"""
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.corpus.licence import UNKNOWN
from meristem.corpus.store import SPLITS, Corpus
from meristem.govern.facts import corpus_of, gather_run

FORBIDS = re.compile(r"-ND(\b|-)|no[- ]?deriv|LicenseRef-(proprietary|confidential)|all rights reserved", re.IGNORECASE)
NAMED = 5                               # documents in a message


@dataclass(frozen=True)
class Gate:
    """What the gate found: documents by licence, and those that forbid release (path, licence). `checked` is False
    where the corpus is not here."""

    checked: bool
    licences: dict[str, int]
    forbidden: tuple[tuple[str, str], ...]

    def line(self) -> str:
        """For people."""
        if not self.checked:
            return "licences not checked: the corpus of this model is not here"
        counts = ", ".join(f"{name} {count:,}" for name, count in self.licences.items())
        return f"licences of the training documents: {counts}; {len(self.forbidden)} forbid release"


def check(run: Path, allow: str = "") -> Gate:
    """Every document of the corpus of a run folder against the rule, and of the run it was adapted from."""
    facts = gather_run(run)
    where = corpus_of(facts)
    parent = Path(facts.recipe.base).parent if facts.recipe.base else None
    before = check(parent, allow) if parent and (parent / "recipe.json").is_file() else None
    found = _check(where, allow) if where else Gate(False, {}, ())
    if before is None:
        return found if not parent else Gate(False, found.licences, found.forbidden)
    same = corpus_of(gather_run(parent)) == where if parent else True
    added = {} if same else before.licences
    return Gate(found.checked and before.checked, {**added, **found.licences},
                tuple(dict.fromkeys((*before.forbidden, *found.forbidden))))


def refuse(run: Path, allow: str = "") -> Gate:
    """`check`, as a RequestError that names the documents where one forbids release."""
    found = check(run, allow)
    if found.forbidden:
        named = ", ".join(f"{path} ({licence})" for path, licence in found.forbidden[:NAMED])
        more = f" and {len(found.forbidden) - NAMED} more" if len(found.forbidden) > NAMED else ""
        raise RequestError(f"the licences of {len(found.forbidden)} training documents forbid release: {named}{more}; "
                           "curate without them (--stages licences) and train again"
                           + (", or name their licences in --licences" if allow else ""))
    return found


def _check(folder: Path, allow: str) -> Gate:
    counts = {name: row["documents"] for name, row in read_json(folder / "corpus.json").get("licences", {}).items()}
    allowed = _rule(allow)
    bad = {name for name in counts if not allowed(name)}
    if not bad:
        return Gate(True, counts, ())
    corpus = Corpus.open(folder)
    return Gate(True, counts, tuple((d.meta["path"], d.licence or UNKNOWN) for split in SPLITS
                                    for d in corpus.documents(split) if d.licence in bad))


def _rule(allow: str) -> Callable[[str], bool]:
    """Whether a licence lets a model go."""
    if not allow:
        return lambda licence: not all(FORBIDS.search(option) for option in licence.split(" OR "))
    from meristem.corpus.stages.licences import PERMISSIVE, fits
    words = [word.strip() for word in allow.split(",") if word.strip()]
    names = {name.lower() for word in words for name in (PERMISSIVE if word == "permissive" else (word,))}
    return lambda licence: UNKNOWN in names if licence in ("", UNKNOWN) else fits(licence, names)
