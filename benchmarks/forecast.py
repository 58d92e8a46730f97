"""Forecast beside measurement of six shapes: peak memory (within 10 %) and seconds of the steps (within 15 %).

    python -m benchmarks.forecast CORPUS                       # all six, each in a fresh process; about ten minutes
    python -m benchmarks.forecast CORPUS --tiny                # two shapes, five steps: does it work?
    python -m benchmarks.forecast CORPUS --memory              # few steps: peak memory only, the time says nothing

Each shape is planned as `meristem plan` plans (its own batch and rate, timed by five steps of it), then trained for the
planned number of steps in another process, whose largest resident memory and whose seconds of steps are compared with
the forecast. Compilation, validation and setting up are not in the seconds. Time wants a machine without other work.
"""
import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.common import record, worker
from meristem.core import machine
from meristem.core.config import Part
from meristem.core.files import read_json
from meristem.core.run import Run
from meristem.corpus.store import Corpus
from meristem.data.shards import tokenise
from meristem.plan.cost import Cost, on_meta
from meristem.plan.plan import TEMPLATE, Shape, Text, recipe
from meristem.train.probe import tokens_per_second
from meristem.train.run import codec_of, pretrain

SHAPES = {"64x3": Shape(64, 3), "128x6": Shape(128, 6), "256x6": Shape(256, 6), "384x6": Shape(384, 6),
          "512x8": Shape(512, 8, 512), "768x12": Shape(768, 12, 512)}
STEPS = {"64x3": 200, "128x6": 120, "256x6": 60, "384x6": 40, "512x8": 16, "768x12": 16}
TINY = ("64x3", "128x6")
FEW = 2                                 # steps that reach the peak of memory
BATCH = {"64x3": 16, "128x6": 16, "256x6": 16, "384x6": 16, "512x8": 8, "768x12": 4}
VOCAB = 4096


def run_of(corpus: Path, name: str, steps: int) -> Run:
    """One shape under the planner's rules, with 2,048 to 4,096 tokens an update."""
    opened = Corpus.open(corpus)
    part = Part("bpe", {"vocab": VOCAB})
    codec = codec_of(part, opened)
    text = Text.of(opened, tokenise(opened, codec), codec, part)
    made = recipe(SHAPES[name], 1e6, text, TEMPLATE)
    here = machine.measured()
    return replace(made, train=replace(made.train, steps=steps, batch=BATCH[name], warmup=2, compile=here.compiler,
                                       dtype=here.best_dtype))


def probe(corpus: Path, name: str, steps: int) -> dict:
    """The forecast: bytes from the meta device, seconds from a few real steps."""
    run = run_of(corpus, name, steps)
    t = run.train
    cost = Cost.of(on_meta(run.model.with_fields(vocab=VOCAB, context=t.context)), t.context)
    rate = tokens_per_second(run) if steps > FEW else 0.0
    return {"parameters": cost.parameters, "memory": sum(cost.memory(t.batch * t.context, t.optimizer).values()),
            "seconds": t.steps * t.batch * t.context / rate if rate else 0.0}


def measure(corpus: Path, name: str, steps: int) -> dict:
    """The run itself."""
    with tempfile.TemporaryDirectory() as folder:
        result = read_json(pretrain(run_of(corpus, name, steps), Path(folder) / "run") / "result.json")
        log = [json.loads(line) for line in (Path(folder) / "run" / "log.jsonl").read_text().splitlines()]
    took = [row["step_seconds"] for row in log][1:]            # the first step compiles
    return {"memory": result["peak_rss"], "seconds": sum(took) * len(log) / max(1, len(took))}


def main() -> None:
    """Forecast, measure and compare every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", default="", help="shapes, with commas")
    parser.add_argument("--worker", nargs=2, metavar=("WHAT", "SHAPE"), help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        what, name = given.worker
        print(json.dumps((probe if what == "probe" else measure)(given.corpus, name, given.steps)))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as kernels:
        for name in TINY if given.tiny else given.only.split(",") if given.only else SHAPES:
            steps = FEW if given.memory else 5 if given.tiny else STEPS[name]
            words = (str(given.corpus), "--steps", str(steps))
            told, found = (worker("benchmarks.forecast", what, name, *words, warm=kernels) for what in ("probe", "run"))
            rows[name] = {"parameters": told["parameters"], "steps": steps,
                          "memory": [told["memory"], found["memory"]],
                          "memory_error": round(told["memory"] / found["memory"] - 1, 3)}
            if told["seconds"]:
                rows[name] |= {"seconds": [round(told["seconds"], 2), round(found["seconds"], 2)],
                               "seconds_error": round(told["seconds"] / found["seconds"] - 1, 3)}
    worst = {key: max((abs(row[key]) for row in rows.values() if key in row), default=None)
             for key in ("memory_error", "seconds_error")}
    record("forecast_memory" if given.memory else "forecast_tiny" if given.tiny else "forecast",
           {"shapes": rows, "worst": worst})


if __name__ == "__main__":
    main()
