"""`evaluate`: certificates, resume, paired tests and contamination on a small real corpus."""
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from meristem.codecs import char
from meristem.core.config import from_dict
from meristem.core.errors import RequestError
from meristem.core.files import read_json
from meristem.corpus.kneser_ney import KneserNey
from meristem.evals import run
from meristem.evals.base import Score
from meristem.evals.subject import NGram, Subject, _windows

TEXT = '''def area_{0}(width, height):
    """The product of width and height, number {0}, as a number of squares of one unit by one unit."""
    return width * height + {0}


SIZE = {0}
'''


@dataclass
class Fake:
    """A subject that is an n-gram of some order, and counts how often it is asked."""

    model: NGram
    model_hash: str
    folder: Path | None
    name: str = "fake"
    asked: int = 0

    @property
    def codec(self):
        return self.model.codec

    def score(self, pairs):
        self.asked += 1
        return self.model.score(pairs)

    def complete(self, prompts, length, temperature, seed):
        self.asked += 1
        return self.model.complete(prompts, length, temperature, seed)

    def room(self, length):
        return 20


@pytest.fixture
def corpus(make_corpus):
    leaked = TEXT.format(1001)
    return make_corpus(train=[*(TEXT.format(i) for i in range(60)), leaked + "\n\n" + TEXT.format(61)],
                       test=[TEXT.format(i) for i in range(1000, 1010)])


@pytest.fixture
def subject(corpus, tmp_path):
    texts = [d.text for d in corpus.documents("train")]
    codec = char.fit([*texts, string.printable])
    tokens = np.concatenate([np.append(codec.encode(t), codec.end) for t in texts])

    def make(name: str, order: int) -> Fake:
        model = NGram(KneserNey.fit(tokens, codec.vocab, codec.end, order), codec)
        return Fake(model, f"hash of {name}", tmp_path / name, name)
    return make


def test_certificates_hold_what_they_promise(corpus, subject):
    weak, strong = subject("weak", 2), subject("strong", 5)
    scores = run.evaluate(strong, corpus, ["bits_per_byte"], against=weak)
    [score] = scores
    assert score.n == 10 and score.interval.low <= score.value <= score.interval.high
    assert score.value == pytest.approx(score.baseline.value) and "Kneser-Ney" in score.baseline.what
    assert score.paired.against == "weak" and score.paired.difference < 0 and score.paired.p < 0.05
    assert (score.model_hash, score.corpus_hash) == ("hash of strong", corpus.hash)
    assert score.contamination.exact == 1
    assert score.contamination.clean_n == 10 - score.contamination.gram13
    assert [from_dict(Score, s.to_dict()) for s in scores] == scores == run.read(strong.folder)
    assert "bits_per_byte" in run.render(scores) and "weak" in run.render(scores)


def test_finished_tasks_are_not_asked_again(corpus, subject):
    first = subject("model", 3)
    before = run.evaluate(first, corpus, limit=6)
    asked = first.asked
    again = run.evaluate(first, corpus, limit=6)
    assert first.asked == asked and [s.to_dict() for s in again] == [s.to_dict() for s in before]
    assert {s.task for s in before} >= {"bits_per_byte", "function_bodies"}
    run.evaluate(first, corpus, limit=5)
    assert first.asked > asked                                 # other items are another question
    asked = first.asked
    first.model_hash = "trained further"
    run.evaluate(first, corpus, limit=5)
    assert first.asked > asked


def test_results_on_file_serve_the_paired_test(corpus, subject):
    base, other = subject("base", 2), subject("other", 4)
    run.evaluate(base, corpus, ["bits_per_byte"])
    asked = base.asked
    [score] = run.evaluate(other, corpus, ["bits_per_byte"], against=base)
    assert base.asked == asked and score.paired is not None
    saved = read_json(other.folder / "evals" / "bits_per_byte.json")
    assert len(saved["outcome"]["values"]["bits_per_byte"]) == len(saved["groups"]) == 10


def test_a_task_without_items_is_left_out_aloud(make_corpus, subject, capsys):
    prose = make_corpus(suffix=".txt", train=["one two three " * 20] * 3, test=["four five six " * 20])
    assert {s.task for s in run.evaluate(subject("x", 2), prose)} == {"bits_per_byte"}


def test_an_unknown_task_is_named(corpus, subject):
    with pytest.raises(RequestError, match="bits_per_byte"):
        run.evaluate(subject("x", 2), corpus, ["bits_per_bite"])


@pytest.mark.parametrize(("prompt", "answer", "context"),
                         [(1, 5, 8), (1, 100, 8), (30, 3, 8), (30, 50, 8), (3, 6, 8), (1, 1, 2)])
def test_windows_score_every_answer_token_once_with_half_a_context(prompt, answer, context):
    row = np.arange(prompt + answer)
    found = _windows(row[:prompt], row[prompt:], context)
    assert np.concatenate([w[-fresh:] for w, fresh in found]).tolist() == row[prompt:].tolist()
    assert all(len(w) <= context + 1 for w, _ in found)
    for window, fresh in found:
        history = len(window) - fresh
        assert history >= min(context // 2, int(window[-fresh]))


def test_a_network_is_a_subject(corpus, subject, tmp_path):
    """A small Llama through the real generation code: the same certificates, and logprobs of its own forward pass."""
    import torch

    from meristem.models import llama
    codec = subject("x", 2).codec
    torch.manual_seed(0)
    config = llama.Config(vocab=codec.vocab, context=64, dim=32, layers=1, heads=2, groups=1, hidden=64)
    module = llama.Model(config).eval()
    network = Subject(module, codec, "hash", 64, "net", tmp_path / "net")
    row = codec.encode(TEXT.format(5))[:60].astype(np.int64)
    [found] = network.score([(row[:1], row[1:])])
    with torch.no_grad():
        logits = torch.log_softmax(module(torch.from_numpy(row[None, :-1])).float(), -1)[0]
    expected = logits[torch.arange(len(row) - 1), torch.from_numpy(row[1:])].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    scores = run.evaluate(network, corpus, limit=4)
    assert {s.name for s in scores} >= {"bits_per_byte", "body_exact", "body_first_line", "body_bits_per_byte"}
    bits = next(s for s in scores if s.name == "bits_per_byte")
    assert bits.value > bits.baseline.value                    # an untrained network loses to counting
