"""CLINC150: which of 150 intents a request has, and whether the model's doubt shows the requests that have none.

Larson et al. 2019, https://arxiv.org/abs/1909.02027. File: data_full.json. `clinc150_oos_auc` is the area under the ROC
curve with which the likeliest intent's share tells requests with an intent from those without (1: always, 0.5: never).

    meristem evaluate RUN --tasks clinc150 --data FOLDER
"""
from collections.abc import Sequence

from meristem.core.errors import RequestError
from meristem.evals.base import Item, Metric, Outcome, Reference
from meristem.evals.benchmark import Choice, surprise
from meristem.evals.statistics import placements
from meristem.evals.tasks.banking77 import WAYS, intents

ON_REQUEST = True
OUTSIDE = 0.2                           # share of the items without an intent


class Clinc150(Choice):
    """Items are requests; `right` is -1 for those without an intent."""

    name, count, normed = "clinc150", 150, False
    url = "https://github.com/clinc/oos-eval"
    folders = ("clinc150",)
    templates = WAYS

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy over the requests with an intent, and the area."""
        return (Metric("clinc150_acc", "clinc150: requests with an intent given it", "share", "ratio", True),
                Metric("clinc150_oos_auc", "clinc150: requests with an intent told from those without by the model's "
                       "certainty", "area", "ratio", True))

    def read(self) -> list[Item]:
        """The test splits, in such parts that OUTSIDE of the items have no intent."""
        tree = self._tree()
        inside = intents([(text, label) for text, label in tree["test"]], "test", self.templates[0])
        count = round(len(inside) * OUTSIDE / (1 - OUTSIDE))
        return inside + [Item(f"oos_test/{n}", self.templates[0].replace("{}", text), "", choices=inside[0].choices,
                              stem=text, evidence=text) for n, (text, _) in enumerate(tree["oos_test"][:count])]

    def examples(self) -> list[Item]:
        """The training split."""
        return intents([(text, label) for text, label in self._tree()["train"]], "train", self.templates[0])

    def outcome(self, items: Sequence[Item], found: Sequence[Sequence[float]]) -> Outcome:
        """Right or wrong where there is an intent; certainty everywhere."""
        best = [max(range(len(row)), key=row.__getitem__) for row in found]
        inside = [item.right >= 0 for item in items]
        sure = [-surprise(row, b) for row, b in zip(found, best, strict=True)]
        area = placements(sure, inside) if 0 < sum(inside) < len(items) else [0.5] * len(items)
        return Outcome({"clinc150_acc": [float(b == i.right >= 0) for b, i in zip(best, items, strict=True)],
                        "clinc150_oos_auc": area},
                       {"clinc150_acc": [float(x) for x in inside], "clinc150_oos_auc": [1.0] * len(items)},
                       [item.choices[b] for item, b in zip(items, best, strict=True)])

    def chance(self, items: Sequence[Item]) -> dict[str, Reference]:
        """One intent of all, and no knowledge of who has one."""
        return {"clinc150_acc": Reference(1 / len(items[0].choices), "one of the choices at random"),
                "clinc150_oos_auc": Reference(0.5, "certainty that says nothing")}

    def _tree(self) -> dict[str, list[list[str]]]:
        [tree] = self.rows("data_full.json")
        if not {"test", "oos_test", "train"} <= set(tree):
            raise RequestError("clinc150: data_full.json has no test, oos_test and train")
        return tree


TASK = Clinc150()
