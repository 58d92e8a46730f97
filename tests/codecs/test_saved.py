"""A run may read as another model does."""
from pathlib import Path

import pytest

from meristem.codecs import bpe, saved
from meristem.core.errors import RequestError


def test_the_codec_of_a_run_a_model_or_a_pipeline(tmp_path: Path) -> None:
    codec = bpe.fit(["a red circle"] * 3, 270)
    for place in ("model", "tokenizer"):
        (tmp_path / place).mkdir()
        codec.save(tmp_path / place)
    (tmp_path / "text_encoder").mkdir()
    for folder in (tmp_path, tmp_path / "model", tmp_path / "text_encoder"):
        assert saved.fit([], str(folder)).hash == codec.hash
    with pytest.raises(RequestError, match=r"has no tokenizer\.json"):
        saved.fit([], str(tmp_path / "none"))
