"""Chunked attention against torch's own under every reach, and against itself through the cache."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from meristem.models.llama import Config, Model
from meristem.nn import attention
from meristem.nn.attention import Attention, Cache, CrossAttention, Reach, attend, cached
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
    got = attend(q, k, v, Reach(), scale=8**-0.5, chunk=chunk)
    torch.testing.assert_close(got, want.transpose(1, 2), rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 16), st.booleans(), st.integers(0, 9), st.integers(0, 9), st.booleans(),
       st.booleans(), st.integers(0, 2**31))
def test_every_reach_is_what_its_words_say(length, chunk, causal, window, local, packed, biased, seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(2, length, n, 8) for n in (4, 2, 2))
    segments = torch.randint(2, (2, length)).cumsum(1) if packed else torch.zeros(2, length, dtype=torch.long)
    bias = torch.randn(4, length, length) if biased else torch.zeros(4, length, length)
    want = torch.empty_like(q)
    for b in range(2):
        for i in range(length):
            see = [j for j in range(length) if segments[b, i] == segments[b, j] and (not causal or j <= i)
                   and (not window or i - j < window) and (not local or i // local == j // local)]
            for h in range(4):
                share = torch.stack([q[b, i, h] @ k[b, j, h // 2] * 0.5 + bias[h, i, j] for j in see]).softmax(0)
                want[b, i, h] = share @ v[b, see, h // 2]
    got = attend(q, k, v, Reach(causal, window, local), scale=0.5, segments=segments if packed else None,
                 bias=bias if biased else None, chunk=chunk)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reach", [Reach(), Reach(window=5), Reach(chunk=4), Reach(window=6, chunk=8)])
def test_a_cache_sees_what_the_whole_sequence_sees(reach):
    attention, x, bias = Attention(16, 2, reach=reach), torch.randn(2, 19, 16), torch.randn(2, 19, 19)
    cache, at = Cache(2, 2, 19, 8), torch.arange(19).expand(2, -1)
    with torch.no_grad():
        whole = attention(x, bias=bias)
        parts = [attention(x[:, a:b], positions=at[:, a:b], cache=cache, bias=bias[:, a:b, :b])
                 for a, b in ((0, 7), (7, 8), (8, 19))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reach", [Reach(), Reach(window=6), Reach(chunk=8), Reach(causal=False)])
def test_many_new_queries_are_taken_in_parts(monkeypatch, reach):
    torch.manual_seed(0)
    cache = Cache(2, 2, 23, 4)
    cache.write(torch.randn(2, 23, 2, 4), torch.randn(2, 23, 2, 4), torch.arange(23).expand(2, -1))
    q, places = torch.randn(2, 20, 4, 4), torch.arange(3, 23).expand(2, -1)
    for bias in (None, torch.randn(4, 20, 23)):
        monkeypatch.setattr(attention, "QUERIES", 1024)
        whole = cached(q, cache, places, reach, scale=0.5, bias=bias)
        monkeypatch.setattr(attention, "QUERIES", 7)
        torch.testing.assert_close(cached(q, cache, places, reach, scale=0.5, bias=bias), whole)


def test_cross_attention_sees_what_it_is_shown_and_gives_zeros_where_that_is_nothing():
    cross, x, source = CrossAttention(16, 2, source=12), torch.randn(2, 5, 16), torch.randn(2, 7, 12)
    seen = torch.ones(2, 1, 7, dtype=torch.bool)
    seen[0, :, 4:] = False
    seen[1] = False
    with torch.no_grad():
        got = cross(x, cross.keys(source), seen)
        alone = cross(x[:1], cross.keys(source[:1, :4]))
    torch.testing.assert_close(got[:1], alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(got[1], torch.zeros(5, 16))


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


def test_a_narrow_table_turns_the_first_part_of_a_head_and_pairs_may_be_neighbours():
    x, table = torch.randn(1, 3, 2, 8), rotary(torch.arange(3), 4)
    part = rotate(x, table)
    assert torch.equal(part[..., 4:], x[..., 4:])
    torch.testing.assert_close(part[..., :4], rotate(x[..., :4], table))
    neighbours = rotate(x, table, interleaved=True)
    order = [0, 2, 1, 3]                                       # (0, 1), (2, 3) as pairs (0, 2), (1, 3)
    torch.testing.assert_close(neighbours[..., order], rotate(x[..., order], table))


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
