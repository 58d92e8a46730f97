"""Near duplicates against the truth: the exact Jaccard similarity of all pairs of a small corpus with planted edits."""
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.corpus import dedup, ngrams

VOCABULARY = [f"w{n}" for n in range(4000)]


@pytest.fixture(scope="module")
def planted() -> list[np.ndarray]:
    """Shingles of 160 texts and 4 edited copies of each, their similarities spread from 0.4 to 1."""
    rng, out = random.Random(0), []
    for _ in range(160):
        words = rng.choices(VOCABULARY, k=rng.randint(60, 400))
        for edits in (0.0, 0.005, 0.01, 0.02, 0.05):
            copy = [rng.choice(VOCABULARY) if rng.random() < edits else w for w in words]
            out.append(np.unique(ngrams.hashes(" ".join(copy), dedup.SHINGLE)))
    rng.shuffle(out)
    return out


def truth(shingles: list[np.ndarray]) -> np.ndarray:
    """[N, N] exact Jaccard similarities, by one product of membership tables."""
    ids, which = np.unique(np.concatenate(shingles), return_inverse=True)
    table = np.zeros((len(shingles), len(ids)), dtype=np.float32)
    table[np.repeat(np.arange(len(shingles)), list(map(len, shingles))), which] = 1
    both, sizes = table @ table.T, table.sum(1)
    return both / (sizes[:, None] + sizes - both)


def test_near_duplicates_are_found_and_nothing_else_is_dropped(planted):
    signatures = [dedup.signature(s) for s in planted]
    exact = truth(planted)
    seen, kept = dedup.Kept(planted.__getitem__), []
    for index in range(len(planted)):
        twin = seen.twin(index, signatures[index])
        if twin is None:
            kept.append(index)
        else:
            assert twin[0] in kept
            assert twin[1] == pytest.approx(exact[index, twin[0]]) and twin[1] >= dedup.THRESHOLD
    assert 160 <= len(kept) < 500
    similar = np.triu(exact >= 0.8, k=1)
    assert similar.sum() > 500
    assert similar[np.ix_(kept, kept)].sum() <= 0.005 * similar.sum()


def test_pairs_at_the_border_meet_in_a_band_as_often_as_theory_says(planted):
    signatures, exact = np.stack([dedup.signature(s) for s in planted]), truth(planted)
    a, b = np.nonzero(np.triu((exact >= 0.78) & (exact < 0.84), k=1))
    rows = (signatures[a] == signatures[b]).reshape(len(a), dedup.BANDS, dedup.ROWS)
    met = rows.all(2).any(1).mean()
    theory = float((1 - (1 - exact[a, b] ** dedup.ROWS) ** dedup.BANDS).mean())
    assert len(a) > 60 and met == pytest.approx(theory, abs=3 * (theory * (1 - theory) / len(a)) ** 0.5)


@settings(deadline=None)
@given(st.sets(st.integers(0, 50)), st.sets(st.integers(0, 50)))
def test_jaccard_is_that_of_the_sets(a, b):
    expected = len(a & b) / len(a | b) if a | b else 0.0
    assert dedup.jaccard(np.array(sorted(a), np.uint64), np.array(sorted(b), np.uint64)) == expected


def test_signatures_estimate_jaccard_without_bias(planted):
    signatures, exact = np.stack([dedup.signature(s) for s in planted[:200]]), truth(planted[:200])
    estimates = np.stack([(signatures == s).mean(1) for s in signatures])
    near = np.triu(exact > 0.2, k=1)
    error = (estimates - exact)[near]
    assert near.sum() > 30
    assert abs(error.mean()) < 0.02 and error.std() < 0.06      # theory: 0.046 at J = 0.5


def test_a_template_shared_by_many_texts_costs_a_few_comparisons_each():
    rng, template, asked = random.Random(1), [f"t{n}" for n in range(150)], []
    texts = [" ".join([*template, *rng.choices(VOCABULARY, k=45)]) for _ in range(300)]
    texts.append(texts[-1] + " and some more words")
    shingles = [ngrams.hashes(t, dedup.SHINGLE) for t in texts]
    seen = dedup.Kept(lambda index: asked.append(index) or shingles[index])
    twins = [seen.twin(i, dedup.signature(s)) for i, s in enumerate(shingles)]
    assert twins[:-1] == [None] * 300 and twins[-1] is not None and twins[-1][0] == 299
    assert 300 < len(asked) <= 301 * (dedup.TRIES + 1)


def test_texts_without_shingles_are_never_twins():
    empty = np.empty(0, np.uint64)
    seen = dedup.Kept(lambda index: empty)
    assert [seen.twin(i, dedup.signature(empty)) for i in range(3)] == [None] * 3
