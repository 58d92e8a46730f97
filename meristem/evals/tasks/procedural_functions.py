"""Write a Python function from its docstring, judged by running it: 120 made-up problems, pass@1, @10 and @100.

The problems are those of `data/problems.py` that no model trained on its training split has seen. 200 answers each, at
temperature 0.8, as Codex was asked (`evals/functional.py`). Needs bubblewrap, so it is asked by name only:

    meristem evaluate runs/codex --corpus runs/corpus --tasks procedural_functions
"""
from meristem.codecs.base import Codec
from meristem.corpus.store import Corpus
from meristem.data.problems import problems
from meristem.evals.base import Item
from meristem.evals.functional import Functional

ON_REQUEST = True


class ProceduralFunctions(Functional):
    """Items do not depend on the corpus."""

    name, version, count = "procedural_functions", 1, 120
    length = 40                         # the reference answers have at most 24 tokens of a vocabulary of 4,096

    def items(self, corpus: Corpus, codec: Codec, limit: int, seed: int) -> list[Item]:
        """At most `limit` problems of the test split, chosen by `seed`."""
        return [Item(p.name, p.prompt, p.answer, ends=False, suffix=f"\n{p.test}")
                for p in problems("test", limit, seed)]


TASK = ProceduralFunctions()
