"""Images a second beside diffusers: the same U-Net at 32 x 32, the same steps, the same machine.

    python -m benchmarks.pictures              # all of it, alone on the machine: two minutes on two cores
    python -m benchmarks.pictures --compiled   # diffusers' blocks compiled, too: ten minutes, mostly of compiling
    python -m benchmarks.pictures --tiny       # a small U-Net, to see that it runs

Training: forward, backward and AdamW on batches of 16 with noise drawn in the step, neither side compiled: ours as the
recipes of pictures run, theirs as their example trains (bf16 autocast). Sampling: 8 pictures by DDIM in 10 steps, in
bf16, ours as `generate` samples. Both networks hold the same weights, and what they say is compared. Ours runs before
and after, and counts by its median. Doubling: our sampling again at twice the side and at twice the steps.
"""
import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import peak_bf16, record, worker

SHAPE: dict[str, Any] = {"inputs": 3, "image": 32, "channels": (64, 128, 192), "blocks": 1,
                         "attention": (False, True, True), "heads": 4, "head_dim": 32, "groups": 32}
TINY = {**SHAPE, "channels": (32, 64), "attention": (False, True)}
BATCH, DRAWN, STEPS = 16, 8, 10
REPEATS = {"train": 7, "draw": 3, "draw twice the side": 1, "draw twice the steps": 1}
WHO = ("ours", "theirs", "ours")


def main() -> None:
    """Measure everyone in processes of their own and write benchmarks/results/pictures.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="theirs with its blocks compiled as well")
    parser.add_argument("--worker", nargs=2)
    words = parser.parse_args()
    if words.worker:
        print(json.dumps(measure(words.worker[0], words.worker[1] == "tiny")))
        return
    size = "tiny" if words.tiny else "full"
    called = [*(WHO[:2] if words.tiny else WHO), *["theirs-compiled"] * words.compiled]
    runs = [worker("benchmarks.pictures", who, size) for who in called]

    def rate(what: str) -> float:
        return statistics.median(run[what]["images_per_second"] for run in runs if run["who"] == "ours")

    ratios = {name: rate(what) / max(run[what]["images_per_second"] for run in runs if run["who"] != "ours")
              for name, what in (("training", "train"), ("sampling", "draw"))}
    ratios |= {f"cost of {more}": rate("draw") / rate(f"draw {more}") for more in ("twice the side", "twice the steps")}
    full = {"size": size, "batch": BATCH, "drawn": DRAWN, "steps": STEPS, "runs": runs, "ratios": ratios}
    if words.tiny:
        print(json.dumps(full))
    else:
        record("pictures", full)


def measure(who: str, tiny: bool) -> dict[str, Any]:
    """Images a second of training and sampling, and their shares of this machine's bf16 peak, measured around them."""
    import torch

    from meristem.core import machine
    machine.tune_allocator()
    machine.set_threads()
    torch.manual_seed(0)
    torch._dynamo.config.recompile_limit = 64                  # a kernel a shape of a block
    if tiny:
        torch.compiler.set_stance("force_eager")               # a compiler takes minutes for the smallest network
    whose, *more = who.split("-")
    ours, flops = network(tiny), forward_flops(network(tiny))
    module: Any = ours if whose == "ours" else peer(ours)
    found: dict[str, Any] = {"who": who, "parameters": sum(p.numel() for p in ours.parameters()),
                             "gigaflops_an_image_forward": flops / 1e9}
    side = SHAPE["image"]
    for what, repeats in REPEATS.items():
        if what.startswith("draw"):
            longer, larger = what.endswith("steps"), what.endswith("side")
            call = painter(network(tiny) if whose == "ours" else module, whose, bool(more), side * (1 + larger),
                           STEPS * (1 + longer))
            count, each = DRAWN, STEPS * (1 + longer) * (1 + 3 * larger) * flops
        else:
            call, count, each = trainer(module, whose, bool(more)), BATCH, 3 * flops
        if what in ("train", "draw") or whose == "ours":
            found[what] = timed(call, 2 if tiny else repeats, count, each)
    return found


def timed(call: Callable[[], None], repeats: int, count: int, each: float) -> dict[str, float]:
    """The rate of the median call after a first one, which is said apart, and its share of the larger peak."""
    began = time.perf_counter()
    call()
    first, before, seconds = time.perf_counter() - began, peak_bf16(samples=5), []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    rate, peak = count / statistics.median(seconds), max(before, peak_bf16(samples=5))
    return {"images_per_second": rate, "first_call_seconds": first, "share_of_peak": rate * each / peak, "peak": peak}


def network(tiny: bool) -> Any:
    """Our U-Net, every weight drawn anew: zeros would be no numbers to compare."""
    import torch

    from meristem.models.unet import Config, Model
    torch.manual_seed(1)
    model = Model(Config(**(TINY if tiny else SHAPE)))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model


def peer(ours: Any) -> Any:
    """diffusers' UNet2DModel with the same weights; its output is compared with ours."""
    import diffusers
    import torch

    from meristem.hub import hf
    with tempfile.TemporaryDirectory() as folder:
        hf.save(Path(folder) / "unet", "unet", ours.config, ours)
        theirs = diffusers.UNet2DModel.from_pretrained(f"{folder}/unet", local_files_only=True)
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([5.0, 700.0])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t), theirs(x, t).sample, atol=1e-4, rtol=1e-4)
    return theirs


def forward_flops(model: Any) -> float:
    """Of one picture at the trained side."""
    import torch

    from meristem.plan.cost import flops_of
    return flops_of(model, {"images": torch.randn(1, 3, 32, 32), "time": torch.zeros(1)})


def trainer(module: Any, whose: str, compiled: bool) -> Callable[[], None]:
    """One update on BATCH pictures: ours through the Trainer, theirs as their training example does it."""
    import torch

    images = torch.randint(0, 256, (BATCH, 3, 32, 32)).to(torch.uint8)
    if whose == "ours":
        from meristem.core.run import Train
        from meristem.nn.linear import compute_in
        from meristem.objectives.diffusion import Diffusion
        from meristem.train.trainer import Trainer
        objective = Diffusion(compute_in(module, torch.bfloat16))
        batch = {"images": images, "weight": torch.ones(BATCH)}
        loop = Trainer(objective.train(), lambda step: [batch], Train(steps=1000, batch=BATCH))
        return lambda: loop.update([batch]) and None
    import diffusers
    scheduler, optimizer = diffusers.DDPMScheduler(), torch.optim.AdamW(module.parameters(), fused=True)
    module.train()
    compile_blocks(module, compiled)

    def step() -> None:
        clean = images.float() / 127.5 - 1
        noise, time_ = torch.randn_like(clean), torch.randint(0, 1000, (BATCH,))
        noisy = scheduler.add_noise(clean, noise, time_)
        with torch.autocast("cpu", torch.bfloat16):
            said = module(noisy, time_).sample
        torch.nn.functional.mse_loss(said.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return step


def compile_blocks(module: Any, compiled: bool) -> None:
    """diffusers' residual blocks and attention, each by itself: the whole takes minutes."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    for block in module.modules() if compiled else ():
        if isinstance(block, ResnetBlock2D | Attention):
            block.compile(dynamic=False)


def painter(module: Any, whose: str, compiled: bool, side: int, steps: int) -> Callable[[], None]:
    """DRAWN pictures by DDIM."""
    import torch

    x = torch.randn(DRAWN, 3, side, side)
    if whose == "ours":
        from meristem.generate.pictures import Wish, paint
        from meristem.nn.linear import compute_in
        from meristem.objectives.diffusion import Diffusion
        vars(module.config)["image"] = side                 # a U-Net takes any side; the painter asks for this one
        made = Diffusion(compute_in(module.eval(), torch.bfloat16)).painter()
        wish = Wish(("",) * DRAWN, steps=steps, sampler="ddim")
        return lambda: paint(made, wish) is None
    import diffusers
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(steps)
    module.eval()
    compile_blocks(module, compiled)

    def draw() -> None:
        at = x
        with torch.no_grad():
            for t in scheduler.timesteps:
                with torch.autocast("cpu", torch.bfloat16):
                    said = module(at, t).sample
                at = scheduler.step(said.float(), t, at).prev_sample
    return draw


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
