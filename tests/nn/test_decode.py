"""The native kernel against torch: products, whole steps, generation; batch invariance; the way without a compiler."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from meristem.generate.autoregressive import generate
from meristem.models.llama import Config, Model
from meristem.nn import kernel
from meristem.nn.decode import Step, decoding
from meristem.nn.linear import Linear, compute_in
from meristem.nn.position import Scaling
from meristem.nn.quantise import QuantisedLinear, quantise

needs_compiler = pytest.mark.skipif(kernel.library() is None, reason=kernel.why())
SHAPE = {"vocab": 67, "context": 64, "dim": 96, "layers": 3, "heads": 6, "groups": 2, "head_dim": 16, "hidden": 224}
KINDS = {"plain": {}, "qwen": {"bias": True, "qk_norm": True}, "window": {"window": 5, "windowed": (0, 2)},
         "nope": {"nope": (1,), "scaling": Scaling("yarn", 4.0, 16)}, "odd": {"head_dim": 10, "hidden": 90, "dim": 50},
         "biases": {"bias": True, "out_bias": True, "mlp_bias": True}}


def shaken(model: nn.Module) -> nn.Module:
    """Every weight moved, so that no block is the identity and no norm is plain."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def model_of(kind: str, dtype: torch.dtype = torch.float32, bits: int = 0, affine: bool = False) -> Model:
    torch.manual_seed(0)
    model = shaken(Model(Config(**{**SHAPE, **KINDS[kind]})))
    if bits:
        quantise(model, bits, 32, affine=affine)
    return compute_in(model, dtype)


@torch.no_grad()
def decoded(model: Model, tokens: torch.Tensor, native: bool, each: int = 1) -> torch.Tensor:
    """Logits of every place, read `each` tokens at a time through the cache."""
    cache, out = model.caches(len(tokens), tokens.shape[1] + 3), []
    with decoding(model) if native else torch.no_grad():
        assert (model.native is not None) == native
        for start in range(0, tokens.shape[1], each):
            some = tokens[:, start:start + each]
            places = torch.arange(start, start + some.shape[1]).expand(len(tokens), -1)
            out.append(model(some, positions=places, cache=cache))
    assert model.native is None and model.head.native is None
    return torch.cat(out, 1)


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 33])
@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 96), (37, 64), (3, 8), (130, 200)])
def test_products_equal_torchs(rows, bits, outputs, inputs):
    torch.manual_seed(rows)
    layer = Linear(inputs, outputs, bias=True)
    layer = layer if not bits else QuantisedLinear.of(layer, bits=bits, group=8 if rows % 2 else 0, affine=rows > 3)
    x = torch.randn(rows, inputs)
    with torch.no_grad():
        torch.testing.assert_close(layer.product(torch.float32)(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5,
                                   atol=3e-6)
        half = x.bfloat16()
        weight = layer.weight.detach().bfloat16() if not bits else layer.weight
        exact = F.linear(half.double(), weight.double(), layer.bias.bfloat16().double())
        # one rounding of the result; unpacked blocks (33 rows) round each weight, too: 2^-9 of sqrt(200) terms of 1/14
        tolerance = {"rtol": 2**-8, "atol": 2e-4} if rows <= kernel.MOST or not bits else {"rtol": 2**-7, "atol": 1e-2}
        torch.testing.assert_close(layer.product(torch.bfloat16)(half).double(), exact, **tolerance)


@needs_compiler
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [8, 32, 0])
def test_packed_products_in_bf16_lose_nothing_beside_large_activations(bits, group):
    torch.manual_seed(bits + group)
    layer = QuantisedLinear.of(Linear(256, 40, bias=False), bits=bits, group=group)
    x = torch.randn(3, 256) * 10 ** torch.linspace(-3, 3, 256)
    x[0, 5:37], x[1] = 0.0, 0.0
    x = x.bfloat16()
    exact = F.linear(x.double(), layer.weight.double())
    # the result's own rounding to bf16, and 2^-16 of the largest activation among the 32 (8) that share a step
    step = x.double().abs().unflatten(1, (-1, 32)).amax(-1).repeat_interleave(32, 1) * 2**-15.9
    bound = exact.abs() * 2**-8 + F.linear(step, layer.weight.double().abs())
    assert bool(((layer.product(torch.bfloat16)(x).double() - exact).abs() <= bound).all())
    for bad in (float("nan"), float("inf")):
        x[2, 77] = bad                                         # damage must show
        assert not layer.product(torch.bfloat16)(x)[2].isfinite().any()


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_in_fp32_equals_torch_and_scoring(kind):
    model, tokens = model_of(kind), torch.randint(0, 67, (3, 24))
    with torch.no_grad():
        scored = model(tokens)
    got = decoded(model, tokens, True)
    bound = 1e-5 * float(scored.abs().max())
    assert float((got - decoded(model, tokens, False)).abs().max()) <= bound
    assert float((got - scored).abs().max()) <= bound


@needs_compiler
@pytest.mark.parametrize(("bits", "affine"), [(0, False), (8, False), (4, False), (4, True)])
def test_a_step_in_bf16_is_as_near_to_fp32_as_torch_is(bits, affine):
    tokens = torch.randint(0, 67, (3, 24))
    exact = decoded(model_of("qwen", bits=bits, affine=affine), tokens, False)
    model = model_of("qwen", torch.bfloat16, bits, affine)
    errors = [float((decoded(model, tokens, way).float() - exact).square().mean().sqrt()) for way in (True, False)]
    assert errors[0] <= 1.15 * errors[1] and errors[0] <= 2e-2 * float(exact.abs().max())
    with torch.no_grad():                                      # trained = served, within the roundings of 3 layers
        scored = model(tokens).float()
    assert float((decoded(model, tokens, True).float() - scored).abs().max()) <= 4e-2 * float(scored.abs().max())


@needs_compiler
@pytest.mark.parametrize(("bits", "affine"), [(8, False), (8, True), (4, False), (4, True)])
def test_a_step_with_packed_weights_equals_the_dequantised_reference(bits, affine):
    model, tokens = model_of("plain", bits=bits, affine=affine), torch.randint(0, 67, (2, 16))
    want = decoded(model, tokens, False)
    assert float((decoded(model, tokens, True) - want).abs().max()) <= 1e-5 * float(want.abs().max())


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [0, 8, 4])
def test_a_row_does_not_depend_on_its_batch_or_on_how_many_tokens_come_at_once(dtype, bits):
    model, tokens = model_of("qwen", dtype, bits, True), torch.randint(0, 67, (9, 12))
    alone = decoded(model, tokens[4:5], True)
    assert torch.equal(decoded(model, tokens, True)[4:5], alone)
    assert torch.equal(decoded(model, tokens[4:5], True, each=5), alone)


@pytest.mark.skipif(kernel.level() < max(kernel.LEVELS), reason="this machine has no products of bf16 pairs")
@pytest.mark.parametrize("rows", [14, 16, 33, 70])
def test_many_rows_have_the_bits_of_few(rows):
    torch.manual_seed(rows)
    for outputs, inputs in ((48, 96), (37, 64), (3, 32), (130, 256)):
        product, x = Linear(inputs, outputs, bias=True).product(torch.bfloat16), torch.randn(rows, inputs).bfloat16()
        with torch.no_grad():
            few = torch.cat([product._few(some.float().contiguous()) for some in x.split(3)])
            assert torch.equal(product._few(x.float()), few) and torch.equal(product.wide(x), few)


@needs_compiler
@pytest.mark.parametrize("vocab", [1, 5, 67, 3000])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.9])
def test_a_token_is_drawn_where_float64_finds_it(vocab, temperature):
    torch.manual_seed(vocab)
    logits, at = 3 * torch.randn(64, vocab), torch.rand(64, dtype=torch.float64)
    logits[0, : vocab - 1] = float("-inf")
    edges = ((logits.double() - logits.double().amax(-1, keepdim=True)) / temperature).exp().cumsum(-1)
    want = torch.searchsorted(edges, at[:, None] * edges[:, -1:], right=True)[:, 0]
    got = kernel.draw(logits, at, temperature)
    sure = got >= 0
    assert torch.equal(got[sure], want[sure]) and int(sure.sum()) >= 60
    edge = edges[1, vocab // 2] / edges[1, -1]                 # on an edge nothing can be told
    assert int(kernel.draw(logits[1:2], edge[None].clamp(max=1 - 2**-53), temperature)) == -1


@needs_compiler
@pytest.mark.parametrize("vocab", [1, 5, 16, 67, 3000])
def test_logits_are_judged_as_torch_does(vocab):
    torch.manual_seed(vocab)
    logits = 20 * torch.randn(4, vocab)
    logits[1], logits[2, : vocab // 2] = logits[1].round(), float("-inf")      # ties: the first one
    total, best = kernel.judge(logits)
    torch.testing.assert_close(total, logits.logsumexp(-1), rtol=1e-6, atol=1e-6)
    assert torch.equal(best, logits.argmax(-1))
    logits[0, vocab // 2], logits[3, -1] = float("nan"), float("inf")
    assert kernel.judge(logits)[0].isfinite().tolist() == [False, True, True, False]


@needs_compiler
@pytest.mark.parametrize("kind", ["plain", "odd"])             # heads of 16 for two threads; heads of 10
@pytest.mark.parametrize("bits", [0, 4])
def test_threads_do_not_change_a_bit(kind, bits):
    config, before = (KINDS[kind] if not bits else {}), torch.get_num_threads()
    torch.manual_seed(0)
    model = shaken(Model(Config(**{**SHAPE, **config})))
    model = compute_in(quantise(model, bits, 32) if bits else model, torch.bfloat16)
    tokens, found = torch.randint(0, 67, (3, 6)), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(decoded(model, tokens, True))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_compiler
def test_generation_uses_it_and_leaves_no_trace(monkeypatch):
    model, calls, step = model_of("plain"), [], Step.__call__
    prompts = [np.arange(1, 6), np.arange(20, 31)]
    monkeypatch.setattr(Step, "__call__",
                        lambda self, x, *rest, fixed: calls.append(x.shape) or step(self, x, *rest, fixed))
    want = generate(model, prompts, length=20)
    assert calls[1:] == [(2, 1, 96)] * 19
    with torch.no_grad():
        text = torch.tensor([[*range(1, 6), *want[0].tokens]])
        assert torch.equal(model(text)[0, 4:-1].argmax(-1), text[0, 5:])       # scoring agrees with every greedy choice
    assert all(m.native is None for m in model.modules() if isinstance(m, Linear))
    with pytest.raises(ZeroDivisionError), decoding(model):
        raise ZeroDivisionError
    assert model.native is None and model.head.native is None
    loss = model(torch.arange(8)[None]).sum()
    loss.backward()                                            # training is torch's
    assert model.blocks[0].attn.q.weight.grad is not None


@needs_compiler
def test_what_it_does_not_know_stays_on_torch():
    model = model_of("plain")
    model.blocks[1].mlp.activation = "gelu"
    with decoding(model):
        assert model.native is None and model.head.native is not None
    tokens = torch.randint(0, 67, (2, 9))
    with torch.no_grad(), decoding(model):
        cache = model.caches(2, 9)
        places = torch.arange(9).expand(2, -1)
        got = model(tokens, positions=places, cache=cache)
        with pytest.raises(IndexError, match="position 9 is beyond the cache's 9 slots"):
            other = model_of("plain")
            with decoding(other):
                other(tokens[:, :1], positions=torch.full((2, 1), 9), cache=cache)
    torch.testing.assert_close(got, model(tokens).detach(), rtol=1e-5, atol=3e-5)
    assert all(m.native is None for m in model.modules() if isinstance(m, Linear))


def test_without_a_compiler_or_switched_off_everything_runs_on_torch(tmp_path):
    code = ("import numpy as np\nfrom meristem.models.llama import Config, Model\n"
            "from meristem.generate.autoregressive import generate\nfrom meristem.nn import kernel\n"
            "made = generate(Model(Config(vocab=9, context=16, dim=16, layers=1, heads=2, hidden=16)), "
            "[np.arange(4)], length=4)\nprint(kernel.library(), kernel.why(), len(made[0].tokens), sep='|')")
    clean = {"PATH": str(tmp_path), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}
    for env, reason in ((clean, "no C++ compiler found"), ({**clean, "MERISTEM_KERNEL": "0"}, "switched off")):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        library, why, count = done.stdout.strip().split("|")
        assert library == "None" and reason in why and count == "4"
