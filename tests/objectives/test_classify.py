"""Classes of texts, of tokens and of answers: the loss by hand, what is not scored, what is refused."""
import pytest
import torch
from torch.nn import functional as F

from meristem.core.errors import RequestError
from meristem.models.bert import Config, Model
from meristem.objectives.classify import Classify

LABELS = ("a", "b", "c")


def objective(head):
    torch.manual_seed(0)
    config = Config(vocab=50, context=12, dim=32, layers=1, heads=2, head=head, labels=LABELS, dropout=0.0)
    return Classify(Model(config))


def batch(labels):
    real = torch.arange(12) < torch.tensor([12, 7])[:, None]
    tokens = torch.randint(5, 50, (2, 13), generator=torch.Generator().manual_seed(0))
    return {"tokens": tokens, "weight": real.float(), "segments": 1 - real.long(), "labels": labels}


def test_a_class_a_text():
    o = objective("sequence")
    made = o.prepare(batch(torch.tensor([2, 0])))
    loss, facts = o(made)
    logits = o.model(made["tokens"][:, :-1], made["segments"])
    torch.testing.assert_close(loss, F.cross_entropy(logits, made["labels"], reduction="sum"))
    assert float(o.weight(made)) == 2 and float(facts["accuracy"]) == int((logits.argmax(1) == made["labels"]).sum())


def test_a_class_a_token_but_not_where_there_is_none():
    o = objective("token")
    labels = torch.full((2, 12), -1)
    labels[0, 3], labels[1, 2], labels[1, 5] = 1, 0, 2
    made = o.prepare(batch(labels))
    loss, _ = o(made)
    logits = o.model(made["tokens"][:, :-1], made["segments"])
    torch.testing.assert_close(loss, F.cross_entropy(logits[labels >= 0], labels[labels >= 0], reduction="sum"))
    assert float(o.weight(made)) == 3


def test_an_answer_begins_and_ends_inside_its_text():
    o = objective("qa")
    made = o.prepare(batch(torch.tensor([[3, 5], [6, 6]])))
    loss, facts = o(made)
    logits = o.model(made["tokens"][:, :-1], made["segments"])
    ends = [(b, n, k) for b, n in ((0, 12), (1, 7)) for k in (0, 1)]
    by_hand = [F.cross_entropy(logits[b, :n, k], made["labels"][b, k]) / 2 for b, n, k in ends]
    torch.testing.assert_close(loss, sum(by_hand))
    assert float(o.weight(made)) == 2 and 0 <= float(facts["accuracy"]) <= 2


def test_bad_requests():
    with pytest.raises(RequestError, match="gives no classes"):
        Classify(Model(Config(vocab=50, dim=32, layers=1, heads=2, head="lm")))
    bare = batch(torch.tensor([0, 0]))
    bare.pop("labels")
    with pytest.raises(RequestError, match="data.examples=labels"):
        objective("sequence").prepare(bare)
