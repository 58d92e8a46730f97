"""Whatever the OpenAPI document allows, and what it forbids: no answer of 5xx, none that takes the server down."""
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

QUICK = settings(max_examples=4, deadline=None, database=None, derandomize=True,
                 suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=300)


def tried(url: str, how: settings) -> int:
    """Send requests to every operation of the document; how many operations there are."""
    operations = [found.ok() for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]
    for operation in operations:
        @how
        @given(case=operation.as_strategy())
        def sent(case: Any) -> None:
            case.call_and_validate(checks=[not_a_server_error], timeout=60)
        sent()
    assert httpx2.get(f"{url}/ready").json()["ready"]
    return len(operations)


def test_no_request_makes_the_server_fail(url: str) -> None:
    assert tried(url, QUICK) > 15


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning")
def test_no_request_makes_the_server_fail_in_many_tries(url: str) -> None:
    assert tried(url, LONG) > 15
