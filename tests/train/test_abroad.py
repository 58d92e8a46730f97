"""Plans for devices that are not here: the mesh fits, and time, energy and money follow."""
import pytest

from meristem.core.errors import RequestError
from meristem.plan.budget import Budget
from meristem.train import abroad


@pytest.fixture(scope="module")
def made() -> abroad.Abroad:
    return abroad.plan(Budget(seconds=7200), "a100-sxm-80gb", 4, price=2.0)


def test_a_budget_of_time_is_spent_and_everything_follows(made) -> None:
    assert made.seconds == pytest.approx(7200, rel=0.1) and made.seconds_low <= made.seconds < made.seconds_high
    assert made.low < made.loss < made.high and made.tokens == made.run.train.steps * made.run.train.batch * 2048
    assert made.memory <= 80e9 and made.placement.devices == 4
    assert made.dollars == pytest.approx(2 * 4 * made.seconds / 3600) and made.dollars < made.dollars_high
    hours = 4 * made.seconds / 3600
    assert made.megawatt_hours == pytest.approx(hours * 400 * 1.1 / 1e6) and made.tonnes == pytest.approx(
        made.megawatt_hours * 0.475)
    assert 8 < made.tokens / made.parameters < 60, "about 20 tokens a parameter"
    text = "\n".join(made.explain())
    for part in ("B parameters", "nats a token", "dollars", "MWh", "t CO2e", "mesh"):
        assert part in text


def test_flops_money_and_a_target_loss_are_budgets_too(made) -> None:
    flops = abroad.plan(Budget(flops=made.flops), "a100-sxm-80gb", 4)
    assert flops.parameters == made.parameters and flops.dollars is None
    assert abroad.cheapest(abroad.chinchilla(), 2.4) == pytest.approx(
        abroad.cheapest(abroad.chinchilla(), 2.4001), rel=0.01)
    with pytest.raises(RequestError, match="floor is 1.8"):
        abroad.plan(Budget(loss=1.5), "a100-sxm-80gb", 4)
    with pytest.raises(RequestError, match="no model of the right size"):
        abroad.plan(Budget(flops=1e9), "t4", 1)
    with pytest.raises(RequestError, match="did you mean h100"):
        abroad.plan(Budget(flops=1e20), "h100", 1)
