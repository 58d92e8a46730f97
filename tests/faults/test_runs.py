"""Whole runs under real faults, through the real command line (launches.py): what is said, lost, and comes out."""
import json

import pytest

from tests.starter import started


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("runs")
    assert started("tests.faults.launches:every", str(folder), out=folder / "cases.jsonl") == [0]
    return {case["fault"]: case for case in map(json.loads, (folder / "cases.jsonl").read_text().splitlines())}


@pytest.fixture
def whole(found) -> str:
    """The hash of the model of the run that nothing happened to."""
    assert found[""]["ends"][0]["status"] == 0 and found[""]["model"]
    return found[""]["model"]


def statuses(case: dict) -> list[int]:
    return [end["status"] for end in case["ends"]]


def told(case: dict, launch: int) -> str:
    assert "Traceback" not in case["ends"][launch]["told"], case["ends"][launch]["told"]
    return case["ends"][launch]["told"]


def test_a_storm_of_kills_makes_progress_and_ends_in_the_same_bits(found, whole):
    case = found["storm"]
    assert statuses(case) == [-9] * 6 + [0] and case["model"] == whole
    assert case["begun"] == sorted(case["begun"]) and case["begun"][-1] > 5
    assert "damaged" not in "".join(end["told"] for end in case["ends"])


@pytest.mark.parametrize("fault", ["group", "terms"])
def test_sigterm_to_the_whole_group_once_or_twice_saves_and_exits_143(found, whole, fault):
    case = found[fault]
    assert statuses(case) == [143, 0] and case["model"] == whole
    assert "stopped and saved; the run is resumable" in told(case, 0) and "goodput" in told(case, 0)
    assert f"going on from step {case['at']} of" in told(case, 1), "a step was repeated or lost"


def test_a_second_ctrl_c_during_a_save_aborts_and_leaves_no_torn_file(found, whole):
    case = found["ints"]
    assert statuses(case) == [130, 0] and case["model"] == whole
    assert "meristem: stopped; the run is resumable" in told(case, 0) and "damaged" not in told(case, 1)


def test_out_of_memory_is_one_line_with_the_arithmetic_and_three_ways_out(found):
    case = found["memory"]
    assert statuses(case) == [1]
    line = told(case, 0).splitlines()[-1]
    for word in ("out of memory", "weights", "activations", "this machine has", "train.micro", "train.context"):
        assert word in line


def test_a_step_that_kills_three_times_is_not_tried_again_until_somebody_acts(found, whole):
    case = found["loop"]
    assert statuses(case) == [-9, -9, -9, 1, 0] and case["model"] == whole
    assert "step 4 has ended the run 3 times in a row (rank 0: killed or lost)" in told(case, 3)


def test_two_trainers_in_one_folder(found, whole):
    case = found["twice"]
    assert statuses(case) == [2, 0] and f"is being trained by process {case['process']} on " in told(case, 0)
    assert case["model"] == whole


def test_all_checkpoints_damaged_is_status_3_at_every_start_until_fresh(found, whole):
    case = found["damaged"]
    assert statuses(case) == [3, 3, 0] and case["model"] == whole
    assert told(case, 0).count("was set aside") == 4 and "--fresh" in told(case, 0) and "--fresh" in told(case, 1)


def test_a_damaged_tokenizer_or_corpus_is_named_and_never_trained_on(found):
    assert statuses(found["tokenizer"]) == [1] and "tokenizer.json is damaged" in told(found["tokenizer"], 0)
    assert statuses(found["corpus"]) == [1] and "train.jsonl is damaged" in told(found["corpus"], 0)


def test_another_corpus_config_or_type_than_the_run_began_with_is_refused_by_name(found):
    assert statuses(found["data"]) == [2] and "the corpus of" in told(found["data"], 0)
    case = found["config"]
    assert statuses(case) == [2, 2, 2] and "train.lr is 0.003 there, 0.1 here" in told(case, 0)
    assert "train.dtype" in told(case, 1) and "float16" in told(case, 2)


def test_other_threads_are_refused_or_recorded(found):
    case = found["drift"]
    assert statuses(case) == [2, 0] and "threads 1 -> 2" in told(case, 0) and "no longer bit for bit" in told(case, 1)
    assert case["drift"] == [{"threads": [1, 2]}]


def test_a_bit_flipped_in_a_gradient_is_found_by_replay(found, whole):
    case = found["wrong"]
    assert statuses(case) == [0, 0, 1, 0] and case["model"] != whole, "the flip did nothing"
    assert "step 6 of" in told(case, 2) and "grad_norm" in told(case, 2)
