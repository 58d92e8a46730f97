"""Training and answering of a LLaVA beside the same model in transformers: equal outputs, then rates, in one process.

    python -m benchmarks.seeing                # a third of a minute a side on two cores; --tiny proves that it works

Random weights of one shape are written by us and read by transformers; the logits are compared first. Training is one
AdamW step on the same batch (forward, backward, step); answering is greedy, from pictures and prompts to `--new`
tokens, each side with its own cache, in fp32. Training is timed in fp32 and in bf16 (theirs through autocast, ours by
its own casts), eagerly and with the blocks compiled; a side is judged by its fastest setting. Rounds take turns;
medians.
"""
import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import BOTH, EAGER, compared, record
from meristem.core import machine
from meristem.core.config import from_dict
from meristem.generate.autoregressive import generate
from meristem.generate.base import Shown
from meristem.hub import hf
from meristem.models.llava import Config, Model
from meristem.nn.linear import compute_in
from meristem.train.trainer import blocks

SHAPE: dict[str, Any] = {
    "vocab": 8192, "context": 512, "image_token": 1,
    "language": {"name": "llama", "fields": {"dim": 384, "layers": 8, "heads": 6, "hidden": 1024, "eps": 1e-6}},
    "vision": {"name": "clip", "fields": {"image": 96, "patch": 16, "vision": {"dim": 256, "layers": 6, "heads": 4}}}}
TINY: dict[str, Any] = {
    "vocab": 97, "context": 128, "image_token": 1,
    "language": {"name": "llama", "fields": {"dim": 32, "layers": 2, "heads": 2, "hidden": 64, "eps": 1e-6}},
    "vision": {"name": "clip", "fields": {"image": 16, "patch": 8, "vision": {"dim": 32, "layers": 2, "heads": 2}}}}


def sides(shape: dict[str, Any]) -> tuple[Config, Model, Any]:
    """Our model and transformers' with the same weights."""
    from transformers import AutoModelForImageTextToText
    torch.manual_seed(0)
    config = from_dict(Config, shape)
    module = Model(config)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.02 * torch.randn(p.shape))
    with tempfile.TemporaryDirectory() as folder:
        hf.save(Path(folder) / "model", "llava", config, module)
        return config, module, AutoModelForImageTextToText.from_pretrained(Path(folder) / "model")


def batch(config: Config, rows: int, words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of one picture and some words after it."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, config.vocab, (rows, 1 + config.image_tokens + words), generator=generator)
    tokens[:, 1:1 + config.image_tokens] = config.image_token
    return tokens, torch.rand(rows, 1, 3, config.image, config.image, generator=generator) * 2 - 1


def run(tiny: bool, rounds: int, new: int) -> dict[str, Any]:
    """Outputs, rates and their quotients."""
    config, module, theirs = sides(TINY if tiny else SHAPE)
    rows, words = (2, 8) if tiny else (8, 92)
    tokens, images = batch(config, rows, words)
    flat = images.flatten(0, 1)
    with torch.no_grad():
        ours, want = module(tokens, images=images), theirs(input_ids=tokens, pixel_values=flat).logits
    gap = float((ours - want).abs().max() / want.abs().max())

    def trainer(model: Any, logits: Callable[[], torch.Tensor], auto: bool = False) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=auto):
                said = logits()
            torch.nn.functional.cross_entropy(said[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return step

    prompts = [row.numpy() for row in tokens]
    said: dict[str, list[list[int]]] = {}

    def answer_ours() -> None:
        said["ours"] = [one.tokens for one in generate(module, prompts, length=new, source=Shown(module, images))]

    def answer_theirs() -> None:
        with torch.no_grad():
            made = theirs.generate(input_ids=tokens, pixel_values=flat, attention_mask=torch.ones_like(tokens),
                                   max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
        said["theirs"] = made[:, tokens.shape[1]:].tolist()

    answers = compared(answer_ours, answer_theirs, rounds, EAGER)
    equal = said["ours"] == said["theirs"]
    module.train()
    theirs.train()
    for block in [*blocks(module), *blocks(theirs)]:
        block.compile(dynamic=False)
    training = {}
    for word in ("float32", "bfloat16"):
        compute_in(module, getattr(torch, word))
        training[word] = compared(
            trainer(module, lambda: module(tokens, images=images)),
            trainer(theirs, lambda: theirs(input_ids=tokens, pixel_values=flat).logits, word == "bfloat16"),
            rounds, EAGER if tiny else BOTH)
    fastest = {side: min(one[side] for one in training.values()) for side in ("ours", "theirs")}
    return {"tiny": tiny, "parameters": sum(p.numel() for p in module.parameters()), "rows": rows,
            "tokens_a_row": tokens.shape[1], "new": new, "largest_gap": gap, "equal_answers": equal,
            "training": training, "answering": answers, "threads": torch.get_num_threads(),
            "train_times": round(fastest["theirs"] / fastest["ours"], 2), "answer_times": round(answers["ratio"], 2)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=32)
    given = parser.parse_args()
    machine.tune_allocator()                                   # as the trainer does; both sides are in this process
    made = run(given.tiny, 1 if given.tiny else given.rounds, 4 if given.tiny else given.new)
    if given.tiny:
        print(made)
    else:
        record("seeing", made)
