"""Budgets as people write them."""
import pytest

from meristem.core.errors import RequestError
from meristem.plan.budget import Budget, parse


@pytest.mark.parametrize(("text", "budget"), [
    ("10 h", Budget(seconds=36_000)), ("1h30m", Budget(seconds=5400)), ("300", Budget(seconds=300)),
    ("1e15 FLOPs", Budget(flops=1e15)), ("2.5e14flop", Budget(flops=2.5e14)), ("$50", Budget(dollars=50)),
    ("50 dollars", Budget(dollars=50)), ("12.5 USD", Budget(dollars=12.5)), ("loss 1.2", Budget(loss=1.2)),
    ("Loss=0.95", Budget(loss=0.95))])
def test_four_ways_to_say_how_much(text: str, budget: Budget) -> None:
    assert parse(text) == budget


@pytest.mark.parametrize(("text", "says"), [("a lot", "'50 dollars' or 'loss 1.2'"), ("10 parsecs", "is no budget"),
                                            ("0 FLOPs", "is nothing"), ("", "is no budget")])
def test_anything_else_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        parse(text)


def test_money_becomes_seconds_at_a_price() -> None:
    assert parse("$50").priced(2.0) == Budget(seconds=90_000) and parse("$50").priced(2.0, 10) == Budget(seconds=9000)
    assert parse("5m").priced(0.0) == Budget(seconds=300)
