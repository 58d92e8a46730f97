"""Best of n and rejection sampling: the best is kept, what is not good enough is not trained on."""
import numpy as np
import pytest

from meristem.codecs import bpe
from meristem.core.errors import RequestError
from meristem.corpus.dialogues import normal
from meristem.data.conversations import Reader
from meristem.generate.autoregressive import generate
from meristem.generate.best_of import accepted, best_of
from meristem.generate.sampling import Sampling
from tests.models import parity

READER = Reader(bpe.fit(["what of 2 and 7 is it no or yes\n" * 9], 270))
ROWS = [{"prompt": f"what of {n}?", "answer": str(n)} for n in range(3)]
SAMPLING = Sampling(length=6, temperature=1.0, seed=4)


def spaces(answer: str, right: str) -> float:
    return float(answer.count(" "))


@pytest.fixture(scope="module")
def model():
    return parity.ours("llama", vocab=READER.codec.vocab, context=64, dim=32, layers=2, heads=4)[1]


def test_the_best_answer_is_kept_and_made_an_example(model) -> None:
    made = best_of(model, READER, ROWS, spaces, 12, SAMPLING)
    for one in made:
        assert len(one.answers) == 12 and len(set(one.answers)) > 1
        assert one.worth == [spaces(a, "") for a in one.answers] and one.worth[one.first] == max(one.worth)
    least = max(max(one.worth) for one in made)
    rows = accepted(made, least)
    assert 1 <= len(rows) <= 3 and all(spaces(row["completion"], "") == least for row in rows)
    assert all(isinstance(normal(row), dict) for row in rows)
    by_model = best_of(model, READER, ROWS, None, 4, SAMPLING, lambda rows: [float(len(row)) for row in rows])
    assert all(one.worth[one.first] == max(one.worth) for one in by_model)


def test_copies_are_the_answers_of_repeated_prompts(model) -> None:
    prompts = [READER.prompt(row) for row in ROWS]
    once = generate(model, prompts, SAMPLING, copies=4)
    again = generate(model, [p for p in prompts for _ in range(4)], SAMPLING)
    assert [one.tokens for one in once] == [one.tokens for one in again]
    keys = np.arange(3, dtype=np.uint64)
    kept = generate(model, prompts, SAMPLING, keys=keys)
    assert kept[2].tokens == generate(model, prompts[2:], SAMPLING, keys=keys[2:])[0].tokens
    with pytest.raises(RequestError, match="plain sampling"):
        generate(model, prompts, Sampling(length=4, beams=2), copies=2)


def test_a_request_that_makes_no_sense_is_refused(model) -> None:
    with pytest.raises(RequestError, match="one of them"):
        best_of(model, READER, ROWS, None, 4, SAMPLING)
    with pytest.raises(RequestError, match="temperature"):
        best_of(model, READER, ROWS, spaces, 4, Sampling(length=4))
