"""Span corruption: source and target give the text back; lengths are the paper's; noise has its density."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.codecs import bpe
from meristem.codecs.char import Char
from meristem.core.errors import RequestError
from meristem.core.run import Train
from meristem.models import llama
from meristem.models.t5 import Config, Model
from meristem.objectives.span_corruption import (
    SENTINELS,
    SpanCorruption,
    counts,
    lengths,
    noise_mask,
    partition,
    sentinels,
    text_length,
)
from meristem.train.trainer import Trainer

VOCAB, END = 300, 0


def objective(**fields) -> SpanCorruption:
    torch.manual_seed(0)
    model = Model(Config(vocab=VOCAB, dim=16, layers=1, heads=2, head_dim=8, hidden=32, start=0, context=128))
    return SpanCorruption(model, **fields)


def batch(rows: int, length: int, seed: int = 0) -> dict:
    tokens = torch.randint(1, VOCAB - SENTINELS, (rows, length + 1), generator=torch.Generator().manual_seed(seed))
    return {"tokens": tokens, "weight": torch.ones(rows, length)}


def rebuilt(source: list[int], target: list[int], marks: list[int]) -> list[int]:
    """The text: each sentinel of the source replaced by what stands behind the same one in the target."""
    assert source[-1] == target[-1] == END
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in marks:
            spans[token] = current = []
        else:
            current.append(token)
    assert all(spans.values()) and list(spans) == marks[:len(spans)], "no empty span, sentinels in their order"
    assert [t for t in source if t in marks] == list(spans)
    return [t for token in source[:-1] for t in (spans[token] if token in marks else [token])]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 120), st.sampled_from([0.05, 0.15, 0.3, 0.5]), st.sampled_from([1.0, 2.0, 3.0, 10.0]),
       st.integers(0, 2**31))
def test_source_and_target_give_the_text_back(length, density, span, seed):
    o, given_ = objective(density=density, span=span), batch(3, length)
    torch.manual_seed(seed)
    made = o.prepare(given_)
    for row in range(3):
        text = given_["tokens"][row, :-1].tolist()
        assert rebuilt(made["source"][row].tolist(), made["tokens"][row, 1:].tolist(), o.sentinels) == text
    assert (made["tokens"][:, 0] == o.start).all() and (made["weight"] == 1).all()
    assert (made["source"].shape[1], made["tokens"].shape[1] - 1) == lengths(length, density, span)
    assert made["weight"].shape == made["tokens"][:, 1:].shape
    assert float(o.weight(made)) == made["weight"].numel()


def test_lengths_are_those_of_the_paper():
    """512 tokens of source: 568 of text, of which 85 are noise in 28 spans, so 114 of target (section 3.1.4)."""
    assert text_length(512) == 568 and counts(568) == (85, 28) and lengths(568) == (512, 114)
    for source in (16, 100, 512, 513, 1024):
        text = text_length(source)
        assert lengths(text)[0] <= source < lengths(text + 1)[0]
    with pytest.raises(RequestError, match="3 are needed"):
        text_length(2)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400), st.floats(0.01, 0.99), st.floats(1.0, 12.0), st.integers(0, 2**31))
def test_noise_has_its_density_and_its_spans_in_every_row(length, density, span, seed):
    torch.manual_seed(seed)
    mask = noise_mask(5, length, density, span)
    noise, spans = counts(length, density, span)
    assert (mask.sum(1) == noise).all() and abs(noise - length * density) <= 1
    assert (((mask[:, 1:] & ~mask[:, :-1]).sum(1)) == spans).all()
    assert not mask[:, 0].any() and mask[:, -1].all()


@pytest.mark.parametrize("length", [284, 568, 1138])
def test_spans_are_three_tokens_long_in_the_mean_and_hide_fifteen_percent(length):
    """Measured on the masks themselves (section 3.1.4); lengths vary from span to span."""
    torch.manual_seed(0)
    mask = noise_mask(400, length).int()
    edges = torch.nn.functional.pad(mask, (1, 1)).diff(dim=1)
    sizes = (edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]
    assert float(sizes.float().mean()) == pytest.approx(3, abs=0.08) and float(sizes.float().std()) > 1.5
    assert float(mask.float().mean()) == pytest.approx(0.15, abs=0.5 / length)


def test_spans_are_cut_uniformly_among_all_ways():
    torch.manual_seed(0)
    sizes = partition(12_000, 5, 3)
    assert (sizes.sum(1) == 5).all() and (sizes >= 1).all()
    ways, seen = sizes.unique(dim=0, return_counts=True)
    assert len(ways) == 6                                      # 4 places, 2 cuts
    assert (seen / 12_000 - 1 / 6).abs().max() < 0.02          # 6 standard deviations
    assert abs(float(noise_mask(200, 568).float().mean()) - 85 / 568) < 1e-6
    where = noise_mask(2000, 568).float().mean(0)[20:-20]
    assert (where - 0.15).abs().max() < 0.06                   # the same everywhere but at the ends


def test_corruption_is_a_function_of_the_seed():
    o, given_ = objective(), batch(4, 60)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(o.prepare(given_)["source"])
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_padding_is_not_trained_on():
    o, given_ = objective(), batch(2, 60)
    given_["weight"][0, 30:] = 0
    given_["weight"][1] = 0
    made = o.prepare(given_)
    assert (made["weight"][1] == 0).all() and made["weight"][0, 0] == 1 and made["weight"][0, -3:].sum() == 0


def test_what_cannot_be_done_is_said():
    codec = bpe.fit(["a text of some words"], 300, special=["<extra_id_0>", "<extra_id_1>", "<extra_id_2>", "other"])
    assert sentinels(codec) == [1, 2, 3] and sentinels(Char("ab")) == []
    o = objective(codec=codec)
    assert (o.sentinels, o.end) == ([1, 2, 3], codec.end)
    with pytest.raises(RequestError, match="only 3 sentinels; lower train.context"):
        o.prepare(batch(1, 100))
    with pytest.raises(RequestError, match="density"):
        objective(density=0.0)
    with pytest.raises(RequestError, match="raise train.context"):
        objective().prepare(batch(1, 1))
    with pytest.raises(RequestError, match="needs an encoder-decoder; set model.name=t5"):
        SpanCorruption(llama.Model(llama.Config(vocab=20, dim=16, layers=1, heads=2)))


def test_it_learns_and_micro_batches_add_up():
    """A counting text: what a span hides follows from what stands before it."""
    def counting(step: int) -> list[dict]:
        first = torch.randint(1, 40, (8, 1), generator=torch.Generator().manual_seed(step))
        return [{"tokens": (first + torch.arange(33)) % 40 + 1, "weight": torch.ones(8, 32)}]

    losses: list[float] = []
    config = Train(steps=100, batch=8, context=32, lr=2e-2, warmup=5, dtype="float32")
    Trainer(objective(), counting, config, hooks=[lambda t, f: losses.append(f["loss"])]).fit()
    assert losses[0] > 4.5 and sum(losses[-5:]) / 5 < 0.55 * losses[0]
    o = objective()
    made = o.prepare(counting(3)[0])
    parts = [{key: value[i:i + 2] for key, value in made.items()} for i in range(0, 8, 2)]
    torch.testing.assert_close(sum(o(part)[0] for part in parts), o(made)[0])
