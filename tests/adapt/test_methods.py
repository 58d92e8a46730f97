"""Every method on every family: step 0, what trains, files both ways with peft, merging, bad input."""
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from meristem.adapt import files
from meristem.adapt.base import trainable
from meristem.core import registry
from meristem.core.errors import RequestError
from meristem.hub import hf
from meristem.nn.linear import compute_in
from meristem.train import adapted
from tests.adapt.methods import DECODERS, FIELDS, TOKENS, attach, output, shaken, small, theirs

pytestmark = [pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),      # peft asking
              pytest.mark.filterwarnings("ignore:.*:UserWarning")]
LAYERWISE: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 8.0}, "ia3": {}, "bottleneck": {"size": 3}, "gated_prefix": {"length": 3}}
MERGED = ("lora", "ia3")


def chosen(method: str) -> tuple[str, dict[str, Any]]:
    """A method and its fields; dora and rslora are LoRA's."""
    return (method, LAYERWISE[method]) if method in LAYERWISE else ("lora", {"rank": 4, "alpha": 4.0, method: True})


@pytest.mark.parametrize("family", FIELDS)
@pytest.mark.parametrize("method", [*LAYERWISE, "dora", "rslora"])
@torch.no_grad()
def test_on_every_family(method: str, family: str, tmp_path: Path) -> None:
    """Step 0 is the base to the bit; a saved adapter is the same when loaded; merged weights compute the same."""
    base = output(small(family), family)
    kind, fields = chosen(method)
    module = attach(small(family), kind, **fields)
    assert torch.equal(output(module, family), base)
    before = output(shaken(module), family)
    assert (before - base).abs().max() > 1e-3
    files.save(tmp_path / "adapter", module, family, "hash")
    again = files.load(tmp_path / "adapter", small(family), family, "hash")
    torch.testing.assert_close(output(again, family), before, rtol=0, atol=1e-6)
    if kind in MERGED:
        torch.testing.assert_close(output(files.merge(module), family), before, rtol=0, atol=1e-5)
        assert module.state_dict().keys() == small(family).state_dict().keys()
    else:
        with pytest.raises(RequestError, match="beside its base"):
            files.merge(module)


@pytest.mark.parametrize("family", sorted(FIELDS.keys() - {"palm"}))                # transformers has no PaLM
@pytest.mark.parametrize("method", ["lora", "dora", "rslora", "ia3"])
@torch.no_grad()
def test_peft_reads_ours_and_we_read_what_it_writes(method: str, family: str, tmp_path: Path) -> None:
    kind, fields = chosen(method)
    module = shaken(attach(small(family), kind, **fields))
    files.save(tmp_path / "adapter", module, family, "hash")
    model = peft.PeftModel.from_pretrained(theirs(tmp_path / "base", small(family), family), str(tmp_path / "adapter"))
    torch.testing.assert_close(asked(model, family), output(module, family), rtol=0, atol=1e-5)
    model.save_pretrained(str(tmp_path / "back"))
    again = files.load(tmp_path / "back", small(family), family, "hash")
    torch.testing.assert_close(output(again, family), output(module, family), rtol=0, atol=1e-5)


def asked(model: Any, family: str) -> torch.Tensor:
    """What a model of transformers makes of the input of `output`."""
    from tests.adapt.methods import PIXELS
    if family == "vit":
        return model(pixel_values=PIXELS).logits
    if family == "t5":
        return model(input_ids=TOKENS.flip(1), decoder_input_ids=TOKENS).logits
    return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("method", ["prefix", "prompt"])
@torch.no_grad()
def test_places_before_a_text(method: str, family: str) -> None:
    """Length 0 is the base; step 0 is the base after the words; a cache answers as the whole row does."""
    plain = small(family)
    if family == "llama4" and method == "prefix":
        with pytest.raises(RequestError, match="without chunks"):
            attach(small(family), method, length=3)
        return
    none = attach(small(family), method, length=0)
    torch.testing.assert_close(none(TOKENS), plain(TOKENS), rtol=0, atol=1e-6)
    module = attach(small(family), method, length=3)
    ids = registry.load("adapt", "prefix").words(plain, 3, "", 1, None)
    after = plain(torch.cat([ids.expand(2, -1), TOKENS], 1))[:, 3:]
    torch.testing.assert_close(module(TOKENS), after, rtol=0, atol=1e-5)
    whole = shaken(module)(TOKENS)
    assert (whole - after).abs().max() > 1e-3
    cache, at = module.caches(2, 12), torch.arange(12).expand(2, -1)           # type: ignore[operator]
    parts = [module(TOKENS[:, i:j], positions=at[:, i:j], cache=cache) for i, j in ((0, 5), (5, 6), (6, 12))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "family"), [
    *(("prefix", f) for f in DECODERS if f not in ("palm", "llama4")),
    *(("prompt", f) for f in DECODERS if f != "palm"),
    ("gated_prefix", "llama")])
@torch.no_grad()
def test_peft_reads_learned_places(method: str, family: str, tmp_path: Path) -> None:
    module = shaken(attach(small(family), method, length=3))
    files.save(tmp_path / "adapter", module, family, "hash")
    model = peft.PeftModel.from_pretrained(theirs(tmp_path / "base", small(family), family), str(tmp_path / "adapter"))
    logits = asked(model, family)[:, -TOKENS.shape[1]:]
    torch.testing.assert_close(logits, module(TOKENS), rtol=0, atol=1e-5)
    model.save_pretrained(str(tmp_path / "back"))
    again = files.load(tmp_path / "back", small(family), family, "hash")
    torch.testing.assert_close(again(TOKENS), module(TOKENS), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "fields", "count"), [
    ("lora", {"rank": 4}, 2 * 4 * (4 * 32 + 2 * 32 + 2 * 16 + 3 * (32 + 48))),
    ("ia3", {}, 2 * (16 + 16 + 48)),
    ("bottleneck", {"size": 3}, 2 * 2 * (2 * 3 * 32 + 32 + 3)),                # 2md + d + m (Houlsby, section 2.1)
    ("prefix", {"length": 5}, 5 * 2 * 2 * 16),
    ("prompt", {"length": 5}, 5 * 32),
    ("gated_prefix", {"length": 5, "layers": 1}, 5 * 32 + 1)])
def test_only_what_is_added_trains(method: str, fields: dict[str, Any], count: int) -> None:
    module = attach(small("llama"), method, **fields)
    assert trainable(module) == count
    shaken(module)(TOKENS).square().mean().backward()
    assert all((p.grad is not None and p.grad.abs().max() > 0) == p.requires_grad for p in module.parameters())


def test_bad_requests_are_one_line(tmp_path: Path) -> None:
    for method, fields in LAYERWISE.items():
        if method != "gated_prefix":
            with pytest.raises(RequestError, match="did you mean blocks.0.attn.q"):
                attach(small("llama"), method, **{**fields, "where": "blocks.0.attn.qq"})
    with pytest.raises(RequestError, match="needs a decoder of text"):
        attach(small("bert"), "prompt")
    with pytest.raises(RequestError, match="below the context of 32"):
        attach(small("llama"), "prefix", length=32)
    with pytest.raises(RequestError, match="both where and feedforward"):
        attach(small("llama"), "ia3", where=r".*\.down")
    with pytest.raises(RequestError, match="exceed the 29"):
        attach(small("llama"), "prompt", length=3)(TOKENS.repeat(1, 3))
    with pytest.raises(RequestError, match="no adapter to save"):
        files.save(tmp_path / "none", small("llama"), "llama", "00")
    files.save(tmp_path / "one", attach(small("llama"), "ia3"), "llama", "00")
    with pytest.raises(RequestError, match="trained on the base 00, this model is 11"):
        files.load(tmp_path / "one", small("llama"), "llama", "11")
    with pytest.raises(RequestError, match=r"layers.1.* belongs to no layer"):
        files.load(tmp_path / "one", small("llama", layers=1), "llama", "00")
    with pytest.raises(RequestError, match="already has a IA3 adapter"):
        attach(files.load(tmp_path / "one", small("llama"), "llama", "00"), "lora")


def test_generation_of_a_prefixed_model_is_its_forward() -> None:
    from meristem.generate.autoregressive import generate
    for method in ("prefix", "prompt", "gated_prefix", "bottleneck", "lora"):
        module = shaken(attach(small("llama"), method), 0.3)
        prompt = TOKENS[0, :5].numpy()
        made = generate(module, [prompt], length=6)[0].tokens
        row = [*prompt.tolist(), *made]
        with torch.no_grad():
            assert module(torch.tensor([row]))[0, 4:-1].argmax(-1).tolist() == made, method


def test_the_base_is_found_again(tmp_path: Path) -> None:
    base = small("llama")
    hf.save(tmp_path / "base", "llama", base.config, base)
    files.save(tmp_path / "adapter", attach(base, "ia3"), "llama", "hash", str(tmp_path / "base"))
    assert files.base_of(tmp_path / "adapter") == str(tmp_path / "base")


@pytest.mark.parametrize("family", FIELDS)
def test_frozen_matrices_in_the_type_of_the_products_change_no_bit(family: str) -> None:
    """bf16 copies kept instead of made in every step: equal outputs and gradients."""
    found = []
    for lean in (False, True):
        module = compute_in(shaken(attach(small(family), "lora", rank=4)), torch.bfloat16)
        if lean:
            adapted.lean(module, torch.bfloat16)
            assert sum(p.dtype == torch.bfloat16 for p in module.parameters()) > 6
        out = output(module, family).float()
        out.square().sum().backward()
        found.append([out, *(p.grad for p in module.parameters() if p.requires_grad)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
