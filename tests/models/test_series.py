"""Series: units, unknown numbers, quantiles that do not cross, windows, the loss, and forecasts beside the naive."""
from pathlib import Path

import numpy as np
import pytest
import torch

from meristem.core.config import edit
from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.data import waves
from meristem.data.series import Windows
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.evals.tasks import forecast
from meristem.hub import hf
from meristem.models.series import Config
from meristem.objectives.quantiles import pinball
from meristem.recipes import recipes
from meristem.train.run import pretrain
from tests.models import parity

SHAPE = {"context": 32, "horizon": 8, "patch": 8, "dim": 16, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return waves.make(tmp_path_factory.mktemp("waves") / "corpus", {"documents": 20, "length": 200})


@torch.no_grad()
def test_units_unknown_numbers_and_order(tmp_path: Path) -> None:
    config, module = parity.ours("series", **SHAPE)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    said = module(x)
    assert said.shape == (3, 8, 9) and (said.diff(dim=-1) > 0).all()
    parity.close(module(1000 * x + 7), 1000 * said + 7, 1e-4)  # a forecast has its window's units
    gap = x.clone()
    gap[:, :8] = float("nan")
    assert module(gap).isfinite().all() and module(torch.full((1, 32), float("nan"))).isfinite().all()
    assert torch.allclose(module(torch.full((1, 32), 4.0)).mean(), torch.tensor(4.0), atol=3.0)
    hf.save(tmp_path / "m", "series", config, module)
    assert hf.load(tmp_path / "m").config == config and torch.equal(hf.load(tmp_path / "m").module(x), said)
    for fields, what in (({"context": 30}, "multiple of patch"), ({"quantiles": (0.5, 0.1)}, "quantiles rise")):
        with pytest.raises(ValueError, match=what):
            Config(**{**SHAPE, **fields})


def test_the_loss_is_least_at_the_quantile() -> None:
    drawn, levels = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 0.9])
    at = torch.tensor([drawn[:, 0].quantile(q) for q in levels])
    best = pinball(at.expand(len(drawn), -1), drawn, levels).mean(0)
    for step in (-0.1, 0.1):
        assert (pinball((at + step).expand(len(drawn), -1), drawn, levels).mean(0) > best).all()
    assert pinball(torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([0.1])).item() == pytest.approx(0.2)


def test_windows(corpus: Corpus) -> None:
    source = Windows.of(corpus, "train", 32, 8, (4, 3, 0))
    batch, = source(5)
    assert batch["series"].shape == (4, 40) and torch.equal(batch["series"], source(5)[0]["series"])
    held = list(source.held_out(64, 10_000))
    assert sum(len(b["series"]) for b in held) == len(source.apart) == 20 * 21
    assert sum(float(b["weight"].sum()) for b in held) == 20 * 21 * 8      # every number behind the first window once
    with pytest.raises(RequestError, match="more than 500"):
        Windows.of(corpus, "train", 32, 500, (4, 3, 0))


def test_seasons_are_found_and_repeated() -> None:
    at = np.arange(96)
    window = np.sin(2 * np.pi * at / 12).astype(np.float32)
    assert forecast.season_of(window) in (12, 24) and forecast.season_of(np.zeros(96, np.float32)) == 1
    said = forecast.repeated(window, 12)
    np.testing.assert_allclose(said[:, 4], np.sin(2 * np.pi * (96 + np.arange(24)) / 12), atol=1e-3)
    assert forecast.repeated(np.full(96, np.nan, np.float32), 1).shape == (24, 9)


def test_the_recipe_forecasts(corpus: Corpus, tmp_path: Path) -> None:
    run = edit(recipes()["series"](), {"data.corpus": str(corpus.folder), "train.steps": 40, "train.batch": 16,
                                       "train.lr": 3e-3, "model.dim": 32, "model.layers": 1, "train.warmup": 4})
    scores = {s.name: s for s in evaluate(Subject.open(pretrain(run, tmp_path / "run")), corpus, ["forecast"])}
    loss, inside = scores["forecast_loss"], scores["forecast_inside"]
    assert loss.n == 2 * 4 and loss.baseline is not None and len(loss.beside) == 1
    assert loss.value < loss.beside[0].value and 0.4 < inside.value <= 1 and inside.ceiling is not None
