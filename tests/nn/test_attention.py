"""Chunked causal attention against torch's own and against itself through the cache."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from meristem.models.llama import Config, Model
from meristem.nn.attention import Attention, Cache, causal
from meristem.nn.linear import compute_in
from meristem.nn.position import rotary, rotate


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight moved: blocks start as the identity, and a test of an identity tests nothing."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 16), st.sampled_from([(1, 1), (4, 2), (6, 1), (3, 3)]))
def test_chunks_equal_one_masked_product(length, chunk, heads):
    h, g = heads
    q, k, v = (torch.randn(2, length, n, 8) for n in (h, g, g))
    want = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, enable_gqa=True)
    torch.testing.assert_close(causal(q, k, v, chunk), want.transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_a_token_never_changes_what_came_before_it():
    model = shaken(Model(Config(vocab=50, dim=32, layers=2, heads=4, groups=2, context=300)))
    tokens = torch.randint(50, (1, 300))
    with torch.no_grad():
        before = model(tokens)
        for at in (1, 127, 128, 299):                          # inside, at and after the edge of a chunk
            changed = tokens.clone()
            changed[0, at] = (changed[0, at] + 1) % 50
            after = model(changed)
            assert torch.equal(after[:, :at], before[:, :at])
            assert not torch.equal(after[:, at], before[:, at])
            assert at == 299 or not torch.equal(after[:, -1], before[:, -1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_gives_what_the_whole_sequence_gives(dtype):
    shape = Config(vocab=50, dim=32, layers=2, heads=4, groups=2, context=64, qk_norm=True)
    model = compute_in(shaken(Model(shape)), dtype)
    tokens = torch.randint(50, (3, 20))
    cache = model.caches(3, 32)
    with torch.no_grad():
        whole = model(tokens)
        parts = [model(tokens[:, a:b], torch.arange(a, b).expand(3, -1), cache) for a, b in ((0, 7), (7, 8), (8, 20))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_rows_of_different_length_share_a_cache():
    attention = Attention(16, 2)
    x = torch.randn(2, 6, 16)
    cache = Cache(2, 2, 8, 8)
    rope = rotary(torch.arange(6), 8)
    with torch.no_grad():
        attention(x, rope, torch.arange(6).expand(2, -1), cache)
        new = torch.randn(2, 1, 16)
        at = torch.tensor([[3], [6]])                          # row 0 had three real tokens; its padding is overwritten
        got = attention(new, rotary(at, 8), at, cache)
        alone = attention(torch.cat([x[:1, :3], new[:1]], 1), rotary(torch.arange(4), 8))[:, -1:]
    torch.testing.assert_close(got[:1], alone, rtol=1e-5, atol=1e-6)


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    x, y = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(i, j):
        a, b = (rotate(z, rotary(torch.tensor([p]), 8)) for z, p in ((x, i), (y, j)))
        return (a * b).sum()

    torch.testing.assert_close(rotate(x, rotary(torch.tensor([5]), 8)).norm(), x.norm())
    torch.testing.assert_close(product(3, 1), product(103, 101), rtol=1e-4, atol=1e-4)


def test_arithmetic_follows_the_data_and_weights_stay_fp32():
    model = compute_in(Model(Config(vocab=50, dim=32, layers=1, heads=4, context=16)), torch.bfloat16)
    out = model(torch.randint(50, (1, 16)))
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}
