"""An own isoFLOP valley: for each budget of FLOPs the loss over model sizes, a law through it, larger runs forecast.

    meristem curate stdlib --out CORPUS --limit 32M
    python -m benchmarks.isoflop CORPUS --minutes 18               # trains what is missing; again until nothing is
    python -m benchmarks.isoflop CORPUS --score                    # the valleys, the law, the forecasts; the figure

Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556), approaches 2 and 3, small: decoders of 40 thousand to 4 million
parameters on BPE of 512 ids, contexts of 128 tokens, at 1e12, 3e12 and 1e13 FLOPs (the whole attention square counted,
which is what one chunk of queries computes). Batch, rate and optimizer are those that a plan would give. Each larger
run, at 1e13, 3e13 and 1e14 FLOPs, has the size that a law of all runs of smaller budgets finds best, and must fall into
that law's 80 % interval (E4, E8). At 3e12 FLOPs two sizes are trained with three seeds: smaller for longer against
bigger for shorter (E9). Rows: results/isoflop.jsonl, a run a line; figure: docs/pictures/isoflop.svg.
"""
import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, record
from meristem.core import machine
from meristem.core.config import Part
from meristem.core.files import write_bytes
from meristem.core.run import Run
from meristem.corpus.store import Corpus
from meristem.data.shards import tokenise
from meristem.govern import svg
from meristem.govern.numbers import short
from meristem.plan import forecast, scaling
from meristem.plan.cost import Cost, on_meta
from meristem.plan.plan import TEMPLATE, Shape, Text, recipe
from meristem.train.pilots import Row, pilots, points_of, read
from meristem.train.run import codec_of

ROWS = RESULTS / "isoflop.jsonl"
FIGURE = Path(__file__).parent.parent / "docs" / "pictures" / "isoflop.svg"
CODEC = Part("bpe", {"vocab": 512})
SHAPES = [Shape(*s, 128) for s in ((32, 2), (64, 2), (64, 4), (96, 4), (128, 4), (192, 4), (256, 5))]
VALLEYS = {1e12: SHAPES[:5], 3e12: SHAPES[1:6], 1e13: SHAPES[1:6]}
LARGER = (1e13, 3e13, 1e14)
SEEDS, SMALLER, BIGGER = 3, SHAPES[1], SHAPES[5]               # at 3e12 FLOPs
COMPILED = 5e12                         # FLOPs from which a run pays for compiling (15 s)


def text_of(folder: Path) -> tuple[Text, Corpus]:
    """The corpus under this benchmark's codec."""
    corpus = Corpus.open(folder)
    codec = codec_of(CODEC, corpus)
    return Text.of(corpus, tokenise(corpus, codec), codec, CODEC), corpus


def cost_of(shape: Shape, text: Text) -> Cost:
    """Exact counts of a shape."""
    return Cost.of(on_meta(shape.part(TEMPLATE.model).with_fields(vocab=text.vocab, context=shape.context)),
                   shape.context)


def run_of(shape: Shape, flops: float, text: Text, seed: int = 0) -> Run:
    """The run that spends so many FLOPs on a shape."""
    train = replace(TEMPLATE.train, dtype=machine.measured().best_dtype, compile=flops >= COMPILED)
    run = recipe(shape, flops / cost_of(shape, text).training_flops_full, text, replace(TEMPLATE, train=train))
    return replace(run, name="isoflop", seed=seed)


def runs(text: Text, rows: Path) -> Iterator[Run]:
    """Every run, cheapest first; the larger ones come last, for the law of the others names their size."""
    for flops in (1e12, 3e12):
        yield from (run_of(shape, flops, text) for shape in VALLEYS[flops])
    for flops in LARGER:
        yield run_of(best(flops, text, law_of(below(flops, read(rows)))), flops, text)
        for seed in range(1, SEEDS if flops == LARGER[0] else 0):
            yield from (run_of(shape, 3e12, text, seed) for shape in (SMALLER, BIGGER))
        yield from (run_of(shape, flops, text) for shape in VALLEYS.get(flops, ()))


def below(flops: float, rows: list[Row]) -> list[Row]:
    """The rows of smaller budgets, seed 0: what a law that forecasts this budget may know."""
    return sorted((r for r in rows if r["seed"] == 0 and budget(r) < flops), key=lambda r: (budget(r), r["parameters"]))


def budget(row: Row) -> float:
    """The budget that a row belongs to."""
    return min((*VALLEYS, *LARGER), key=lambda flops: abs(math.log(row["flops"] / flops)))


def law_of(rows: list[Row]) -> forecast.Forecast:
    """The law through the valleys, with its intervals."""
    return forecast.of(points_of(rows), unit="bits/byte", source="benchmarks.isoflop",
                       prior=scaling.Prior(centre=scaling.own()))


def best(flops: float, text: Text, law: forecast.Forecast) -> Shape:
    """The shape of least forecast loss for so many FLOPs."""
    def loss(shape: Shape) -> float:
        cost = cost_of(shape, text)
        return law.law.loss(cost.active, flops / cost.training_flops_full * text.bytes_per_token, text.bytes)
    return min(SHAPES, key=loss)


def minimum(rows: list[Row]) -> tuple[float, float]:
    """(parameters, loss) at the bottom of a parabola in log parameters through one budget's losses (approach 2)."""
    x = np.log10([r["parameters"] for r in rows])
    a, b, c = np.polyfit(x, [r["bits_per_byte"] for r in rows], 2)
    at = float(np.clip(-b / (2 * a) if a > 0 else x[np.argmin(a * x * x + b * x)], x.min(), x.max()))
    return 10**at, float(a * at * at + b * at + c)


def score(text: Text, rows: list[Row]) -> dict:
    """Everything the page says."""
    larger, whole = [], law_of(below(math.inf, rows))
    for flops in LARGER:
        law = law_of(below(flops, rows))
        for row in (r for r in rows if budget(r) == flops):
            data = scaling.effective(row["bytes"], row["unique_bytes"])
            low, high = law.interval(row["parameters"], data)
            larger.append({"flops": flops, "parameters": row["parameters"], "tokens": row["tokens"],
                           "forecast": law.law.loss(row["parameters"], data), "low": low, "high": high,
                           "measured": row["bits_per_byte"], "inside": low <= row["bits_per_byte"] <= high})
    bottoms = {}
    for flops in VALLEYS:
        own = [r for r in below(math.inf, rows) if budget(r) == flops]
        if len(own) < 3:
            continue
        n, loss = minimum(own)
        tokens = flops / 6 / n
        bottoms[f"{flops:g}"] = {"parameters": round(n), "bits_per_byte": round(loss, 4),
                                 "tokens_per_parameter": round(tokens / n, 1), "runs": len(own)}
    duel = {f"{s.dim}x{s.layers}": [round(r["bits_per_byte"], 4) for r in rows if budget(r) == 3e12
                                    and (r["dim"], r["layers"]) == (s.dim, s.layers)] for s in (SMALLER, BIGGER)}
    ratios = [each.tokens_per_parameter(1e13) / text.bytes_per_token for each in whole.laws]
    low, high = np.quantile(ratios, [0.1, 0.9])
    return {"law": scaling.to_json(whole.law), "scatter": whole.scatter, "valleys": bottoms, "larger": larger,
            "duel": duel,
            "tokens_per_parameter_1e13": [round(float(low), 1), round(float(high), 1)],
            "cpu_minutes": round(sum(r["seconds"] for r in rows) / 60, 1), "runs": len(rows)}


def draw(text: Text, rows: list[Row]) -> None:
    """The figure: measured losses over sizes for each budget, the law's curves, the larger runs' forecasts."""
    lines, law = [], law_of(below(math.inf, rows))
    for flops in (*VALLEYS, *LARGER):
        own = sorted((r["parameters"], r["bits_per_byte"]) for r in rows if budget(r) == flops and r["seed"] == 0)
        curve = []
        for n in np.geomspace(3e4, 5e6, 60):
            # FLOPs a token over parameters, from the shape of nearest size: 6 and the attention
            cost = cost_of(min(SHAPES, key=lambda s, n=n: abs(math.log(cost_of(s, text).active / n))), text)
            data = flops / (cost.training_flops_full / cost.active * n) * text.bytes_per_token
            curve.append((math.log10(n), law.law.loss(n, data, text.bytes)))
        lines.append(svg.Line(f"law at {short(flops, 'FLOP')}", curve, "faint"))
        if own:
            lines.append(svg.Line(f"{short(flops, 'FLOP')}", [(math.log10(n), loss) for n, loss in own],
                                  "dots" if len(own) > 1 else "main"))
    losses = [y for line in lines if line.style != "faint" for _, y in line.points]
    figure = svg.curves("Bits per byte over parameters, each line one budget of FLOPs", lines, "parameters",
                        "bits per byte", y_range=(min(losses) - 0.05, max(losses) + 0.05),
                        x_text=lambda x: short(10**x), y_text=lambda y: f"{y:.2f}", height=420)
    write_bytes(FIGURE, svg.standalone(figure).encode())


def main() -> None:
    """Train what is missing within the minutes, or score what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/isoflop"))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further run after so long")
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="two runs of 1e10 FLOPs: does it work?")
    given = parser.parse_args()
    text, corpus = text_of(given.corpus)
    if given.score:
        rows = read(given.rows)
        draw(text, rows)
        record("isoflop", score(text, rows))
        return
    if given.tiny:
        with tempfile.TemporaryDirectory() as folder:
            few = [run_of(shape, 1e10, text) for shape in SHAPES[:2]]
            print(points_of(pilots(few, text, corpus, Path(folder), Path(folder) / "rows.jsonl")))
        return
    begun = time.monotonic()
    wanted = runs(text, given.rows)
    while time.monotonic() - begun < 60 * given.minutes:
        try:
            run = next(wanted)
        except StopIteration:
            break
        row, = pilots([run], text, corpus, given.work, given.rows)
        print(f"{row['dim']}x{row['layers']} {row['flops']:.2g} FLOPs seed {row['seed']}: {row['bits_per_byte']:.4f} "
              f"bits/byte, {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
