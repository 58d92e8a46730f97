"""Dry runs: published step times, bytes that agree with the real division, and meshes that do not fit."""
import math
from dataclasses import replace

import pytest
import torch

from meristem.core import registry
from meristem.core.config import Part, build
from meristem.core.errors import RequestError
from meristem.core.run import Data, Run, Train
from meristem.plan.cost import Cost
from meristem.plan.devices import device
from meristem.plan.elsewhere import named
from meristem.train.pipeline import cut
from meristem.train.placement import Placement, _Layout, place

SMALL = Part("llama", {"dim": 64, "layers": 4, "heads": 4, "groups": 2, "hidden": 192})


def run(mesh: str, model: Part = SMALL, vocab: int = 512, **train) -> Run:
    settings = {"steps": 100, "batch": 16, "micro": 4, "context": 128, "mesh": mesh, **train}
    return Run("small", model, data=Data(codec=Part("bpe", {"vocab": vocab})), train=Train(**settings))


def megatron(dp: int, **train) -> Placement:
    """Megatron-Turing NLG 530B as it was trained: tensor 8, pipeline 35, 1,920 rows of 2,048, recomputation."""
    given = {"steps": 1, "batch": 1920, "micro": dp, "context": 2048, "recompute": True, **train}
    return place(run(f"dp={dp},tp=8,pp=35", named("mt-nlg-530b"), 51_200, **given), "a100-sxm-80gb")


@pytest.mark.parametrize(("dp", "seconds", "error"), [
    (8, 60.1, 0.01), pytest.param(10, 50.2, 0.03, marks=pytest.mark.slow), (12, 44.4, 0.05)])
def test_megatron_turing_530b_takes_the_seconds_of_its_paper(dp, seconds, error):
    """Section 2.4 of arXiv 2201.11990; the first row is what REACHED is fitted to, the others are predictions."""
    found = megatron(dp)
    assert found.devices == 280 * dp and found.nodes == 35 * dp and len(found.stages) == 35
    assert found.step_seconds == pytest.approx(seconds, rel=error)
    assert found.stages[17].name == "layers 51 to 53" and found.stages[34].processes[1] == found.devices - 1
    share = 529_600_819_200 / 280
    assert found.stages[17].parameters == pytest.approx(share, rel=0.02)
    assert sum(found.fullest.memory.values()) < 80e9 < sum(megatron(dp, recompute=False).fullest.memory.values())


def test_the_530b_needs_recomputation_and_says_so():
    lines = "\n".join(megatron(8, recompute=False).explain())
    assert "does NOT fit: turn recomputation on" in lines
    assert "stages 1 to 33 (processes 64 to 2,175): 3 layers each; 1,888 M parameters a device" in lines
    assert "2,240 x a100-sxm-80gb in 280 nodes, 240 micro-batches" in lines and "dollars" not in lines


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("model", [SMALL, Part("gpt2", {"dim": 64, "layers": 4, "heads": 4})], ids=["llama", "tied"])
def test_each_stage_has_the_parameters_that_a_real_cut_leaves(model, stages):
    found = place(run(f"pp={stages}", model), "h100-sxm")
    config = build(registry.load("models", model.name).Config, model, vocab=512, context=128)
    for s, stage in enumerate(found.stages):
        with torch.device("meta"):
            module = registry.load("models", model.name).Model(config)
        cut(module, s, stages) if stages > 1 else None
        assert stage.parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("model", [SMALL, Part("gpt2", {"dim": 64, "layers": 4, "heads": 4}),
                                   Part("mixtral", {"dim": 64, "layers": 2, "heads": 4, "experts": 4, "hidden": 64})],
                         ids=lambda part: part.name)
def test_on_one_device_it_is_what_the_cost_model_says(model, dtype):
    one = run("", model, micro=0, dtype=dtype)
    layout, (stage,) = _Layout(one, device("h100-sxm"), 512), place(one, "h100-sxm").stages
    cost, tokens = Cost.of(layout.model, 128), 16 * 128
    theirs = cost.memory(tokens)
    ours = stage.memory
    assert sum(layout.kept(b) for b in layout.blocks) == cost.activation_bytes
    for use in ("weights", "gradients", "moments", "activations", "logits"):
        assert ours[use] == theirs[use]
    assert ours["casts"] == pytest.approx(theirs["casts"], rel=0.02) and not any(stage.sent.values())


def test_tensor_parallelism_divides_matrices_and_sharding_divides_state():
    whole, half = place(run(""), "h100-sxm"), place(run("tp=2"), "h100-sxm")
    norms = 9 * 64
    assert half.stages[0].parameters - norms == (whole.stages[0].parameters - norms) / 2
    shared, copied = place(run("dp=4"), "h100-sxm"), place(run("dp=4", shard=False), "h100-sxm")
    assert shared.stages[0].memory["moments"] == whole.stages[0].memory["moments"] // 4
    assert copied.stages[0].memory["moments"] == whole.stages[0].memory["moments"]
    sent = 3 / 4 * 4 * whole.stages[0].parameters
    assert copied.stages[0].sent["dp"] == 2 * sent and shared.stages[0].sent["dp"] == sent * (2 * 4 + 1)


def test_a_pipeline_waits_as_its_formula_says_and_1f1b_keeps_less():
    found = place(run("pp=4", micro=1), "h100-sxm")
    turn, after = max(s.turn for s in found.stages), max(s.after for s in found.stages)
    assert found.micro == 16 and found.step_seconds == pytest.approx(19 * turn + after)
    assert found.waiting == pytest.approx(3 * turn / found.step_seconds) and turn > max(s.compute for s in found.stages)
    late, early = (place(run("pp=4", micro=1, pipeline=p), "h100-sxm").stages[0].memory for p in ("1f1b", "gpipe"))
    assert late["activations"] * 4 == early["activations"]


def test_days_energy_and_money_follow_from_the_step():
    found = place(run("dp=8", batch=64, micro=64), "h100-sxm", price=2.0)
    hours = 100 * found.step_seconds / 3600 * 8
    assert found.days == pytest.approx(100 * found.step_seconds / 86_400)
    assert (found.megawatt_hours, found.dollars) == (pytest.approx(hours * 700 / 1e6), pytest.approx(hours * 2))
    assert found.tokens_per_second == pytest.approx(64 * 128 / found.step_seconds)
    assert place(run("dp=8", batch=64, micro=64), "tpu-v5e").megawatt_hours is None
    assert math.isfinite(found.utilisation) and "hangs on latencies" in "\n".join(found.explain())


@pytest.mark.parametrize(("mesh", "train", "says"), [
    ("tp=8", {}, "4 heads do not divide into tp=8"), ("pp=3", {}, "4 layers do not divide into pp=3 stages"),
    ("dp=3", {"micro": 4}, "rows do not divide by the 3 processes that share them"),
    ("dp=12", {"micro": 12, "batch": 24}, "12 processes, which do not fill nodes of 8"),
    ("cp=3", {}, "context=128 does not divide into cp=3"), ("ep=2", {}, "no experts do not divide into ep=2"),
    ("pp=4", {"micro": 8}, "1f1b needs at least as many micro-batches as stages: 2 for pp=4"),
    ("dp=2", {"micro": 6}, "train.batch=16 is no multiple of train.micro=6"),
    ("xp=2", {}, "no axis 'xp'")])
def test_a_mesh_that_does_not_fit_is_refused_in_one_line(mesh, train, says):
    with pytest.raises(RequestError, match=says) as error:
        place(run(mesh, **train), "h100-sxm")
    assert "\n" not in str(error.value)


def test_an_unknown_device_is_asked_for():
    with pytest.raises(RequestError, match="no device 'gpu9000'.*known: v100"):
        place(run(""), "gpu9000")
    with pytest.raises(RequestError, match="no bfloat16 arithmetic"):
        place(run(""), "t4")
    assert place(replace(run(""), train=Train(dtype="float32")), "t4").memory == 16 * 10**9


def test_stages_whose_rows_are_cut_too_keep_half_the_activations():
    whole, cut = (place(run(mesh), "h100-sxm").stages[0].memory for mesh in ("pp=2", "pp=2,cp=2"))
    assert cut["activations"] == whole["activations"] // 2 and cut["weights"] == whole["weights"]
