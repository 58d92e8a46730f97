"""The dial: each size about three times the one before, in every family that has a width and a depth."""
from pathlib import Path

import pytest

from meristem.cli.pretrain import requested
from meristem.core.errors import RequestError
from meristem.plan.cost import on_meta
from meristem.plan.sizes import SIZES, sized
from meristem.recipes import recipes


def count(run) -> int:
    return sum(p.numel() for p in on_meta(run.model.with_fields(vocab=4096)).parameters())


def test_each_size_is_about_three_times_the_one_before() -> None:
    runs = [sized(recipes()["llama"](), size) for size in SIZES]
    counts = [count(run) for run in runs[:5]]                  # the two largest take seconds to lay out
    assert 3.5e5 < counts[0] < 6e5 and 3e7 < counts[-1] < 5e7
    assert all(2.2 < b / a < 4.5 for a, b in zip(counts, counts[1:], strict=False)), counts
    assert all(run.train.base_width == 256 and run.train.lr == recipes()["llama"]().train.lr for run in runs)


@pytest.mark.parametrize("name", ["gpt2", "pythia", "palm", "roberta", "mixtral", "text_to_text"])
def test_other_families_turn_the_same_dial(name: str) -> None:
    small, large = (sized(recipes()[name](), size) for size in ("nano", "mini"))
    assert count(large) > 4 * count(small) and (small.train.base_width > 0) == (name == "gpt2")


def test_a_command_line_names_the_size_and_its_own_fields_count_over_it(tmp_path: Path) -> None:
    run, folder = requested("llama", ["model.layers=2"], None, None, "nano")
    assert (run.model.fields["dim"], run.model.fields["layers"], folder) == (64, 2, Path("runs/llama-nano"))
    with pytest.raises(RequestError, match="nano"):
        requested("llama", [], None, None, "nanno")
    with pytest.raises(RequestError, match="width and a depth"):
        requested("diffusion", [], None, None, "nano")
    with pytest.raises(RequestError, match="has its size"):
        requested("", [], None, tmp_path, "nano")
