"""fastText against its definition, with padding, from a file; and trained by recipe `quality` in a few steps."""
import json
from pathlib import Path

import torch

from meristem.core.config import edit
from meristem.hub import hf
from meristem.models.fasttext import ODD, Config, Model
from meristem.recipes.curation import quality
from meristem.train import hooks
from meristem.train.run import pretrain

CONFIG = Config(vocab=50, context=12, dim=6, buckets=32, labels=("a", "b", "c"))


@torch.no_grad()
def test_it_is_the_mean_of_words_and_bigrams_and_padding_does_not_count(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(CONFIG)
    torch.nn.init.normal_(model.head.weight)
    ids = [3, 14, 15, 9, 2]
    vectors = [model.words.weight[i] for i in ids]
    vectors += [model.bigrams.weight[(a * ODD + b) % 32] for a, b in zip(ids, ids[1:], strict=False)]
    expected = model.head(torch.stack(vectors).mean(0))
    padded = torch.tensor([ids + [7] * 6])
    segments = (torch.arange(11) >= 5).long()[None]
    torch.testing.assert_close(model(padded, segments=segments)[0], expected)
    torch.testing.assert_close(model(torch.tensor([ids]))[0], expected)
    hf.save(tmp_path, "fasttext", CONFIG, model)
    again = hf.load(tmp_path)
    assert (again.family, again.config) == ("fasttext", CONFIG)
    assert torch.equal(again.module(padded, segments=segments), model(padded, segments=segments))


def test_the_recipe_learns_which_words_a_class_has(tmp_path: Path) -> None:
    rows = [{"text": f"{word} number {n} of the list", "label": label} for n in range(60)
            for word, label in (("fine", "good"), ("spam", "bad"))]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = edit(quality(), {"data.corpus": str(path), "train.steps": 40, "train.context": 16, "train.lr": 0.05,
                           "train.warmup": 2, "model.buckets": 256, "data.codec.vocab": 120})
    log = hooks.read_log(pretrain(run, tmp_path / "run") / "log.jsonl")
    assert log[0]["loss"] > 0.68 > 0.3 > log[-1]["loss"] and log[-1]["accuracy"] > 0.95
    assert log[-1]["validation"] < 0.6
    assert hf.load(tmp_path / "run" / "model").config.labels == ("bad", "good")
