"""Two processes under torch's elastic agent (elastic.py): killed, frozen, slow, poisoned, asked to stop."""
import json

import pytest

from tests.starter import started

STEPS = list(range(1, 15))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("elastic")
    assert started("tests.faults.elastic:sessions", str(folder), out=folder / "cases.jsonl") == [0]
    return {case["fault"]: case for case in map(json.loads, (folder / "cases.jsonl").read_text().splitlines())}


def test_two_processes_train_beside_somebody_elses_port(found):
    assert found["plain"]["status"] == 0 and found["plain"]["steps"] == STEPS and found["plain"]["model"]


def test_either_rank_killed_and_one_frozen_the_run_goes_on_with_nothing_lost_or_repeated(found):
    case = found["kills"]
    assert case["status"] == 0 and case["steps"] == STEPS and case["model"] == found["plain"]["model"]
    # two kills and a freeze: the agent names a SIGKILL, or the survivor's lost connection if that reaches it first
    assert "SIGKILL" in case["told"] and "(4 launches)" in case["told"], "nobody was killed"
    assert "going on from step 3 of 14" in case["told"]


def test_a_frozen_rank_is_named(found):
    told = found["kills"]["told"]
    assert "no step for 3 s, in step" in told and ": rank 1 (process" in told and "gives no sign of life" in told
    assert "its stacks are in" in told


def test_a_slow_rank_is_named_and_changes_nothing(found):
    case = found["slow"]
    assert "is slow: 25" in case["told"] and "warning: rank 1 (process" in case["told"]
    assert case["model"] == found["plain"]["model"]


def test_a_crash_loop_stops_the_agent_with_a_diagnosis(found):
    case = found["loop"]
    assert case["status"] == 1 and case["model"] is None
    assert "step 4 has ended the run 3 times in a row (rank 1: killed or lost; rank 0: " in case["told"]
    assert "SignalException" in case["told"], "the agent would have gone on"


def test_sigterm_to_the_agent_saves_on_all_ranks_and_the_next_launch_repeats_nothing(found):
    case, again = found["group"], found["again"]
    assert "stopped and saved; the run is resumable" in case["told"]
    assert f"going on from step {case['steps'][-1]} of 14" in again["told"]
    assert again["status"] == 0 and again["steps"] == STEPS and again["model"] == found["plain"]["model"]
