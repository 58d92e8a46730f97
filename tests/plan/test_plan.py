"""Plans: the best shape of a budget, corrected by what was timed; refusals that name what works; forecasts in two
units."""
import dataclasses
import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core.config import Part, build, from_dict
from meristem.core.errors import RequestError
from meristem.core.machine import Machine
from meristem.core.run import Run, Train
from meristem.models import llama
from meristem.plan import plan as planning
from meristem.plan.budget import Budget, parse
from meristem.plan.plan import SHAPES, Plan, Shape, Text, make, predicted_share, recipe
from meristem.plan.scaling import HOFFMANN, Law

MACHINE = Machine(matmul_bf16=9.5e11, matmul_fp32=2.2e11, read_bandwidth=5e10, cores=2, memory=24 << 30, compiler=True)
LAW = Law(0.55, 25.0, 0.33, 140.0, 0.33, unit="bits/byte", source="made up", residual=0.01,
          facts={"parameters": [4e5, 1e7], "data": [1e6, 1e8]})
TEXT = Text("corpus", bytes=40_000_000, tokens=11_000_000, vocab=4096)


def half_speed(run: Run) -> float:
    """A machine at half of what is predicted, for every shape."""
    shape = next(s for s in SHAPES if (s.dim, s.layers) == (run.model.fields["dim"], run.model.fields["layers"]))
    cost = planning._cost(shape, Part("llama"), TEXT.vocab)
    return 0.5 * predicted_share(shape.dim, run.train.compile) * MACHINE.peak / cost.training_flops


def test_shapes_are_models_that_exist_and_climb_from_half_a_million_to_a_billion():
    counts = [planning._cost(s, Part("llama"), 4096).parameters for s in SHAPES]
    assert counts == sorted(counts) and counts[0] < 5e5 and 8e8 < counts[-1] < 1.1e9
    assert all(b / a < 2.01 for a, b in zip(counts, counts[1:], strict=False))
    for shape in SHAPES:
        config = build(llama.Config, shape.part(Part("llama")).with_fields(vocab=4096))
        assert config.dim % 64 == 0 and config.hidden % 64 == 0 and config.head_dim in (32, 64) and config.tied
        assert config.heads * config.head_dim == config.dim and config.heads % config.groups == 0
        assert 2.4 < config.hidden / config.dim < 3.1


@settings(max_examples=40, deadline=None)
@given(st.floats(40, 1e6))
def test_a_plan_fits_its_budget_and_more_time_forecasts_less_loss(seconds):
    plan, more = make(seconds, TEXT, MACHINE, law=LAW), make(seconds * 2, TEXT, MACHINE, law=LAW)
    assert 0.9 * seconds < plan.seconds <= seconds * 1.001
    t = plan.run.train
    assert plan.tokens == t.steps * t.batch * t.context and t.steps >= planning.MIN_STEPS and t.warmup < t.steps
    assert plan.low < plan.bits_per_byte < plan.high and more.bits_per_byte < plan.bits_per_byte
    assert plan.memory < MACHINE.memory and more.parameters >= plan.parameters or seconds < planning.COMPILE_FROM


def test_the_choice_is_the_best_of_all_shapes():
    plan = make(600, TEXT, MACHINE, law=LAW)
    search = planning.Search(TEXT, MACHINE, LAW, Run("x"))
    assert plan.bits_per_byte == min(search.option(s, Budget(seconds=600)).loss for s in SHAPES)


def test_the_rate_that_was_measured_sets_the_steps():
    guess, timed = make(600, TEXT, MACHINE, law=LAW), make(600, TEXT, MACHINE, half_speed, law=LAW)
    assert not guess.rate_measured and timed.rate_measured
    assert timed.tokens_per_second == half_speed(timed.run)
    assert timed.tokens * timed.flops_per_token == pytest.approx(0.5 * guess.tokens * guess.flops_per_token, rel=0.25)
    assert timed.parameters <= guess.parameters and timed.bits_per_byte > guess.bits_per_byte


def test_when_large_shapes_disappoint_a_smaller_one_that_was_timed_is_taken():
    first, asked = make(3600, TEXT, MACHINE, law=LAW).run.model.fields["dim"], []

    def rate(run):
        asked.append(run.model.fields["dim"])
        return half_speed(run) * (0.1 if run.model.fields["dim"] >= first else 1.0)

    plan = make(3600, TEXT, MACHINE, rate, law=LAW)
    assert asked[0] == first and 1 < len(asked) <= planning.PROBES
    assert plan.run.model.fields["dim"] in asked and plan.run.model.fields["dim"] < first and plan.rate_measured


def test_a_machine_found_busy_gets_a_short_run_and_a_word_not_a_refusal(monkeypatch):
    clock, asked = iter(range(0, 10_000, 40)), []
    monkeypatch.setattr(planning.time, "perf_counter", lambda: float(next(clock)))
    plan = make(150, TEXT, MACHINE, lambda run: asked.append(run) or 900.0, law=LAW)
    assert len(asked) == 1, "forty seconds of probing are enough of 150"
    assert 15 <= plan.run.train.steps < planning.MIN_STEPS and plan.seconds <= 150
    assert any("other work may be running" in line for line in plan.why)


def test_the_time_a_probe_takes_comes_out_of_the_budget(monkeypatch):
    clock = iter(range(0, 10_000, 200))
    monkeypatch.setattr(planning.time, "perf_counter", lambda: float(next(clock)))
    plan = make(600, TEXT, MACHINE, half_speed, law=LAW)
    assert plan.tokens / plan.tokens_per_second < 600 - 200 and plan.seconds <= 600


@pytest.mark.parametrize("machine", [MACHINE, dataclasses.replace(MACHINE, compiler=False),
                                     dataclasses.replace(MACHINE, matmul_bf16=1e9)])
@pytest.mark.parametrize("seconds", [0, 1, 8])
def test_a_budget_too_small_names_the_smallest_that_works_and_it_does(seconds, machine):
    slow = dataclasses.replace(machine, matmul_bf16=machine.matmul_bf16 / 50, matmul_fp32=machine.matmul_fp32 / 50)
    with pytest.raises(RequestError, match=r"too small .* try --budget (\d+)s") as caught:
        make(seconds, TEXT, slow, law=LAW)
    smallest = int(re.search(r"--budget (\d+)s", str(caught.value))[1])
    assert make(smallest, TEXT, slow, law=LAW).run.train.steps >= planning.MIN_STEPS
    with pytest.raises(RequestError):
        make(0.7 * smallest, TEXT, slow, law=LAW)


def test_a_machine_without_bf16_or_a_compiler_gets_neither():
    plan = make(600, TEXT, dataclasses.replace(MACHINE, matmul_bf16=1e9, compiler=False), law=LAW)
    assert plan.run.train.dtype == "float32" and not plan.run.train.compile
    assert make(60, TEXT, MACHINE, law=LAW).run.train.compile is False, "compiling does not pay within a minute"
    assert make(600, TEXT, MACHINE, law=LAW).run.train.compile is True


def test_little_memory_means_micro_batches_then_smaller_models_then_a_refusal():
    day = make(86400, TEXT, MACHINE, law=LAW)
    tight = make(86400, TEXT, dataclasses.replace(MACHINE, memory=int(day.memory * 0.9)), law=LAW)
    micro = tight.run.train.micro
    assert 0 < micro < tight.run.train.batch and tight.run.train.batch % micro == 0
    assert tight.memory < 0.7 * 0.9 * day.memory
    tiny = make(86400, TEXT, dataclasses.replace(MACHINE, memory=1000 << 20), law=LAW)
    assert tiny.parameters < day.parameters
    with pytest.raises(RequestError, match="nothing of 20 model sizes"):
        make(86400, TEXT, dataclasses.replace(MACHINE, memory=1 << 20), law=LAW)


def test_repeated_text_is_discounted_and_said():
    rich, poor = make(86400, TEXT, MACHINE,
                      law=LAW), make(86400, dataclasses.replace(TEXT, bytes=400_000, tokens=110_000), MACHINE, law=LAW)
    assert poor.epochs > 100 and poor.bits_per_byte > rich.bits_per_byte + 0.1
    assert any("repeated" in line
               for line in poor.why) and poor.parameters > rich.parameters, "epochs buy little, so size is bought"


def test_too_little_text_is_refused():
    with pytest.raises(RequestError, match="has 1000 tokens of training text"):
        make(600, dataclasses.replace(TEXT, tokens=1000), MACHINE, law=LAW)


def test_bits_and_nats_agree_and_another_unit_of_law_is_a_bug():
    plan = make(600, TEXT, MACHINE, law=LAW)
    assert plan.nats_per_token == pytest.approx(plan.bits_per_byte * math.log(2) * TEXT.bytes / TEXT.tokens)
    with pytest.raises(ValueError, match="bits/byte"):
        make(600, TEXT, MACHINE, law=HOFFMANN)


def test_beyond_the_laws_runs_the_interval_widens_and_says_so():
    near, far = make(300, TEXT, MACHINE, law=LAW), make(86400, TEXT, MACHINE, law=LAW)
    assert not any("beyond" in line for line in near.why) and any("beyond the law's runs" in line for line in far.why)
    off = dataclasses.replace(LAW, facts={**LAW.facts, "held_out_error": -0.05})
    assert make(300, TEXT, MACHINE, law=off).high - make(300, TEXT, MACHINE, law=off).low > 2 * (near.high - near.low)


def test_the_template_keeps_what_a_plan_does_not_decide():
    template = Run("mine", model=Part("llama", {"qk_norm": True, "dim": 9}), seed=7,
                   train=Train(optimizer="muon", save_seconds=5))
    run = make(600, TEXT, MACHINE, law=LAW, template=template).run
    assert (run.name, run.seed, run.train.optimizer, run.train.save_seconds) == ("mine", 7, "muon", 5)
    assert run.model.fields["qk_norm"] and run.model.fields["dim"] % 64 == 0 and run.data.corpus == "corpus"


@pytest.mark.parametrize(("tokens", "batch_tokens"), [(1e6, 2048), (1e8, 21504), (1e9, 79872)])
def test_the_step_law_by_hand(tokens, batch_tokens):
    """B = 0.58 D^0.571: 1,545 (below our floor of 2,048), 21,400 and 79,700; lr = 1.79 N^-0.713 D^0.307."""
    run = recipe(Shape(256, 6), tokens, TEXT, Run("x"))
    assert run.train.batch * run.train.context == batch_tokens
    assert run.train.steps == tokens // batch_tokens
    inside = 6 * (256 * 256 * 3 + 3 * 256 * 704)
    assert run.train.lr == pytest.approx(min(0.02, 1.79 * inside**-0.713 * tokens**0.307), rel=0.01)


def test_flops_are_spent_and_a_loss_is_reached_in_the_least_time():
    flops = make(Budget(flops=1e14), TEXT, MACHINE, law=LAW)
    assert flops.flops == pytest.approx(1e14, rel=0.03) and flops.budget_seconds == 0 < flops.seconds
    best = make(flops.seconds, TEXT, MACHINE, law=LAW).bits_per_byte
    assert best < flops.bits_per_byte, "in the same time a wider model, which reaches more of the peak, has more FLOPs"
    aim = make(Budget(loss=best), TEXT, MACHINE, law=LAW)
    assert aim.bits_per_byte == pytest.approx(best, abs=2e-3) and aim.seconds < 1.1 * flops.seconds
    search = planning.Search(TEXT, MACHINE, LAW, planning.TEMPLATE)
    assert len(search.options(Budget(loss=best))) < len(SHAPES), "the smallest never get there"
    with pytest.raises(RequestError, match="the law's floor is 0.550"):
        make(Budget(loss=0.5), TEXT, MACHINE, law=LAW)
    with pytest.raises(RequestError, match="try --budget '.* FLOPs'"):
        make(Budget(flops=1e9), TEXT, MACHINE, law=LAW)


def test_money_is_time_at_a_price_and_energy_has_a_range():
    plan = make(parse("$3"), TEXT, MACHINE, law=LAW, price=1.5)
    assert plan.seconds == pytest.approx(7200, rel=0.01) and plan.dollars == pytest.approx(3, rel=0.01)
    assert plan.watt_hours_low < plan.watt_hours < plan.watt_hours_high and plan.grams > 0
    assert any("dollars" in line for line in plan.explain()) and make(600, TEXT, MACHINE, law=LAW).dollars is None
    with pytest.raises(RequestError, match="--price"):
        make(parse("3 dollars"), TEXT, MACHINE, law=LAW)


def test_a_plan_is_json_and_words():
    plan = make(600, TEXT, MACHINE, half_speed, law=LAW)
    assert from_dict(Plan, json.loads(json.dumps(plan.to_dict()))) == plan
    text = "\n".join(plan.explain())
    for part in ("M parameters", "a parameter", "steps of", "tokens/s measured", "forecast:", "bits per byte",
                 "memory about", "Wh", "why this size"):
        assert part in text
