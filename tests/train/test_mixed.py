"""A run on a mixture logs its fractions and tokens by source at every step, also after a resume; its end by source."""
import dataclasses

import pytest

from meristem.core import faults
from meristem.core.config import Part
from meristem.core.errors import RequestError
from meristem.core.run import Data, Run, Train
from meristem.corpus import find
from meristem.corpus.curate import curate
from meristem.train import hooks
from meristem.train.run import pretrain

WEIGHTS = {"code": 0.637, "prose": 0.363}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    library = find.standard_library()[0]
    folders = [library / name for name in ("email", "json", "pydoc_data")]
    corpus = curate(folders, tmp_path_factory.mktemp("c") / "corpus")
    mixture = Part("fixed", {"by": "kind", "weights": WEIGHTS})
    return Run("mixed", Part("llama", {"dim": 16, "layers": 1, "heads": 2, "hidden": 32}), Part("next_token"),
               Data(str(corpus.folder), Part("bpe", {"vocab": 300}), mixture=mixture),
               Train(steps=4, batch=8, context=128, warmup=1, compile=False, dtype="float32", validate_every=2,
                     save_seconds=0.0))


def test_fractions_tokens_and_bits_by_source_are_logged(run, tmp_path):
    folder = tmp_path / "run"
    try:
        faults.arm("step.end:3:error")
        with pytest.raises(OSError, match="injected"):
            pretrain(run, folder)
    finally:
        faults.arm("")
    pretrain(run, folder)
    lines = hooks.read_log(folder / "log.jsonl")
    assert len(lines) == 4
    for line in lines:
        assert all(abs(line["mixture"][name] - share) < 1e-3 for name, share in WEIGHTS.items())
        assert sum(line["source_tokens"].values()) == line["tokens"] == line["step"] * 8 * 128
        assert all(abs(n / line["tokens"] - WEIGHTS[name]) < 1e-3 for name, n in line["source_tokens"].items())
    assert [set(line.get("bits_per_byte", {})) for line in lines] == [set(), {"code", "prose"}] * 2
    assert all(2 < bits < 9 for bits in lines[-1]["bits_per_byte"].values())


def test_a_mixture_of_rows_is_refused(run, tmp_path):
    other = dataclasses.replace(run, data=dataclasses.replace(run.data, examples="function_bodies"))
    with pytest.raises(RequestError, match="data.mixture mixes packed documents"):
        pretrain(other, tmp_path / "run")
