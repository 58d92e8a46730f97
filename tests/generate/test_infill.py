"""Filling a gap: prompts within their room, and a model trained to fill the middle that does so."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import meristem
from meristem.api import Model
from meristem.cli.main import main
from meristem.codecs import bpe
from meristem.core.errors import RequestError
from meristem.generate.infill import STARCODER, Sentinels, prompt
from meristem.hub import hf
from meristem.models import starcoder2
from meristem.objectives.fill_in_the_middle import FillInTheMiddle

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
STEPS = 400


@pytest.fixture(scope="module")
def codec() -> bpe.Bpe:
    return bpe.fit([ALPHABET], 260, special=STARCODER)         # 256 bytes, the end, three sentinels: a byte a token


@pytest.fixture(scope="module")
def model(codec: bpe.Bpe, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Trained a little on runs of the alphabet in parentheses, some rearranged."""
    torch.manual_seed(0)
    module = starcoder2.Model(starcoder2.Config(vocab=codec.vocab, context=32, dim=48, layers=2, heads=4))
    objective = FillInTheMiddle(module, codec, rate=0.9)
    adam = torch.optim.AdamW(module.parameters(), lr=5e-3, weight_decay=0.0)
    for step in range(STEPS):
        texts = [f"({ALPHABET[a:a + n]})" for a, n in zip(torch.randint(16, (32,)).tolist(),
                                                        torch.randint(4, 10, (32,)).tolist(), strict=True)]
        rows = np.full((32, 17), codec.end, dtype=np.int64)
        for row, ids in zip(rows, codec.encode_batch(texts), strict=True):
            row[:len(ids)] = ids
        weight = torch.from_numpy(np.array([[i < len(t) for i in range(16)] for t in texts], dtype=np.float32))
        batch = objective.prepare({"tokens": torch.from_numpy(rows), "weight": weight})
        loss = objective(batch)[0] / objective.weight(batch)
        adam.zero_grad()
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = 5e-3 * (1 - step / STEPS)
        adam.step()
    folder = tmp_path_factory.mktemp("fim")
    hf.save(folder, "starcoder2", module.config, module, codec)
    return meristem.load(folder)



@pytest.mark.parametrize("spm", [False, True])
def test_a_trained_model_fills_the_gap_and_stops(model: Model, spm: bool) -> None:
    right = 0
    for start, gap in [(s, g) for s in range(0, 14, 2) for g in (1, 3)]:
        text = f"({ALPHABET[start:start + 8]})"
        made = model.infill(text[:3], text[3 + gap:], length=8, temperature=0.0, spm=spm)
        right += made == text[3: 3 + gap]
    assert right >= (12 if spm else 8)                         # of 14; the end of the prefix is farther away in PSM


@pytest.mark.parametrize("spm", [False, True])
def test_the_shell_shows_the_gap_filled(model: Model, spm: bool, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    asked, real = [], Model.complete
    monkeypatch.setattr(Model, "complete", lambda *a, **k: asked.append(k["spm"]) or real(*a, **k))
    words = ["generate", str(model.folder), "(klm", "--suffix", "pqr)", "--length", "8", "--temperature", "0"]
    words += ["--spm"] if spm else []
    assert main([*words, "--json"]) == 0
    text = json.loads(capsys.readouterr().out.splitlines()[-1])["text"]
    middle = model.infill("(klm", "pqr)", length=8, temperature=0.0, spm=spm)
    assert asked == [spm, spm] and text == middle
    assert main(words) == 0 and capsys.readouterr().out.strip() == f"(klm{middle}pqr)".strip()


def test_the_prompt_keeps_what_is_next_to_the_gap(codec: bpe.Bpe) -> None:
    s = Sentinels.of(codec)
    whole = prompt(codec, "abcdef", "uvwxyz")
    assert prompt(codec, "abcdef", "uvwxyz", room=len(whole)).tolist() == whole.tolist()
    for room, before, after in ((14, "bcdef", "uvwxy"), (9, "def", "uv"), (5, "f", ""), (12, "cdef", "uvwx")):
        got = prompt(codec, "abcdef", "uvwxyz", room=room)
        assert len(got) == room
        middle = got.tolist().index(s.suffix)
        assert (codec.decode(got[:middle]), codec.decode(got[middle:])) == (before, after)
    assert codec.decode(prompt(codec, "abcdef", "z", room=9)) == "cdefz"           # room that one side does not need
    assert codec.decode(prompt(codec, "a", "uvwxyz", room=9)) == "auvwx"
    with pytest.raises(RequestError, match="no room"):
        prompt(codec, "a", "b", room=4)


def test_a_long_text_is_cut_to_the_context(model: Model) -> None:
    text = ALPHABET * 3
    assert isinstance(model.infill(text, text, length=4, temperature=0.0), str)
    with pytest.raises(RequestError, match="no room for the text around a gap"):
        model.infill(text, text, length=30)


def test_a_model_without_sentinels_is_refused(tmp_path: Path) -> None:
    codec = bpe.fit([ALPHABET], 257)
    module = starcoder2.Model(starcoder2.Config(vocab=codec.vocab, context=16, dim=16, layers=1, heads=2))
    hf.save(tmp_path, "starcoder2", module.config, module, codec)
    with pytest.raises(RequestError, match="no special tokens <fim_prefix>"):
        meristem.load(tmp_path).infill("a", "b")
