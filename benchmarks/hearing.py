"""Rate of Whisper and ESM-2 beside transformers: training and inference on equal work, equal weights, equal outputs.

    python -m benchmarks.hearing [whisper esm] [--rounds 7] [--dtype bfloat16 float32] [--tiny]

Weights are random and the same on both sides (ours are read from theirs); the outputs are compared in fp32 before
anything is timed (<= 1e-5 of the largest). Each side is timed eagerly and with its blocks compiled, in rounds that
take turns, and judged by the faster median. Training is forward, loss, backward and a fused AdamW step on the same
batch; theirs computes in bf16 through autocast, ours by its own casts (fp32 masters on both sides). Inference of ESM-2
is one pass over a batch of chains; Whisper's is to hear sounds and to write tokens greedily with a cache, eagerly on
both sides (the cache grows). Shapes: ESM-2 8M on 8 chains of 256 residues, Whisper tiny on 2 sounds of 30 seconds.
"""
import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import BOTH, EAGER, compared, record
from meristem.core import machine, registry
from meristem.core.config import from_dict
from meristem.generate.autoregressive import generate
from meristem.generate.listen import Heard
from meristem.nn.linear import compute_in
from meristem.train.trainer import blocks

Call = Callable[[], Any]
ESM = {"vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, "position_embedding_type": "rotary",
       "layer_norm_eps": 1e-5, "emb_layer_norm_before": False, "token_dropout": True, "hidden_dropout_prob": 0.0,
       "attention_probs_dropout_prob": 0.0, "hidden_size": 320, "num_hidden_layers": 6, "num_attention_heads": 20,
       "intermediate_size": 1280}
TINY = {"esm": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64},
        "whisper": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
                    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 97,
                    "max_source_positions": 20, "decoder_start_token_id": 1, "eos_token_id": 2, "bos_token_id": 2,
                    "pad_token_id": 2}}


def pair(name: str, tiny: bool) -> tuple[Any, Any, dict[str, Tensor]]:
    """Ours and theirs with the same weights, and a batch."""
    import transformers
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    more = TINY[name] if tiny else {}
    if name == "esm":
        theirs: Any = transformers.EsmForMaskedLM(transformers.EsmConfig(**{**ESM, **more}))
        tokens = torch.randint(4, 24, (2, 20) if tiny else (8, 256), generator=rng)
        hidden = torch.rand(tokens.shape, generator=rng) < 0.15
        batch = {"tokens": tokens.masked_fill(hidden, 32), "target": tokens.masked_fill(~hidden, -100)}
    else:
        theirs = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(
            begin_suppress_tokens=None, **more))
        c = theirs.config
        tokens = torch.randint(3, 90, (2, 12 if tiny else 64), generator=rng)
        frames = torch.randn(2, c.num_mel_bins, 2 * c.max_source_positions, generator=rng)
        batch = {"frames": frames, "tokens": tokens[:, :-1], "target": tokens[:, 1:]}
    entry = registry.load("models", name)
    fields = entry.HF_CONFIG.restore({**theirs.config.to_dict(), "architectures": [type(theirs).__name__]})
    ours = entry.Model(from_dict(entry.Config, fields))
    ours.load_state_dict(entry.HF.restore(theirs.state_dict(), ours))
    return ours, theirs, batch


def logits(name: str, model: Any, batch: dict[str, Tensor], own: bool, places: Tensor | None = None) -> Tensor:
    """What a model says; ours asks the vocabulary at `places` only, where they are given."""
    if name == "whisper":
        return model(batch["tokens"], batch["frames"]) if own else model(
            input_features=batch["frames"], decoder_input_ids=batch["tokens"]).logits
    return model(batch["tokens"], places=places) if own else model(input_ids=batch["tokens"]).logits


def training(name: str, model: Any, batch: dict[str, Tensor], own: bool, dtype: torch.dtype) -> Call:
    """One update."""
    optim = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    target, places = batch["target"], None
    if name == "esm" and own:
        hidden = target >= 0
        places = hidden.float().argsort(dim=1, descending=True, stable=True)[:, :int(hidden.sum(1).max())]
        target = target.gather(1, places)

    def step() -> float:
        model.train()
        optim.zero_grad()
        with torch.autocast("cpu", dtype, enabled=not own and dtype != torch.float32):
            said = logits(name, model, batch, own, places)
        loss = F.cross_entropy(said.float().flatten(0, 1), target.flatten(), ignore_index=-100)
        loss.backward()
        optim.step()
        return float(loss)
    return step


def inference(name: str, model: Any, batch: dict[str, Tensor], own: bool, dtype: torch.dtype, length: int) -> Call:
    """One answer."""
    @torch.no_grad()
    def answer() -> Any:
        model.eval()
        with torch.autocast("cpu", dtype, enabled=not own and dtype != torch.float32):
            if name == "esm":
                return logits(name, model, batch, own)
            if not own:
                import transformers
                return transformers.GenerationMixin.generate(model, batch["frames"], max_new_tokens=length,
                                                             min_new_tokens=length, do_sample=False)
            start = torch.tensor([model.config.start]).numpy()
            return generate(model, [start] * len(batch["frames"]), length=length, source=Heard(model, batch["frames"]))
    return answer


def main() -> None:
    """All pairs, types and kinds of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["whisper", "esm"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", nargs="*", default=["bfloat16", "float32"])
    parser.add_argument("--tiny", action="store_true")
    a = parser.parse_args()
    machine.tune_allocator()                                   # as the trainer does; both sides are in this process
    machine.set_threads()
    rows: list[dict[str, Any]] = []
    for name in a.models:
        for word in a.dtype:
            dtype = getattr(torch, word)
            ours, theirs, batch = pair(name, a.tiny)
            with torch.no_grad():
                said, want = (logits(name, m.eval(), batch, own) for m, own in ((ours, True), (theirs, False)))
            away = float((said - want).abs().max() / want.abs().max())
            assert away <= 1e-5, f"{name}: outputs differ by {away}"
            compute_in(ours, dtype)
            for block in [*blocks(ours), *blocks(theirs)]:
                block.compile(dynamic=False)
            for work in ("inference", "training"):
                first, second = (training(name, m, batch, own, dtype) if work == "training" else
                                 inference(name, m, batch, own, dtype, 6 if a.tiny else 48)
                                 for m, own in ((ours, True), (theirs, False)))
                stances = EAGER if a.tiny or (name, work) == ("whisper", "inference") else BOTH
                rows.append({"model": name, "dtype": word, "work": work, "difference": away,
                             **compared(first, second, 1 if a.tiny else a.rounds, stances)})
                print(rows[-1])
    if not a.tiny:
        record("hearing", {"rows": rows, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
