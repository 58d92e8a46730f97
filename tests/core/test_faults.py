"""The fault points themselves."""
import os
import signal
import subprocess
import sys

import pytest

from meristem.core import faults
from meristem.core.errors import RequestError


@pytest.fixture(autouse=True)
def disarmed():
    yield
    faults.arm("")


def test_a_planned_error_comes_at_its_visit_and_once():
    faults.arm("a:2:error,b:1:error")
    faults.point("a")
    with pytest.raises(OSError, match="injected at a"):
        faults.point("a")
    faults.point("a")
    with pytest.raises(OSError, match="injected at b"):
        faults.point("b")


def test_without_a_plan_a_point_remembers_nothing():
    faults.point("a")
    faults.arm("a:1:error")
    with pytest.raises(OSError, match="No space|injected"):
        faults.point("a")


@pytest.mark.parametrize("plan", ["a", "a:1", "a:x:kill", "a:1:explode", ":1:kill"])
def test_a_plan_that_makes_no_sense_is_refused(plan):
    with pytest.raises(RequestError, match="name:count:what"):
        faults.arm(plan)


@pytest.mark.parametrize(("what", "number"), [("kill", signal.SIGKILL), ("term", signal.SIGTERM)])
def test_the_variable_arms_a_process_and_the_signal_is_real(what, number):
    child = subprocess.run([sys.executable, "-c",
                            "from meristem.core.faults import point; point('x'); point('x'); print('alive')"],
                           env={**os.environ, "MERISTEM_FAULT": f"x:2:{what}"}, capture_output=True)
    assert child.returncode == -number and b"alive" not in child.stdout
