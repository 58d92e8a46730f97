"""CLIP's two towers beside `transformers`: image-text pairs/s in training, and pictures/s encoded.

    python -m benchmarks.towers                   # clip-vit-b32 (151,277,313 parameters): under 5 minutes on two cores
    python -m benchmarks.towers --shape small     # the towers of recipe clip
    python -m benchmarks.towers --tiny            # does every worker run? Two steps of tiny towers, nothing compiled

The same pairs, softmax loss over the batch, AdamW (fused) with clipping at 1. Ours: bf16 arithmetic on fp32 weights in
compiled regions. `transformers` runs in several settings (bf16: autocast, true: bf16 weights; with and without
compilation of its layers) and is judged by its best. Ours runs before and after, and counts by its median. One run a
setting, medians over the steps; the machine's bf16 peak is measured around every block. Compilation is not counted, so
all workers share one cache of it, empty at first. Result: `towers.json`, `towers_small.json`.
"""
import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.common import peak_bf16, record, worker

SETTINGS = ("bf16-sdpa-compile", "true-sdpa-compile", "true-sdpa")


@dataclass(frozen=True)
class Shape:
    """Towers, and how many pairs a step has."""

    text: tuple[int, int, int]          # width, layers, heads
    vision: tuple[int, int, int]
    image: int
    patch: int
    project: int
    vocab: int
    context: int
    rows: int
    warm: int = 1
    steps: int = 5


SHAPES = {
    "b32": Shape((512, 12, 8), (768, 12, 12), 224, 32, 512, 49408, 77, 8),
    "small": Shape((128, 3, 4), (128, 3, 4), 32, 4, 64, 512, 16, 128, warm=2, steps=12),
    "tiny": Shape((32, 1, 2), (32, 1, 2), 16, 4, 16, 97, 8, 4, steps=2),
}


def pairs(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes of pictures, and texts that end at half their length."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (shape.rows, 3, shape.image, shape.image), generator=generator).to(torch.uint8)
    tokens = torch.randint(3, shape.vocab - 1, (shape.rows, shape.context + 1), generator=generator)
    tokens[:, shape.context // 2:] = shape.vocab - 1
    return images, tokens


def timed(shape: Shape, call: Callable[[], Any]) -> dict[str, float]:
    """Rows a second of the median call, and the peak of bf16 products around the calls."""
    for _ in range(shape.warm):
        call()
    peak, seconds = peak_bf16(samples=5), []
    for _ in range(shape.steps):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return {"pairs_per_second": shape.rows / statistics.median(seconds), "peak": max(peak, peak_bf16(samples=5))}


def ours(shape: Shape) -> dict[str, Any]:
    """meristem's trainer and towers."""
    from meristem.core import machine
    from meristem.core.run import Train
    from meristem.models.clip import Config, Model, Tower
    from meristem.nn.image import between
    from meristem.nn.linear import compute_in
    from meristem.objectives.contrastive import Contrastive
    from meristem.plan.cost import BACKWARD, flops_of
    from meristem.train.trainer import Trainer, compile_regions
    machine.tune_allocator()
    machine.set_threads()
    torch.manual_seed(0)
    objective = Contrastive(Model(Config(
        vocab=shape.vocab, context=shape.context, text=Tower(*shape.text), vision=Tower(*shape.vision),
        image=shape.image, patch=shape.patch, project=shape.project, end=shape.vocab - 1)))
    images, tokens = pairs(shape)
    batch = {"images": images, "tokens": tokens}
    flops = (1 + BACKWARD) * flops_of(objective.model, objective.inputs(objective.prepare(batch)))
    compute_in(objective, torch.bfloat16)
    compile_regions(objective)
    trainer = Trainer(objective, lambda step: [batch], Train(steps=99, batch=shape.rows, context=shape.context))
    trained = timed(shape, lambda: trainer.update([batch]))
    objective.eval()
    with torch.no_grad():
        encoded = timed(shape, lambda: objective.model.embed_images(between(images)))
    share = trained["pairs_per_second"] / shape.rows * flops / trained["peak"]
    return {"training": trained, "encoding": encoded, "share_of_peak": share, "flops": flops,
            "parameters": sum(p.numel() for p in objective.parameters())}


def transformers(shape: Shape, setting: str) -> dict[str, Any]:
    """`transformers.CLIPModel` in a plain loop; `setting` is precision-attention[-compile]."""
    import transformers as hf

    from meristem.nn.image import between
    precision, attention, *more = setting.split("-")
    (td, tl, th), (vd, vl, vh) = shape.text, shape.vision
    config = hf.CLIPConfig(
        text_config={"hidden_size": td, "num_hidden_layers": tl, "num_attention_heads": th, "intermediate_size": 4 * td,
                     "vocab_size": shape.vocab, "max_position_embeddings": shape.context,
                     "eos_token_id": shape.vocab - 1},
        vision_config={"hidden_size": vd, "num_hidden_layers": vl, "num_attention_heads": vh,
                       "intermediate_size": 4 * vd, "image_size": shape.image, "patch_size": shape.patch},
        projection_dim=shape.project, attn_implementation=attention)
    torch.manual_seed(0)
    model = hf.CLIPModel(config).train()
    if precision == "true":
        model = model.bfloat16()
    kind = next(model.parameters()).dtype
    if more:                                                   # one by one, as ours: as a whole it takes minutes
        for layer in (*model.text_model.encoder.layers, *model.vision_model.encoder.layers):
            layer.compile(dynamic=False)
    optim = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    images, tokens = pairs(shape)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(pixel_values=between(images).to(kind), input_ids=tokens[:, :-1], return_loss=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)

    def encode() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            model.get_image_features(pixel_values=between(images).to(kind))

    trained = timed(shape, step)
    model.eval()
    return {"training": trained, "encoding": timed(shape, encode)}


def compare(name: str) -> None:
    """Ours, every setting of `transformers`, ours again; of tiny towers the first three of these."""
    with tempfile.TemporaryDirectory() as cache:
        called = [["ours"], *(["transformers", setting] for setting in SETTINGS), ["ours"]]
        runs = [worker("benchmarks.towers", name, *words, warm=cache)
                for words in (called[:3] if name == "tiny" else called)]
    mine = [run for run in runs if run["who"] == "ours"]
    result: dict[str, Any] = {"shape": name, "share_of_peak": statistics.median(run["share_of_peak"] for run in mine)}
    for what in ("training", "encoding"):
        own = statistics.median(run[what]["pairs_per_second"] for run in mine)
        best = max(run[what]["pairs_per_second"] for run in runs if run["who"] != "ours")
        result[what] = {"ours": own, "transformers_best": best, "ratio": own / best}
    if name == "tiny":
        print(json.dumps(result))
    else:
        record("towers" if name == "b32" else f"towers_{name}", {**result, "runs": runs})


def main() -> None:
    """One shape, or one worker of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES], default="b32")
    parser.add_argument("--tiny", action="store_true", help="two steps of tiny towers in every worker")
    parser.add_argument("--worker", nargs="+")
    a = parser.parse_args()
    if a.worker:
        name, who, *setting = a.worker
        if name == "tiny":
            torch.compiler.set_stance("force_eager")           # a compiler takes a minute for the smallest towers
        result = {"ours": ours, "transformers": transformers}[who](SHAPES[name], *setting)
        print(json.dumps({"who": who, "setting": setting, **result}))
        return
    compare("tiny" if a.tiny else a.shape)


if __name__ == "__main__":
    main()
