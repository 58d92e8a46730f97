"""Images a second beside diffusers: the same U-Net of 10.7 M parameters at 32 x 32, the same steps, the same machine.

    python -m benchmarks.pictures              # all of it, alone on the machine: about 20 minutes
    python -m benchmarks.pictures --tiny       # a small U-Net, to see that it runs

Training: forward, backward and AdamW on batches of 16 with noise drawn in the step, ours compiled as a run compiles it,
theirs as their example trains it (bf16 autocast), eager and compiled; compilation is not counted. Sampling: 8 pictures
by DDIM in 20 steps, in bf16. Both networks hold the same weights, and their pictures are compared. Doubling: our
sampling again at twice the side and at twice the steps.
"""
import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import peak_bf16, record, worker

SHAPE: dict[str, Any] = {"inputs": 3, "image": 32, "channels": (64, 128, 192), "blocks": 2,
                         "attention": (False, True, True), "heads": 4, "head_dim": 32, "groups": 32}
TINY = {**SHAPE, "channels": (32, 32, 64), "blocks": 1}
BATCH, DRAWN, STEPS = 16, 8, 20
REPEATS = 7
FORMS = ("ours-train", "theirs-train", "theirs-train-compiled", "ours-draw", "theirs-draw", "theirs-draw-compiled",
         "ours-draw-side", "ours-draw-steps")


def main() -> None:
    """Measure every form in its own process and write benchmarks/results/pictures.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--worker", nargs=2)
    words = parser.parse_args()
    if words.worker:
        print(json.dumps(measure(words.worker[0], words.worker[1] == "tiny")))
        return
    size = "tiny" if words.tiny else "full"
    results = {form: worker("benchmarks.pictures", form, size) for form in FORMS}
    rate = {form: result["images_per_second"] for form, result in results.items()}
    ratios = {"training": rate["ours-train"] / max(rate["theirs-train"], rate["theirs-train-compiled"]),
              "sampling": rate["ours-draw"] / max(rate["theirs-draw"], rate["theirs-draw-compiled"]),
              "cost of twice the side": rate["ours-draw"] / rate["ours-draw-side"],
              "cost of twice the steps": rate["ours-draw"] / rate["ours-draw-steps"]}
    full = {"size": size, "batch": BATCH, "drawn": DRAWN, "steps": STEPS, "forms": results, "ratios": ratios}
    if words.tiny:
        print(json.dumps(full))
    else:
        record("pictures", full)


def measure(form: str, tiny: bool) -> dict[str, Any]:
    """Images a second of one form, the median of REPEATS, and its share of this machine's bf16 peak."""
    import torch

    from meristem.core import machine
    machine.tune_allocator()
    torch.manual_seed(0)
    whose, what, *more = form.split("-")
    ours = network(tiny)
    module: Any = ours if whose == "ours" else peer(ours)
    flops = forward_flops(network(tiny))
    side, steps = SHAPE["image"] * (2 if "side" in more else 1), STEPS * (2 if "steps" in more else 1)
    if what == "train":
        call, count, each = trainer(module, whose, "compiled" in more), BATCH, 3 * flops
    else:
        call = painter(module, whose, "compiled" in more, side, steps)
        count, each = DRAWN, steps * flops * (4 if "side" in more else 1)
    began = time.perf_counter()
    call()
    warm = time.perf_counter() - began
    seconds = []
    for _ in range(2 if tiny else REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    rate = count / statistics.median(seconds)
    return {"images_per_second": rate, "first_call_seconds": warm, "gigaflops_an_image_forward": flops / 1e9,
            "share_of_peak": None if tiny else rate * each / peak_bf16(),
            "parameters": sum(p.numel() for p in ours.parameters())}


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
    import tempfile

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
        from meristem.train.trainer import Trainer, compile_regions
        objective = Diffusion(compute_in(module, torch.bfloat16))
        compile_regions(objective)
        batch = {"images": images, "weight": torch.ones(BATCH)}
        loop = Trainer(objective.train(), lambda step: [batch], Train(steps=1000, batch=BATCH))
        return lambda: loop.update([batch]) and None
    import diffusers
    scheduler, optimizer = diffusers.DDPMScheduler(), torch.optim.AdamW(module.parameters(), fused=True)
    forward = torch.compile(module) if compiled else module

    def step() -> None:
        clean = images.float() / 127.5 - 1
        noise, time_ = torch.randn_like(clean), torch.randint(0, 1000, (BATCH,))
        noisy = scheduler.add_noise(clean, noise, time_)
        with torch.autocast("cpu", torch.bfloat16):
            said = forward(noisy, time_).sample
        torch.nn.functional.mse_loss(said.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return step


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
    forward = torch.compile(module) if compiled else module

    def draw() -> None:
        at = x
        with torch.no_grad():
            for t in scheduler.timesteps:
                with torch.autocast("cpu", torch.bfloat16):
                    said = forward(at, t).sample
                at = scheduler.step(said.float(), t, at).prev_sample
    return draw


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
