"""What every family's test does, once: random weights, files both ways, caches, causality, greedy decoding, packing.

    from tests.models import parity
    model = parity.theirs("LlamaForCausalLM", "LlamaConfig", vocab_size=97, ...)       # random, every weight moved
    loaded = parity.read_theirs(model, tmp_path, ours=lambda m: m(rows), theirs=lambda m: m(rows).logits)
    parity.theirs_reads("llama", fields, tmp_path, ours=..., theirs=...)
    parity.check_cache(loaded.module, rows)         # and check_greedy, check_causal, check_padding, check_packing

`ours` and `theirs` are calls on a module, so that encoders, heads and encoder-decoders use the same functions. All is
fp32; "equal" means max |difference| <= 1e-5 of the largest |logit|.
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from meristem.core import registry
from meristem.core.config import from_dict
from meristem.hub import hf
from meristem.hub.tensors import Tensors

Call = Callable[[Any], Tensor]
TOLERANCE = 1e-5


def close(got: Tensor, want: Tensor, tolerance: float = TOLERANCE) -> None:
    """Assert max |got - want| <= tolerance x max |want|; both finite, of one shape and type."""
    assert want.isfinite().all() and want.abs().max() > 1e-2, "a comparison of nothing with nothing"
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * float(want.abs().max()))


def ids(vocab: int = 97, batch: int = 2, length: int = 80, seed: int = 1) -> Tensor:
    """Random token ids [batch, length]."""
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def perturb(module: nn.Module, size: float = 0.05, seed: int = 2) -> nn.Module:
    """Move every weight: norms are no longer ones, biases no longer zeros, blocks no longer the identity."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.add_(size * torch.randn(p.shape, generator=generator))
    return module.eval()


def theirs(model: str, config: str, **fields: Any) -> Any:
    """A random model of transformers by class name, every weight moved, in evaluation mode."""
    torch.manual_seed(0)
    return perturb(getattr(transformers, model)(getattr(transformers, config)(**fields)))


def ours(family: str, **fields: Any) -> tuple[Any, nn.Module]:
    """A config and a random module of a family of ours, every weight moved, in evaluation mode."""
    torch.manual_seed(0)
    entry = registry.load("models", family)
    config = from_dict(entry.Config, fields)
    return config, perturb(entry.Model(config))


@torch.no_grad()
def read_theirs(model: Any, folder: Path, ours: Call, theirs: Call, least: int = 10,
                today: Callable[[str], str] = str) -> hf.Loaded:
    """Their folder read by us gives their numbers; written again it holds the same bytes, and read again the same.

    `today`: the name that we write for one that they write in an older spelling.
    """
    model.save_pretrained(folder / "in", max_shard_size="40KB")
    loaded = hf.load(folder / "in")
    close(ours(loaded.module), theirs(model))
    hf.save(folder / "out", loaded.family, loaded.config, loaded.module)
    before, after = Tensors.open(folder / "in"), Tensors.open(folder / "out")
    assert len(before) >= least and sorted(map(today, before)) == sorted(after)
    assert all(torch.equal(before[k], after[today(k)]) and before[k].dtype == after[today(k)].dtype for k in before)
    again = hf.load(folder / "out")
    assert (again.family, again.config) == (loaded.family, loaded.config)
    assert hf.identity(again.family, again.module) == hf.identity(loaded.family, loaded.module)
    return loaded


@torch.no_grad()
def theirs_reads(family: str, fields: dict[str, Any], folder: Path, ours: Call, theirs: Call,
                 auto: str = "AutoModelForCausalLM") -> Any:
    """Our folder read by transformers gives our numbers, in fp32; what they write of it is our config again."""
    config, module = globals()["ours"](family, **fields)
    hf.save(folder / "model", family, config, module)
    model, report = getattr(transformers, auto).from_pretrained(folder / "model", output_loading_info=True)
    assert not any(report.values()), report                    # no missing, unexpected or mismatched tensor
    assert model.dtype == torch.float32
    close(theirs(model.eval()), ours(module))
    model.save_pretrained(folder / "back")
    assert hf.load(folder / "back").config == config
    return model


@torch.no_grad()
def by_cache(module: Any, rows: Tensor, cuts: Sequence[int] = (7, 8, 33)) -> Tensor:
    """A decoder's logits [B, T, V] through its cache, fed in pieces that end at `cuts` and at the end."""
    batch, length = rows.shape
    cache = module.caches(batch, length)
    edges = [0, *(c for c in cuts if c < length), length]
    at = torch.arange(length).expand(batch, -1)
    return torch.cat([module(rows[:, a:b], at[:, a:b], cache) for a, b in zip(edges, edges[1:], strict=False)], 1)


@torch.no_grad()
def check_cache(module: Any, rows: Tensor, cuts: Sequence[int] = (7, 8, 33)) -> None:
    """The cache gives what the whole sequence gives, with rows of several lengths padded on the right too."""
    whole = module(rows)
    close(by_cache(module, rows, cuts), whole)
    batch, length = rows.shape
    at = torch.arange(length - 1, length - 1 - batch, -1)      # each row goes on from a length of its own
    padded = rows.masked_fill(torch.arange(length) >= at[:, None], 0)
    cache = module.caches(batch, length)
    module(padded, torch.arange(length).expand(batch, -1), cache)
    row = torch.arange(batch)
    close(module(rows[row, at][:, None], at[:, None], cache)[:, 0], whole[row, at])


@torch.no_grad()
def check_padding(module: Any, model: Any, rows: Tensor) -> None:
    """Right padding changes no real logit, and these are transformers' own under an attention mask."""
    batch, length = rows.shape
    lengths = torch.tensor([length - 5 * i for i in range(batch)])
    real = torch.arange(length) < lengths[:, None]
    got = module(rows.masked_fill(~real, 0))
    close(got[real], model(rows.masked_fill(~real, 0), attention_mask=real.long()).logits[real])
    for i, n in enumerate(lengths.tolist()):
        close(got[i:i + 1, :n], module(rows[i:i + 1, :n]))


@torch.no_grad()
def check_causal(module: Any, rows: Tensor, vocab: int, at: Sequence[int] = (1, 50)) -> None:
    """Changing token t never changes a logit before t (exactly), and does change those from t on."""
    before = module(rows)
    for t in at:
        changed = rows.clone()
        changed[:, t] = (changed[:, t] + 1) % vocab
        after = module(changed)
        assert torch.equal(before[:, :t], after[:, :t])
        assert not torch.equal(before[:, t], after[:, t])


@torch.no_grad()
def check_greedy(module: Any, rows: Tensor, length: int = 12) -> None:
    """Greedy decoding with the cache gives the tokens of greedy decoding without one, for prompts of several lengths.

    The prompts and the new tokens must fit the model's context.
    """
    from meristem.generate.autoregressive import generate
    prompts = [row[: len(row) - 3 * i] for i, row in enumerate(rows)]
    made = generate(module, [p.numpy() for p in prompts], length=length)
    for prompt, got in zip(prompts, made, strict=True):
        tokens = prompt
        for _ in range(length):
            tokens = torch.cat([tokens, module(tokens[None])[0, -1:].argmax(-1)])
        assert got.tokens == tokens[len(prompt):].tolist()


@torch.no_grad()
def check_packing(module: Any, rows: Tensor, lengths: Sequence[int] = (13, 1, 40)) -> None:
    """Documents packed into a row, numbered by `segments`, positions restarted, give what each gives alone."""
    batch, total = rows.shape
    sizes = torch.tensor([*lengths, total - sum(lengths)])
    segments = torch.repeat_interleave(torch.arange(len(sizes)), sizes).expand(batch, -1)
    positions = torch.cat([torch.arange(n) for n in sizes.tolist()]).expand(batch, -1)
    packed = module(rows, positions=positions, segments=segments)
    alone = torch.cat([module(part) for part in rows.split(sizes.tolist(), 1)], 1)
    close(packed, alone)
    assert not torch.allclose(packed, module(rows), atol=1e-3), "the boundaries do nothing"
