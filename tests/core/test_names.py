"""Name maps both ways: fused, stacked and turned tensors, tied ones, and one clear line for whatever does not fit."""
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from meristem.core.errors import RequestError
from meristem.core.names import FieldMap, Kind, NameMap, tied


class Toy(nn.Module):
    """One of everything a map can say."""

    def __init__(self, share: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(4, 4), "k": nn.Linear(4, 2), "up": nn.Linear(4, 6)})
                                    for _ in range(2))
        self.experts = nn.Parameter(torch.randn(3, 2, 5))
        self.head = nn.Linear(4, 7, bias=False)
        if share:
            self.head.weight = self.embed.weight


MAP = NameMap(
    ("embed.weight", "wte"),
    ("layers.{i}.(q,k).weight", "h.{i}.qk.weight", "T"),       # fused and turned
    ("layers.{i}.(q,k).bias", "h.{i}.qk.bias"),
    ("layers.{i}.up.{what}", "h.{i}.up.{what}"),
    ("experts", "expert.{e}"),                                 # stacked
    ("head.weight", "head.w"),
    ignore=("h.{i}.mask",),
)


def shapes(tensors: dict) -> dict:
    """Name -> shape."""
    return {name: tuple(t.shape) for name, t in tensors.items()}


class Heads(nn.Module):
    """Attention whose q, k, v stand head by head in theirs: 3 heads of 2, k and v of 1 a head."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"q": nn.Linear(4, 6), "k": nn.Linear(4, 3), "v": nn.Linear(4, 3)})
        self.attn.heads = 3


def test_fused_head_by_head() -> None:
    names = NameMap(("attn.(q,k,v).{p}", "h.qkv.{p}", "by head"))
    module = Heads()
    theirs = names.export(module)
    assert shapes(theirs) == {"h.qkv.weight": (12, 4), "h.qkv.bias": (12,)}
    q, k, v = (module.attn[name].weight for name in "qkv")
    want = torch.cat([torch.cat([q[2 * h: 2 * h + 2], k[h: h + 1], v[h: h + 1]]) for h in range(3)])
    assert torch.equal(theirs["h.qkv.weight"], want)
    back = names.restore(theirs, module)
    assert all(torch.equal(back[name], tensor) for name, tensor in module.state_dict().items())
    with pytest.raises(RequestError, match="no name of its own"):
        names.theirs("attn.q.weight")


def test_a_model_saved_without_its_head_lacks_the_prefix() -> None:
    names = NameMap(("{p}", "body.{p}"), ignore=("body.mask",), prefix="body.")
    module = nn.Linear(2, 3)
    theirs = names.export(module)
    assert set(theirs) == {"body.weight", "body.bias"}
    bare = {name.removeprefix("body."): tensor for name, tensor in theirs.items()} | {"mask": torch.ones(1)}
    assert torch.equal(names.restore(bare, module)["weight"], module.weight)
    with pytest.raises(RequestError, match="FILE of other: tensor body.other"):
        names.restore({**bare, "other": torch.ones(1)}, module, lambda name: f"FILE of {name}")


@pytest.mark.parametrize("share", [False, True])
def test_there_and_back(share: bool) -> None:
    torch.manual_seed(0)
    module = Toy(share)
    theirs = MAP.export(module)
    assert shapes(theirs) == {
        "wte": (7, 4), **{f"h.{i}.qk.weight": (4, 6) for i in range(2)}, **{f"h.{i}.qk.bias": (6,) for i in range(2)},
        **{f"h.{i}.up.weight": (6, 4) for i in range(2)}, **{f"h.{i}.up.bias": (6,) for i in range(2)},
        **{f"expert.{e}": (2, 5) for e in range(3)}, **({} if share else {"head.w": (7, 4)})}
    assert torch.equal(theirs["h.1.qk.weight"][:, 4:], module.layers[1]["k"].weight.T)         # k comes after q
    assert torch.equal(theirs["expert.2"], module.experts[2])
    with torch.device("meta"):
        empty = Toy(share)
    back = MAP.restore({**theirs, "h.0.mask": torch.ones(1)}, empty)
    assert back.keys() == module.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in module.state_dict().items())
    assert (back["head.weight"] is back["embed.weight"]) == share
    assert tied(module) == ({"head.weight": "embed.weight"} if share else {})


@pytest.mark.parametrize(("change", "line"), [
    ({"h.1.qk.weight": None}, r"FILE: no tensor h.1.qk.weight of shape 4x6"),
    ({"wte": None, "head.w": None}, r"no tensor wte of shape 7x4 \(and 1 more\)"),
    ({"expert.2": None}, "no tensor expert.2 of shape 2x5"),
    ({"expert.3": torch.ones(2, 5)}, r"tensor expert.3 of shape 2x5 is not part .*did you mean expert"),
    ({"h.0.qk.weight": torch.ones(6, 4)}, "tensor h.0.qk.weight is 6x4, the config asks for 4x6"),
    ({"wte": torch.ones(7, 4, dtype=torch.int8)}, "tensor wte holds int8 where float32 is expected"),
])
def test_what_does_not_fit_is_named(change: dict, line: str) -> None:
    theirs = {name: t for name, t in {**MAP.export(Toy()), **change}.items() if t is not None}
    with pytest.raises(RequestError, match=line) as caught:
        MAP.restore(theirs, Toy(), lambda name: "FILE")
    assert str(caught.value).startswith("FILE: ") and "\n" not in str(caught.value)


def test_a_tensor_of_ours_without_a_row_is_never_dropped() -> None:
    module = Toy()
    module.register_buffer("running", torch.ones(1))
    for way in (MAP.export, lambda m: MAP.restore(MAP.export(Toy()), m)):
        with pytest.raises(RequestError, match="no row for the model's own running"):
            way(module)


def test_one_name_of_theirs() -> None:
    assert MAP.theirs("layers.1.up.weight") == "h.1.up.weight" and MAP.theirs("embed.weight") == "wte"
    for fused in ("layers.0.q.weight", "experts", "unknown"):
        with pytest.raises(RequestError, match="no name of its own"):
            MAP.theirs(fused)


@dataclass(frozen=True)
class Config:
    """Of a family of two kinds."""

    dim: int
    theta: float
    gated: bool = False


FIELDS = FieldMap(
    Kind("PlainLM", "plain", {"gated": False}),
    Kind("GatedLM", "gated", {"gated": True}, absent={"rope.theta": 500.0}),
    rows=(("dim", "hidden_size"), ("theta", "rope.theta|rope_theta", 100.0)),
    fixed={"act|activation": "silu", "window": None}, write=("act",),
)
PLAIN = {"architectures": ["PlainLM"], "hidden_size": 8}


def test_config_there_and_back() -> None:
    for kind in FIELDS.kinds:
        config = Config(8, 7.0, kind.ours["gated"])
        tree = FIELDS.export(config)
        assert tree["rope"] == {"theta": 7.0} and tree["rope_theta"] == 7.0 and tree["act"] == "silu"
        assert Config(**FIELDS.restore(tree)) == config and FIELDS.kind(tree) is kind
    assert FIELDS.kind({"model_type": "gated"}) is FIELDS.kinds[1] and FIELDS.kind({"architectures": ["Other"]}) is None


def test_absent_keys_take_the_value_of_their_kind() -> None:
    assert FIELDS.restore(PLAIN) == {"dim": 8, "theta": 100.0, "gated": False}
    assert FIELDS.restore({**PLAIN, "architectures": ["GatedLM"]}) == {"dim": 8, "theta": 500.0, "gated": True}
    assert FIELDS.restore({**PLAIN, "rope_theta": 3.0})["theta"] == 3.0


@pytest.mark.parametrize(("change", "line"), [
    ({"hidden_size": None}, "hidden_size is missing"),
    ({"rope": {"theta": 1.0}, "rope_theta": 2.0}, "rope.theta = 1.0 and rope_theta = 2.0 disagree"),
    ({"activation": "gelu"}, "activation = 'gelu' is not supported .only 'silu'"),
    ({"act": ["silu", "gelu"]}, "is not supported"),
    ({"window": 8}, "window = 8 is not supported"),
    ({"logit_cap": 30.0}, "logit_cap = 30.0 is a setting this family does not know"),
    ({"rope": {"factor": 2}}, "rope.factor = 2 is a setting"),
    ({"window": 8, "logit_cap": 1}, "window = 8 .*; logit_cap = 1"),
])
def test_a_setting_that_cannot_be_honoured_is_an_error(change: dict, line: str) -> None:
    with pytest.raises(RequestError, match=rf"^config.json: .*{line}"):
        FIELDS.restore({**PLAIN, **change})


def test_settings_that_change_nothing_are_passed_over() -> None:
    harmless = {"attention_dropout": 0.1, "use_cache": True, "bos_token_id": 3, "_name": "x", "extra": None,
                "flag": False, "act": ["silu", "silu"], "torch_dtype": "float32"}
    assert FIELDS.restore({**PLAIN, **harmless}) == FIELDS.restore(PLAIN)


def test_a_row_with_none_is_our_default_and_their_null() -> None:
    @dataclass(frozen=True)
    class Windowed:
        window: int = 0

    fields = FieldMap(Kind("PlainLM", "plain"), rows=(("window", "sliding_window", None),), fixed={})
    cases = (({"sliding_window": None}, Windowed()), ({}, Windowed()), ({"sliding_window": 8}, Windowed(8)))
    for tree, config in cases:
        tree["architectures"] = ["PlainLM"]
        assert Windowed(**fields.restore(tree)) == config
        assert fields.export(config)["sliding_window"] == (config.window or None)


def test_stacked_matrices_are_joined_row_by_row_and_turned() -> None:
    """Llama 4's experts: gate and up [E, H, D] of ours are one [E, D, 2 H] of theirs."""
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up = (nn.Parameter(torch.randn(3, 5, 4)) for _ in range(2))
    module, names = Experts(), NameMap(("(gate,up)", "gate_up", "T"))
    theirs = names.export(module)
    assert theirs["gate_up"].shape == (3, 4, 10)
    assert torch.equal(theirs["gate_up"][1, :, 5:], module.up[1].T)
    back = names.restore(theirs, Experts())
    assert all(torch.equal(back[name], tensor) and back[name].is_contiguous()
               for name, tensor in module.state_dict().items())
