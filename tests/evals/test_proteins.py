"""Mutations and residues: known answers, the whole recipe on made-up chains, and an adapter on it."""
import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from meristem.core.config import Part, edit
from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.data import residues
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.evals.tasks import mutations
from meristem.recipes import recipes
from meristem.train.run import pretrain

QUICK = {"train.batch": 16, "train.context": 48, "train.warmup": 2, "train.compile": False, "train.dtype": "float32",
         "train.validate_every": 0, "model.dim": 32, "model.layers": 1, "model.heads": 2, "model.std": 0.1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return residues.make(tmp_path_factory.mktemp("proteins") / "corpus", {"documents": 60, "length": 30})


@pytest.fixture(scope="module")
def run(corpus: Corpus) -> Path:
    made = edit(recipes()["esm"](), {**QUICK, "data.corpus": str(corpus.folder), "train.steps": 60, "train.lr": 1e-2})
    return pretrain(made, corpus.folder.parent / "esm")


def test_the_recipe_learns_what_a_mutation_does(corpus: Corpus, run: Path) -> None:
    scan = corpus.folder.with_name("corpus.rows") / "scan.csv"
    score, = evaluate(Subject.open(run), corpus, [f"mutations={scan}"])
    assert score.value > 0.3 and score.interval.low > 0 and score.n == 19 * len(residues.Residues(length=30).chain(
        "scan", 0)[0])
    assert score.baseline is not None and score.value > score.baseline.value + 0.1 and len(score.beside) == 1


def test_a_head_over_residues_with_an_adapter(corpus: Corpus, run: Path) -> None:
    made = edit(recipes()["esm_residues"](), {**QUICK, "data.corpus": str(corpus.folder), "train.steps": 40,
                                              "base": str(run), "train.lr": 1e-2})
    made = edit(made, {"adapt": {"name": "lora", "fields": {"rank": 2}}})
    score, = evaluate(Subject.open(pretrain(made, corpus.folder.parent / "lora")), corpus, ["token_classes"])
    # within a group every residue is of one class: the usual class of each word is right but at the groups' borders
    assert score.beside[0].value < score.value and score.n == 6
    with pytest.raises(RequestError, match="head over tokens"):
        evaluate(Subject.open(run), corpus, ["token_classes"])


def test_masked_marginals_by_hand(run: Path) -> None:
    subject = Subject.open(run)
    logp = mutations.marginals(subject.module, subject.codec, "MKT")
    tokens = torch.tensor([[0, 20, 32, 11, 2]])
    with torch.no_grad():
        want = subject.module(tokens)[0, 2].float().log_softmax(-1)
    torch.testing.assert_close(logp[1], want)
    long = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVK"     # 60 residues; 46 fit beside the marks
    found = mutations.marginals(subject.module, subject.codec, long)
    with torch.no_grad():                                      # place 50 is read in the last 46
        ids = torch.from_numpy(subject.codec.encode(long[14:50] + "A" + long[51:])).long()
        ids[36] = 32
        want = subject.module(torch.cat([torch.tensor([0]), ids, torch.tensor([2])])[None])[0, 37].log_softmax(-1)
    assert found.shape == (60, 33)
    torch.testing.assert_close(found[50], want)


def test_spearman_is_scipys_with_ties() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 50).astype(float), rng.normal(size=50)
    mean = float((mutations.standardised(a) * mutations.standardised(b)).mean())
    assert math.isclose(mean, spearmanr(a, b).statistic, rel_tol=1e-12)


def test_blosum62_is_whole() -> None:
    table = mutations.blosum62()
    assert len(table) == 400 and table["W", "W"] == 11 and table["I", "V"] == table["V", "I"] == 3
    assert sum(table[letter, letter] for letter in residues.RESIDUES) == 116


def test_scans_are_read_and_refused(tmp_path: Path, corpus: Corpus) -> None:
    path = tmp_path / "scan.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf,mutant,a,b\n0,M5K,0.5,2\n1,T7A:M5V,1,\n2,K6R,,3\n"))
    assert mutations.read(tmp_path / "scan.csv.gz:a") == [("M5K", 0.5), ("T7A:M5V", 1.0)]
    assert mutations.read(path) == [("M5K", 2.0), ("K6R", 3.0)]
    assert mutations.chain_of(["M5K", "T7A:M5V"]) == (5, "MXT")
    with pytest.raises(RequestError, match="place 5 is M in one mutation and W"):
        mutations.chain_of(["M5K", "W5K"])
    with pytest.raises(RequestError, match="needs columns mutant and c"):
        mutations.read(tmp_path / "scan.csv.gz:c")
    path.write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(RequestError, match="cannot be read"):
        mutations.read(path)
    with pytest.raises(RequestError, match="needs a scan"):
        mutations.TASK.items(corpus, recipes and None, 5, 0)           # type: ignore[arg-type]


def test_labels_without_a_class_are_not_scored() -> None:
    from meristem.codecs import protein
    from meristem.data.encoders import rows_of
    batch = rows_of([(["M", "K", "T"], ["H", "", "E"])], protein.fit(), ("E", "H"), 8)
    assert batch["labels"].tolist() == [[-1, 1, -1, 0, -1, -1, -1, -1]]
    assert batch["tokens"].tolist() == [[0, 20, 15, 11, 2, 1, 1, 1, 1]]
    assert Part("protein").fields == {}
