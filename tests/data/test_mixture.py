"""A mixture: as asked at every step, every window once an epoch, a function of the step; a law learned from runs."""
import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core.config import Part
from meristem.core.errors import RequestError
from meristem.data import mixing_law, mixture
from meristem.data.mixture import Mixture, Sources, rounded, weights_of
from meristem.data.shards import Split


def split_of(lengths: list[int]) -> Split:
    """Documents whose tokens are their places in the split, so that a token says where it is from."""
    starts = np.cumsum(lengths) - lengths
    return Split("train", np.arange(sum(lengths), dtype=np.uint32), starts, ["x"] * len(lengths), sum(lengths), 0)


def sources_of(of: list[int], names: str = "abc") -> Sources:
    return Sources(tuple(names), np.array(of, np.int32), np.ones(len(of), np.int64))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.integers(1, 9), st.integers(2, 12), st.integers(0, 3),
       st.data())
def test_every_step_has_the_asked_targets_and_an_epoch_every_window_once(weights, batch, context, seed, data):
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=6, max_size=12))
    of = [n % 3 for n in range(len(lengths))]
    split, sources = split_of(lengths), sources_of(of)
    owner = np.repeat(of, lengths)
    if min(np.bincount(owner, minlength=3)) <= context:
        return
    mixed = Mixture(split, sources, dict(zip("abc", weights, strict=True)), context, (batch, seed, 0))
    expected = Counter({"abc".index(name): count for name, count in mixed.share.items()})
    total = np.array(weights) / sum(weights) * batch * context
    assert all(abs(expected[i] - total[i]) < 1 for i in range(3)) and expected.total() == batch * context
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for step in range(30):
        rows = torch.cat([b["tokens"] for b in mixed(step)]).numpy()
        assert rows.shape == (batch, context + 1)
        targets = rows[:, 1:].ravel()
        assert Counter(owner[targets].tolist()) == +expected
        for i in range(3):
            seen[i] += targets[owner[targets] == i].tolist()
    for i, name in enumerate("abc"):
        places = np.flatnonzero(owner == i)                    # the stream of a source, by place in the split
        usable = set(places[1: (len(places) - 1) // context * context + 1].tolist())
        counts = Counter(seen[i])
        assert set(counts) <= usable
        epochs = 30 * mixed.share[name] / len(usable)
        if epochs >= 2 and batch > 3:                          # windows that are read in pieces may be unfinished
            assert max(counts.values()) - min(counts[p] for p in usable) <= 2


def test_inside_a_row_targets_follow_their_inputs_but_where_a_piece_begins():
    mixed = Mixture(split_of([400, 300, 50]), sources_of([0, 1, 2]), {"a": 0.61, "b": 0.3, "c": 0.09}, 16, (5, 0, 2))
    for step in range(20):
        batches = mixed(step)
        assert [len(b["tokens"]) for b in batches] == [2, 2, 1] and all(b["weight"].eq(1).all() for b in batches)
        rows = torch.cat([b["tokens"] for b in batches]).numpy()
        jumps = (np.diff(rows, axis=1) != 1).sum()
        assert jumps <= 5                                      # a piece a source, and a window that ends within one


def test_a_step_depends_on_nothing_but_its_number_and_the_seed():
    def make(seed: int) -> Mixture:
        return Mixture(split_of([500, 500]), sources_of([0, 1], "ab"), {"a": 0.37, "b": 0.63}, 8, (4, seed, 0))
    a, b = make(1), make(1)
    for step in (0, 40, 7, 10**6):
        b(step + 1)
        assert torch.equal(a(step)[0]["tokens"], b(step)[0]["tokens"])
    assert not torch.equal(a(3)[0]["tokens"], make(2)(3)[0]["tokens"])


def test_a_source_without_weight_is_not_read_and_a_short_one_is_named():
    split, sources = split_of([200, 3]), sources_of([0, 1], "ab")
    assert Mixture(split, sources, {"a": 1.0}, 8, (4, 0, 0)).fractions == {"a": 1.0}
    with pytest.raises(RequestError, match="source b has 3 tokens, too few for a context of 8"):
        Mixture(split, sources, {"a": 1.0, "b": 1.0}, 8, (4, 0, 0))


def test_weights_are_given_by_size_or_refused():
    sources, sizes = sources_of([0, 1], "ab"), {"a": 900, "b": 100}
    found = weights_of(Part("temperature", {"temperature": 2.0}), sources, sizes)
    assert found == pytest.approx({"a": 0.75, "b": 0.25})
    assert weights_of(Part("fixed", {"weights": {"a": 3, "b": 1}}), sources, sizes) == {"a": 0.75, "b": 0.25}
    for part, said in ((Part("fixd"), "did you mean fixed"),
                       (Part("fixed", {"weights": {"aa": 1}}), "names the source 'aa'"),
                       (Part("fixed", {"weights": {"a": -1}}), "weight of a is -1"),
                       (Part("fixed", {}), "fields by and"),
                       (Part("fixed", {"weights": {"a": 0}}), "no weight above 0"),
                       (Part("temperature", {"temperature": 0}), "is 0; it is a number above 0"),
                       (Part("learned", {"runs": []}), "names 0 runs")):
        with pytest.raises(RequestError, match=said):
            weights_of(part, sources, sizes)
    assert rounded(np.array([1.0, 1.0, 1.0]), 100) == [34, 33, 33]


def test_sources_are_facts_of_the_ledger_and_kept(corpus, made):
    split = made.split("train")
    found = Sources.open(corpus, split, "kind")
    kinds = [d.meta["kind"] for d in corpus.documents("train")]
    assert [found.names[i] for i in found.of] == kinds and set(found.names) == {"code", "prose"}
    assert found.bytes.sum() == split.bytes
    assert mixture.tokens_of(split, found)["code"] == sum(len(split.document(n)) for n, k in enumerate(kinds)
                                                          if k == "code")
    stamp = (corpus.folder / "sources" / "kind-train" / "of").stat().st_ino
    assert np.array_equal(Sources.open(corpus, split, "kind").of, found.of)
    assert (corpus.folder / "sources" / "kind-train" / "of").stat().st_ino == stamp
    assert set(Sources.open(corpus, split, "path").names) == {"asyncio", "email", "importlib", "json"}
    with pytest.raises(RequestError, match="has no language"):
        Sources.open(corpus, split, "language")
    weights = {"code": 0.25, "prose": 0.75}
    rows = Mixture(split, found, weights, 32, (8, 0, 0))(3)[0]["tokens"].numpy()
    assert rows.shape == (8, 33) and rows.max() < 600


def test_a_law_finds_the_mixture_between_the_runs(tmp_path):
    def loss(w: float) -> dict[str, float]:
        return {"a": 1 + 0.8 * np.exp(-3 * w), "b": 1 + 0.8 * np.exp(-3 * (1 - w))}
    runs = []
    for n, w in enumerate((0.1, 0.4, 0.8)):
        runs.append(tmp_path / str(n))
        runs[-1].mkdir()
        line = {"step": 9, "mixture": {"a": w, "b": 1 - w}, "bits_per_byte": loss(w)}
        (runs[-1] / "log.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({"step": 10}) + "\n")
    assert mixing_law.best(runs)["a"] == pytest.approx(0.5, abs=0.03)
    with pytest.raises(RequestError, match="needs two sources, and finished runs of one mixture more"):
        mixing_law.best(runs[:2])
    (runs[0] / "log.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    with pytest.raises(RequestError, match="was not trained on a mixture"):
        mixing_law.best(runs)
