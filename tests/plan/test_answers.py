"""1,000 tokens by hand: seconds, dollars, joules; the recorded rates of the serving benchmark can be priced."""
import json
import sys

import pytest

from benchmarks import serving
from meristem.core.errors import RequestError
from meristem.plan.answers import per_thousand


def test_a_thousand_tokens_by_hand() -> None:
    found = per_thousand(250.0, price=0.9, threads=2, cpu="AMD EPYC", memory=8 * 10**9)
    assert found.seconds == 4.0 and found.dollars == pytest.approx(4 / 3600 * 0.9)
    assert found.energy.joules == pytest.approx(4 * (2 * 280 / 128 + 3.0))       # 2.19 W a thread, 0.375 W a GB
    assert "dollars" in found.line() and per_thousand(250.0).dollars is None
    assert "dollars" not in per_thousand(250.0).line()
    with pytest.raises(RequestError, match="rate is above"):
        per_thousand(0.0)


def test_recorded_rates_are_priced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["serving", "--recorded", "--price", "0.10"])
    serving.main()
    table = json.loads(capsys.readouterr().out)
    one, most = (table["ours"][n]["dollars"] for n in ("1", "32"))
    assert one > 2 * most > 0 and set(table) == {"ours", "transformers", "llamacpp"}
