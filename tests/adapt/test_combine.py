"""Adapters together: weighted sums, TIES and DARE beside peft; a bank that swaps them; a merged one taken out."""
import copy
from pathlib import Path

import peft
import pytest
import torch

from meristem.adapt import combine, files, lora
from meristem.adapt.bank import Bank
from meristem.core.errors import RequestError
from tests.adapt.methods import TOKENS, attach, shaken, small, theirs

pytestmark = [pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),      # peft asking
              pytest.mark.filterwarnings("ignore:.*:UserWarning")]


def two(first: str = lora.EVERYWHERE) -> list[torch.nn.Module]:
    """Two adapters of one base, of different rank and scale."""
    made = [attach(small("llama"), "lora", rank=rank, alpha=alpha, where=where)
            for rank, alpha, where in ((4, 8.0, first), (2, 3.0, r".*\.(q|o)"))]
    for seed, module in enumerate(made):
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, p in module.named_parameters():
                if name.endswith(".b"):
                    p.normal_(std=0.1)
    return made


@pytest.mark.parametrize(("kind", "other"), [("linear", "cat"), ("ties", "ties_svd")])
@torch.no_grad()
def test_the_same_as_peft(kind: str, other: str, tmp_path: Path) -> None:
    # peft cannot make a rank of 32 of matrices with fewer rows
    adapters, weights = two(lora.EVERYWHERE if kind == "linear" else r".*\.(q|o)"), [0.7, 0.3]
    for i, module in enumerate(adapters):
        files.save(tmp_path / str(i), module, "llama", "hash")
    model = peft.PeftModel.from_pretrained(theirs(tmp_path / "base", small("llama"), "llama"), str(tmp_path / "0"), "a")
    model.load_adapter(str(tmp_path / "1"), "b")
    model.add_weighted_adapter(["a", "b"], weights, "both", combination_type=other, density=0.5, svd_rank=32)
    model.set_adapter("both")
    module = combine.put(small("llama"), combine.combine(adapters, weights, kind, density=0.5, rank=32))
    torch.testing.assert_close(module(TOKENS), model(TOKENS).logits, rtol=0, atol=1e-5)


def test_dare_keeps_the_average() -> None:
    updates = torch.ones(1, 200, 200)
    kept = combine.dropped(updates, 0.1, torch.Generator().manual_seed(0))
    assert set(kept.unique().tolist()) == {0.0, 10.0} and abs(kept.mean().item() - 1) < 0.05
    one = combine.combine(two()[:1], [1.0], "dare", density=1.0)
    update = two()[0].get_submodule("blocks.0.attn.q").update()                # type: ignore[operator]
    a, b = one["blocks.0.attn.q"]
    torch.testing.assert_close(b @ a, update, rtol=0, atol=1e-6)
    assert not torch.equal(*(combine.combine(two(), [1.0, 1.0], "dare_ties", density=0.5, seed=s)["blocks.0.attn.q"][0]
                             for s in (0, 1)))


def test_signs_are_elected_by_their_sum() -> None:
    """The example: 3 and -1 and -1 elect +; 3 alone agrees, weighted by 1."""
    updates = torch.tensor([3.0, -1.0, -1.0])[:, None, None]
    assert combine.elected(updates, torch.ones(3)).item() == 3.0
    assert combine.elected(-updates, torch.tensor([0.5, 1.0, 1.0])).item() == -1.5


@torch.no_grad()
def test_a_bank_swaps_and_shares(tmp_path: Path) -> None:
    base = small("llama")
    plain = base(TOKENS)
    alone = {}
    for method in ("lora", "ia3", "bottleneck"):
        module = shaken(attach(small("llama"), method))
        alone[method] = module(TOKENS)
        files.save(tmp_path / method, module, "llama", "hash")
    bank = Bank(base, "llama", "hash")
    for method in alone:
        bank.add(method, tmp_path / method)
    assert torch.equal(base(TOKENS), plain)
    for method in [*alone, *alone]:
        with bank.using(method) as module:
            assert torch.equal(module(TOKENS), alone[method])
        assert torch.equal(base(TOKENS), plain)
    with pytest.raises(RequestError, match="did you mean lora"):
        bank.use("lorra")
    files.save(tmp_path / "gated", attach(small("llama"), "prefix"), "llama", "hash")
    with pytest.raises(RequestError, match="cannot share it"):
        bank.add("gated", tmp_path / "gated")
    assert torch.equal(base(TOKENS), plain)


@torch.no_grad()
def test_merged_can_be_taken_out_again() -> None:
    module = two()[0]
    before, adapter = module(TOKENS), copy.deepcopy(module)
    merged = lora.merge(module)
    torch.testing.assert_close(merged(TOKENS), before, rtol=0, atol=1e-5)
    again = lora.unmerge(merged, adapter)
    torch.testing.assert_close(again(TOKENS), before, rtol=0, atol=1e-5)
    torch.testing.assert_close(again.get_submodule("blocks.0.attn.q").base.weight,
                               small("llama").get_submodule("blocks.0.attn.q").weight, rtol=0, atol=1e-6)


def test_bad_requests_are_one_line() -> None:
    with pytest.raises(RequestError, match="2 adapters and 1 weights"):
        combine.combine(two(), [1.0])
    with pytest.raises(RequestError, match="did you mean ties"):
        combine.combine(two(), [1.0, 1.0], "tie")
    with pytest.raises(RequestError, match="DoRA's rows are not a sum"):
        combine.combine([attach(small("llama"), "lora", dora=True)], [1.0])
