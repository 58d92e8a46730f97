"""Who is updated how: regex rows, freezing, rates by layer, and rates that hold across widths."""
import pytest
import torch

from meristem.core import registry
from meristem.core.errors import RequestError
from meristem.core.run import Group, Train
from meristem.models.llama import Config, Model
from meristem.nn.linear import compute_in
from meristem.objectives.next_token import NextToken
from meristem.train.groups import Rule, depths, hidden, rules, widen
from meristem.train.optim import Optimizer
from meristem.train.trainer import Trainer


def small(dim: int = 32, tied: bool = False, layers: int = 2) -> NextToken:
    torch.manual_seed(0)
    return NextToken(Model(Config(vocab=40, dim=dim, layers=layers, heads=dim // 8, context=16, tied=tied)))


def counting(step: int) -> list[dict]:
    start = torch.randint(40, (4, 1), generator=torch.Generator().manual_seed(step))
    return [{"tokens": (start + torch.arange(17)) % 40, "weight": torch.ones(4, 16)}]


def test_without_rows_matrices_decay_and_vectors_do_not():
    objective = small()
    made = rules(objective, Train(weight_decay=0.3))
    assert made == {n: Rule("adamw", 1.0, 0.3 if p.ndim > 1 else 0.0) for n, p in objective.named_parameters()}


def test_the_first_row_that_finds_a_name_decides_and_the_others_keep_theirs():
    config = Train(optimizer="muon", weight_decay=0.3, groups=(
        Group(r"blocks\.1\..*norm", lr=0.5, decay=0.2), Group(r"blocks\.1\.", lr=0.1), Group("embed", decay=0.0)))
    made = rules(small(), config)
    assert made["model.blocks.1.norm1.weight"] == Rule("adamw", 0.5, 0.2)
    assert made["model.blocks.1.attn.q.weight"] == Rule("muon", 0.1, 0.3)
    assert made["model.embed.weight"] == Rule("adamw", 1.0, 0.0)
    assert made["model.blocks.0.attn.q.weight"] == Rule("muon", 1.0, 0.3)


@pytest.mark.parametrize(("groups", "words"), [
    ([Group(r"blocks\.0\.atn\.q")], "no trainable parameter's name matches .*; the nearest is model.blocks.0.attn.q"),
    ([Group("embedd")], "the nearest is model.embed.weight"),
    ([Group("blocks("), Group("x")], r"'blocks\(' is no regular expression"),
    ([Group("blocks"), Group("attn")], "'attn' matches is matched by a row above it"),
    ([Group("norm", lr=-1.0)], "must not be negative"),
    ([Group("", freeze=True)], "nothing is left to train")])
def test_a_row_that_decides_nothing_is_an_error(groups, words):
    with pytest.raises(RequestError, match=words):
        rules(small(), Train(groups=tuple(groups)))


@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor", "schedule_free"])
def test_frozen_parameters_have_no_gradient_no_state_and_never_change(kind):
    objective = small()
    config = Train(steps=3, batch=4, context=16, lr=1e-2, warmup=1, optimizer=kind, ema=0.9,
                   groups=(Group("embed", freeze=True), Group(r"blocks\.0\.attn\.[qk]", freeze=True)))
    trainer = Trainer(objective, counting, config)
    before = {n: p.detach().clone() for n, p in objective.named_parameters()}
    trainer.update(counting(0))
    trainer.update(counting(1))
    frozen = {n for n, p in objective.named_parameters() if not p.requires_grad}
    assert frozen == {"model.embed.weight", *(f"model.blocks.0.attn.{x}.weight" for x in "qk")}
    assert not any(key.startswith(tuple(frozen)) for key in trainer.optim.state())
    for name, p in objective.named_parameters():
        assert (p.grad is None) and torch.equal(p, before[name]) == (name in frozen), name


def test_a_share_of_the_rate_moves_so_much_less():
    whole, tenth = small(), small()
    moved = []
    for objective, groups in ((whole, ()), (tenth, (Group("", lr=0.1),))):
        before = objective.model.head.weight.detach().clone()
        Trainer(objective, counting, Train(warmup=1, weight_decay=0.0, groups=groups)).update(counting(0))
        moved.append(objective.model.head.weight.detach() - before)
    torch.testing.assert_close(moved[1], moved[0] / 10, rtol=1e-3, atol=1e-7)


def test_rates_fall_from_the_head_to_the_embedding():
    made = rules(small(layers=3), Train(layer_decay=0.5))
    rate = {name.removeprefix("model."): rule.lr for name, rule in made.items()}
    assert rate["head.weight"] == rate["norm.weight"] == 1.0 and rate["embed.weight"] == 1 / 16
    assert [rate[f"blocks.{i}.mlp.up.weight"] for i in range(3)] == [1 / 8, 1 / 4, 1 / 2]
    with pytest.raises(RequestError, match="layer_decay is 1.5"):
        rules(small(), Train(layer_decay=1.5))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama4", "lstm", "mixtral", "neox", "palm", "t5"])
def test_every_family_orders_its_layers(family):
    entry = registry.load("models", family)
    with torch.device("meta"):
        depth = depths(entry.Model(next(iter(entry.SIZES.values()))))
    tables = {n: d for n, d in depth.items() if n in ("embed.weight", "place.weight")}
    blocks = {d for n, d in depth.items() if "blocks." in n or "layers." in n}
    assert tables and set(tables.values()) == {max(blocks) + 1} and min(blocks) == 1
    assert depth.get("head.weight", depth.get("norm.weight", 0)) in (0, max(blocks) + 1)          # the latter: tied


def test_rates_and_starts_of_a_wider_model_by_hand():
    for optimizer, power in (("adamw", 1.0), ("schedule_free", 1.0), ("muon", 0.5)):
        config = Train(optimizer=optimizer, weight_decay=0.4, base_width=32)
        assert {r.lr for r in rules(small(32), config).values()} == {1.0}
        objective = small(128)                                 # m = 4
        made, inner = rules(objective, config), hidden(objective)
        for name, rule in made.items():
            share = 4.0**-power if name in inner else 0.25 if name == "model.norm.weight" else 1.0
            assert rule.lr == share, name
            assert rule.decay * rule.lr == pytest.approx(0.4 if "norm" not in name else 0), name
    objective, before = small(128), small(128).state_dict()
    widen(objective.model, config)
    for name, p in objective.named_parameters():
        share = 0.5 if name in inner else 0.25 if name == "model.norm.weight" else 1.0
        assert torch.equal(p, before[name] * share), name
    with pytest.raises(RequestError, match="follow the weights' own size"):
        rules(objective, Train(optimizer="adafactor", base_width=32))
    palm = registry.load("models", "palm")
    with pytest.raises(RequestError, match="known for the families gpt2, llama"):
        rules(palm.Model(palm.Config(vocab=9, dim=16, layers=1, heads=2)), config)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_wider_model_moves_its_logits_as_much_as_a_narrow_one(optimizer):
    """The point of it (Tensor Programs V, figure 5): after some steps at one rate the change of the logits does not
    grow with the width, as it does without."""
    moved = {}
    for base in (0, 32):
        for dim in (32, 256):
            objective = small(dim, tied=True)
            config = Train(steps=9, batch=4, context=16, lr=4e-3, warmup=1, weight_decay=0.0, optimizer=optimizer,
                           base_width=base, schedule="wsd", decay=0.0, clip=1e9)
            compute_in(objective, torch.float32)
            widen(objective, config)
            trainer, tokens = Trainer(objective, counting, config), counting(0)[0]["tokens"]
            with torch.no_grad():
                start = objective.model(tokens)
            for step in range(4):
                trainer.update(counting(step))
            with torch.no_grad():
                moved[base, dim] = float((objective.model(tokens) - start).std())
    assert moved[0, 32] == moved[32, 32], "the base width is the base"
    assert moved[0, 256] / moved[0, 32] > 2 * moved[32, 256] / moved[32, 32]
    assert 0.4 < moved[32, 256] / moved[32, 32] < 2.5


def test_an_average_must_be_one():
    with pytest.raises(RequestError, match="train.ema is 1"):
        Optimizer(small(), Train(ema=1.0))
