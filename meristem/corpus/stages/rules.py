"""The quickstart's rules, each with a range for code and one for prose (`corpus.filter`): the default stage."""
from dataclasses import dataclass

from meristem.corpus import filter
from meristem.corpus.stages.base import Batch, judged


@dataclass(frozen=True)
class Stage:
    """Drops a document by the first rule that it breaks."""

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the rules' verdicts."""
        return judged(batch, filter.judge)
