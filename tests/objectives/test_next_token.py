"""Next-token loss: its value at the start, its weights, its sum."""
import math

import pytest
import torch

from meristem.core import registry
from meristem.models.llama import Config, Model
from meristem.objectives.next_token import NextToken, log_probs


@pytest.mark.parametrize(("family", "vocab", "nats"), [
    ("llama", 65, math.log(65)), ("gpt2", 50_257, 10.825), ("llama", 50_257, 10.825), ("gpt2", 32_000, 10.373),
    ("llama", 32_000, 10.373), ("mixtral", 32_000, 10.373)])
def test_the_first_loss_is_the_logarithm_of_the_vocabulary(family, vocab, nats):
    """Within 2 % (FEATURES C3). NeoX's and PaLM's published initialisations begin above: logits of 0.6 and 1."""
    torch.manual_seed(0)
    entry = registry.load("models", family)
    objective = NextToken(entry.Model(entry.Config(vocab=vocab, dim=32, layers=1, heads=2, context=32)))
    batch = {"tokens": torch.randint(vocab, (2, 33)), "weight": torch.ones(2, 32)}
    assert float(objective(batch)[0].detach()) / 64 == pytest.approx(nats, rel=0.02)


def test_untrained_positions_do_not_count():
    objective = NextToken(Model(Config(vocab=20, dim=16, layers=1, heads=2, context=8)))
    tokens, weight = torch.randint(20, (2, 9)), torch.tensor([[0.0] * 4 + [1.0] * 4, [1.0] * 8])
    loss, _ = objective({"tokens": tokens, "weight": weight})
    logits = objective.model(tokens[:, :-1])
    by_hand = -log_probs(logits, tokens[:, 1:])
    torch.testing.assert_close(loss, by_hand[0, 4:].sum() + by_hand[1].sum())
    assert float(objective.weight({"weight": weight})) == 12
