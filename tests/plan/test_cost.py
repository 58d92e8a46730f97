"""Counts against published numbers and against what torch itself counts."""
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from meristem.core import registry
from meristem.core.config import Part, build, known, to_dict
from meristem.core.run import Train
from meristem.models import bert, llama, t5
from meristem.nn.attention import Reach
from meristem.plan.cost import Cost, decoder_flops, flops_of, on_meta, palm_flops, seen, stored
from meristem.plan.devices import device
from meristem.plan.example import example
from meristem.recipes import recipes
from meristem.train.optim import Optimizer

SMALL = {"vocab": 300, "dim": 64, "layers": 2, "heads": 4, "groups": 2}


@pytest.mark.parametrize(("size", "parameters"),
                         [("llama-7b", 6_738_415_616), ("llama-13b", 13_015_864_320), ("llama-33b", 32_528_943_616),
                                                  ("llama-65b", 65_285_660_672), ("llama2-70b", 68_976_648_192)])
def test_published_parameter_counts_to_the_last_one(size, parameters):
    assert Cost.of(on_meta(Part("llama", to_dict(llama.SIZES[size]))), 2048).parameters == parameters


def test_flops_agree_with_torchs_own_counter_when_the_square_is_one_chunk():
    """With a context of at most one query chunk the kernel computes the whole square, so both count the same
    products."""
    model = llama.Model(llama.Config(**SMALL))
    tokens = torch.zeros(3, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    cost = Cost.of(model, 32)
    assert counter.get_total_flops() == pytest.approx(3 * 32 * cost.training_flops_full, rel=0.002)
    assert cost.training_flops < cost.training_flops_full


T5 = {"vocab": 300, "dim": 32, "layers": 2, "decoder_layers": 3, "heads": 4, "head_dim": 16, "hidden": 72}
BERT = {"vocab": 300, "context": 40, "dim": 32, "layers": 2, "heads": 4, "head": "lm"}


@pytest.mark.parametrize("fields", [T5, {**T5, "tied": False, "feed_forward": "gated-gelu"}])
def test_a_token_of_an_encoder_decoder_meets_one_stack(fields):
    """Source and target of different lengths and stacks of different depths, against torch's counter."""
    rows, source, target = 3, 50, 20
    model = t5.Model(t5.Config(**fields))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(rows, target, dtype=torch.long), torch.zeros(rows, source, dtype=torch.long)).sum().backward()
    cost = Cost.of(model, target, source)
    assert counter.get_total_flops() == pytest.approx(rows * (source + target) * cost.training_flops_full, rel=0.002)
    even = Cost.of(model, target)
    assert even == Cost.of(model, target, target), "as many on both sides where nobody says"
    whole = sum(2 * m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert even.linear_flops == pytest.approx(whole / 2, rel=1e-3), "half of the network a token"


def test_t5_costs_what_a_decoder_of_half_its_parameters_costs():
    """Raffel et al. 2020, table 2: T5-base, 220 M parameters, has the FLOPs of a decoder of 110 M."""
    cost = Cost.of(on_meta(Part("t5", to_dict(t5.SIZES["t5-base"]))), 512)
    assert cost.parameters / 1e6 == pytest.approx(223, abs=1)
    assert cost.linear_flops == pytest.approx(cost.parameters, rel=1e-3), "2 FLOPs of half of them; the table is a head"
    layers = 12 + 12 / 2 + 12                                  # two-way, causal, across; each for half of the tokens
    assert cost.seen_flops == 2 * 2 * 512 * 768 * layers / 2


@pytest.mark.parametrize("asked", [0, 6])
def test_masked_prediction_asks_the_vocabulary_at_its_places(asked):
    model = bert.Model(bert.Config(**BERT))
    places = torch.zeros(3, asked, dtype=torch.long) if asked else None
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 40, dtype=torch.long), places=places)
    cost = Cost.of(model, 40, asked=asked)
    transform = 3 * (40 - asked) * 2 * 32 * 32 if asked else 0  # asked there only, too: 1 % that is counted in full
    assert 3 * 40 * cost.forward_flops - transform == pytest.approx(counter.get_total_flops(), rel=0.002)
    assert cost.seen_flops == cost.attention_flops == 2 * 2 * 40 * 2 * 32, "both ways: nothing is masked"


@pytest.mark.parametrize("reach", [Reach(window=16), Reach(chunk=24), Reach(window=9, chunk=40), Reach(window=999),
                                   Reach(causal=False), Reach()])
def test_windows_and_chunks_count_what_a_query_sees(reach):
    """Against the mask itself: triangles count half of their square, the diagonal is the difference."""
    square, left = seen(reach, 96)
    mask = reach.seen(torch.arange(96), torch.arange(96))
    assert left == pytest.approx(int(mask.sum()), abs=0 if not reach.causal else 96 / 2 + 1)
    assert square == 96 * min(96, reach.window or 96, reach.chunk or 96) and stored(reach, 96) <= 96
    assert stored(Reach(window=16), 4096) == 16 + 128 and stored(Reach(chunk=256), 4096) == stored(Reach(), 256)


def test_a_window_makes_long_contexts_cheaper():
    part = Part("llama", SMALL | {"window": 64, "windowed": (1,)})
    windowed, whole = Cost.of(on_meta(part), 1024), Cost.of(on_meta(Part("llama", SMALL)), 1024)
    assert windowed.attention_flops == whole.attention_flops / 2 + 2 * 2 * 64 * 64
    assert windowed.linear_flops == whole.linear_flops and windowed.activation_bytes < whole.activation_bytes


@pytest.mark.parametrize("tied", [False, True])
def test_six_n_is_the_linear_part(tied):
    """6 N D, with N the parameters in products, is the linear layers' cost; norms (about 1e-3) and lookups add
    nothing."""
    cost = Cost.of(on_meta(Part("llama", SMALL | {"tied": tied})), 32)
    assert 3 * cost.linear_flops == pytest.approx(6 * cost.active, rel=3e-3)
    assert cost.embedding == (0 if tied else 300 * 64) and cost.active == cost.parameters - cost.embedding


def test_flops_of_a_mixture_agree_with_torchs_counter_over_a_loop_over_experts():
    """transformers' eager experts are plain products, which the counter sees; the same shape, tokens routed its way."""
    config = transformers.MixtralConfig(vocab_size=300, hidden_size=64, intermediate_size=40, num_hidden_layers=2,
                                        num_attention_heads=4, num_key_value_heads=2, num_local_experts=5,
                                        num_experts_per_tok=3, experts_implementation="eager",
                                        attn_implementation="eager")
    model = transformers.MixtralForCausalLM(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 32, dtype=torch.long))
    mine = {**SMALL, "hidden": 40, "experts": 5, "top_k": 3}
    cost = Cost.of(on_meta(Part("mixtral", mine)), 32)
    assert counter.get_total_flops() == pytest.approx(3 * 32 * cost.training_flops_full / 3, rel=0.002)
    dense = Cost.of(on_meta(Part("mixtral", {**mine, "experts": 3})), 32)                  # what one token meets
    assert cost.linear_flops - dense.linear_flops == 2 * 2 * 2 * 64, "the router's two rows more, in each layer"
    assert cost.active - dense.active == 2 * 2 * 64 and dense.idle == 0
    assert cost.memory(64)["weights"] == 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor", "schedule_free"])
def test_the_state_of_every_optimizer_is_what_it_really_keeps(optimizer, family):
    fields = SMALL | ({"experts": 3, "top_k": 2, "hidden": 40} if family == "mixtral" else {})
    entry = registry.load("models", family)
    model = entry.Model(entry.Config(**fields))
    for ema in (False, True):
        kept = Optimizer(model, Train(optimizer=optimizer, ema=0.9 if ema else 0.0))
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        kept.step(0.0)
        counters = (":step", ":weight", ":updates")
        numbers = sum(t.numel() for name, t in kept.state().items() if not name.endswith(counters))
        assert Cost.of(model, 32).memory(64, optimizer, ema)["moments"] == 4 * numbers


@pytest.mark.parametrize(("family", "size", "published"), [
    ("mixtral", "mixtral-8x7b", 12.9), ("mixtral", "mixtral-8x22b", 39), ("mixtral", "qwen3-30b-a3b", 3.3),
    ("mixtral", "qwen3-235b-a22b", 22), ("llama4", "llama4-scout", 17), ("llama4", "llama4-maverick", 17)])
def test_published_active_parameters(family, size, published):
    """Billions a token meets, embedding table included, as the papers and model cards round them."""
    cost = Cost.of(on_meta(Part(family, to_dict(registry.load("models", family).SIZES[size]))), 2048)
    assert (cost.parameters - cost.idle) / 1e9 == pytest.approx(published, rel=0.02)


def test_memory_adds_up_by_hand():
    cost = Cost.of(on_meta(Part("llama", SMALL | {"tied": True})), 32)
    n, parts = cost.parameters, cost.memory(tokens=64)
    assert (parts["weights"], parts["gradients"], parts["moments"], parts["casts"]) == (4 * n, 4 * n, 8 * n, 2 * n)
    assert parts["logits"] == 64 * 300 * 10 and parts["snapshot"] == 18 * n
    saved = parts["moments"] - cost.memory(64, "muon")["moments"]
    assert saved == 4 * (n - 300 * 64 - 5 * 64), "all but the table and five norms"
    assert cost.memory(128)["activations"] == 2 * parts["activations"] > 0


def test_gpt2_by_nanogpts_and_palms_formulas():
    """PUBLISHED row 24: GPT-2 124M at a context of 1,024, one sequence."""
    assert decoder_flops(12, 768, 50257, 1024) == 291_648_307_200
    assert 3 * decoder_flops(12, 768, 50257, 1024) == 874_944_921_600
    assert 1024 * palm_flops(124_337_664 - 1024 * 768, 12, 12, 64, 1024) == 875_062_886_400


@pytest.mark.parametrize(("parameters", "tokens", "factor", "published"), [
    (174_600e6, 300e9, 6, 3.14e23), (60e6, 1e12, 3, 1.80e20), (11e9, 1e12, 3, 3.30e22), (355e6, 250e9, 6, 5.33e20),
    (109.5e6, 250e9, 6, 1.64e20), (12_850e6, 300e9, 6, 2.31e22), (355e6, 2e12, 6, 4.26e21),
    (1.32e9, 300e9, 6, 2.38e21), (70e9, 1.4e12, 6, 5.88e23), (280e9, 300e9, 6, 5.04e23)])
def test_published_training_budgets_are_six_n_d(parameters, tokens, factor, published):
    """PUBLISHED rows 22, 23, 36 (GPT-3 table D.1; T5's encoder-decoder touches each token with half its weights)."""
    forward_and_back = palm_flops(int(parameters), 0, 0, 0, 0)
    assert forward_and_back * factor / 6 * tokens == pytest.approx(published, rel=3e-3)


def test_palms_utilisation():
    """Row 26: 46.2 % at 238.3 thousand tokens a second on 6,144 TPU v4."""
    flops = palm_flops(540_354_000_000, 118, 48, 256, 2048)
    assert 238.3e3 * flops / (6144 * device("tpu-v4").flops("bfloat16")) == pytest.approx(0.462, abs=5e-4)


@pytest.mark.parametrize("name", ["clip", "film", "prior", "sam", "unclip"])
def test_flops_of_a_model_of_pictures_are_counted_where_nothing_is_computed(name):
    """The same on the meta device and on real tensors, a text that is attended to and an embedding among them."""
    run = recipes()[name]()
    entry = registry.load("models", run.model.name)
    config = build(entry.Config, run.model, **known(entry.Config, vocab=64))
    with torch.device("meta"):
        nothing = entry.Model(config)
    given = example(nothing, 16)
    counted = flops_of(nothing, given)
    assert counted == flops_of(entry.Model(config), {n: torch.zeros(x.shape, dtype=x.dtype) for n, x in given.items()})
    also = {"clip": "tokens", "film": "time", "prior": "caption", "sam": "points", "unclip": "condition"}
    assert counted > 1e6 and also.get(name, next(iter(given))) in given
