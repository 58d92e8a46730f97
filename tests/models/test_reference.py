"""A decoder against the papers' equations in NumPy alone, and not a bit of the future in any logit (FEATURES C1)."""
import numpy as np
import pytest
import torch

from meristem.core import registry
from meristem.core.config import from_dict
from meristem.nn.attention import CHUNK
from tests.models import parity

SHAPES = {"whole heads": {}, "grouped": {"groups": 2, "head_dim": 12, "theta": 500.0},
          "tied": {"groups": 1, "tied": True}}
DECODERS = {
    "gpt2": {}, "llama": {"groups": 2}, "neox": {}, "palm": {"hidden": 64}, "starcoder2": {"groups": 2},
    "mixtral": {"groups": 2, "hidden": 24, "experts": 4}, "lstm": {"hidden": 40},
    "llama4": {"groups": 2, "head_dim": 8, "hidden": 24, "dense_hidden": 48, "experts": 4, "every": 2, "chunk": 50}}
ROW = parity.ids(batch=1, length=CHUNK + 12)


def numpy_llama(weights: dict[str, np.ndarray], heads: int, groups: int, size: int, theta: float,
                ids: np.ndarray) -> np.ndarray:
    """Logits [T, V] in float64: Touvron et al. 2023 section 2.2, Su et al. 2021, Shazeer 2020, Ainslie et al. 2023.

    The rotation is written as a product of complex numbers, pairs (i, i + K/2); every head is taken alone.
    """
    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weights[name]

    def turn(x: np.ndarray) -> np.ndarray:
        pair = x[:, : size // 2] + 1j * x[:, size // 2:]
        angle = np.arange(len(x))[:, None] * theta ** (-np.arange(0, size, 2) / size)
        pair = pair * np.exp(1j * angle)
        return np.concatenate([pair.real, pair.imag], -1)

    x = weights["embed.weight"][ids]
    layer = 0
    while f"blocks.{layer}.norm1.weight" in weights:
        at = f"blocks.{layer}"
        y = norm(x, f"{at}.norm1.weight")
        q, k, v = (y @ weights[f"{at}.attn.{name}.weight"].T for name in "qkv")
        out = []
        for h in range(heads):
            g = h * groups // heads
            mine, theirs = slice(h * size, (h + 1) * size), slice(g * size, (g + 1) * size)
            score = turn(q[:, mine]) @ turn(k[:, theirs]).T / np.sqrt(size)
            share = np.tril(np.exp(score - score.max()))
            out.append(share / share.sum(-1, keepdims=True) @ v[:, theirs])
        x = x + np.concatenate(out, -1) @ weights[f"{at}.attn.o.weight"].T
        y = norm(x, f"{at}.norm2.weight")
        gate = y @ weights[f"{at}.mlp.gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ weights[f"{at}.mlp.up.weight"].T)) @ weights[
            f"{at}.mlp.down.weight"].T
        layer += 1
    return norm(x, "norm.weight") @ weights["head.weight"].T


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_the_forward_pass_is_the_papers_equations(shape: str) -> None:
    """To 1e-5 of the largest logit, over more positions than one chunk of queries has."""
    config, module = parity.ours("llama", vocab=97, context=256, dim=48, layers=3, heads=4, **SHAPES[shape])
    weights = {name: t.double().numpy() for name, t in module.state_dict().items()}
    want = numpy_llama(weights, config.heads, config.groups, config.head_dim, config.theta, ROW[0].numpy())
    parity.close(module(ROW)[0], torch.from_numpy(want).float())


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_no_bit_of_a_logit_depends_on_a_later_token(family: str) -> None:
    """Everything from t on is drawn anew: the logits before t stay as they are to the last bit, that of t does not."""
    shape = {"vocab": 97, "context": 256, "dim": 32, "layers": 2, **({} if family == "lstm" else {"heads": 4})}
    _, module = parity.ours(family, **{**shape, **DECODERS[family]})
    before, other = module(ROW), parity.ids(batch=1, length=ROW.shape[1], seed=7)
    for t in range(1, ROW.shape[1], 20 if family == "lstm" else 4):
        changed = torch.cat([ROW[:, :t], other[:, t:]], 1)
        changed[:, t] = (ROW[:, t] + 1) % 97
        after = module(changed)
        assert torch.equal(before[:, :t], after[:, :t]), f"a logit before {t} changed"
        assert not torch.equal(before[:, t], after[:, t])


def test_every_decoder_is_looked_at() -> None:
    """A family that answers with logits of a next token belongs into the table above."""
    for name in registry.names("models"):
        family = registry.load("models", name)
        makes = any("ForCausalLM" in kind.architecture or "LanguageModel" in kind.architecture
                    for kind in family.HF_CONFIG.kinds)
        assert not makes or name in DECODERS, name
    assert from_dict(registry.load("models", "llama").Config, {}).vocab == 32_000
