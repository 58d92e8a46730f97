"""A plan for devices that are not here: size, tokens, batch, rate, loss, the mesh that fits, time, energy, money.

    found = plan(parse("30 d"), "h100-sxm", 64, price=2.0)
    found.run, found.explain()

The law is Chinchilla's 240 runs refitted (plan/chinchilla.json: the refit of PUBLISHED constants with its bootstrap,
written by `python -m benchmarks.scaling_points`), in nats a token of a 32,000-piece vocabulary of web text: on other
text the loss differs, the best size hardly. Every size of `SIZES` is priced exactly on the meta device and laid out by
`train.placement` on the meshes of whole nodes that divide it; the fastest that fits counts. Its seconds count messages
after arithmetic. The range goes from published shares of peak (`plan.elsewhere.REACHED`) where all of them hide behind
arithmetic to the placement's own seconds, or the lowest published share.
"""
import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meristem.core.config import Part, to_dict
from meristem.core.errors import RequestError
from meristem.core.run import Data, Run, Train
from meristem.plan import energy, forecast
from meristem.plan.budget import Budget
from meristem.plan.cost import Cost, on_meta
from meristem.plan.devices import Device, device
from meristem.plan.elsewhere import PUE
from meristem.plan.elsewhere import REACHED as PUBLISHED
from meristem.plan.plan import Shape, Text, recipe
from meristem.plan.scaling import Law
from meristem.train.placement import REACHED, Placement, place

CHINCHILLA = Path(__file__).parents[1] / "plan" / "chinchilla.json"
VOCAB = 32_000
SIZES = tuple(Shape(dim, layers, 2048) for dim, layers in (
    (512, 8), (768, 12), (1024, 16), (1024, 24), (1536, 24), (2048, 24), (2560, 32), (4096, 32), (5120, 40), (6656, 60),
    (8192, 80), (12288, 96)))
PIPES = (1, 2, 4, 8, 16)
DRAWN = 0.6                             # of the rated watts, at least, are drawn while training
TEMPLATE = Run("llama", Part("llama"), train=Train(optimizer="adamw", schedule="cosine", compile=True))


@dataclass(frozen=True)
class Abroad:
    """What a budget buys on so many devices; `placement` says what lies where."""

    run: Run
    device: str
    devices: int
    parameters: int
    tokens: int
    flops: float
    loss: float                         # nats a token
    low: float                          # its 80 % interval
    high: float
    seconds: float
    seconds_low: float
    seconds_high: float
    memory: int                         # bytes of the fullest device
    mesh: str
    placement: Placement
    megawatt_hours: float | None = None                        # None: the maker rates no watts
    megawatt_hours_low: float | None = None
    megawatt_hours_high: float | None = None
    tonnes: float | None = None         # of CO2e
    dollars: float | None = None        # None: no price was given
    dollars_low: float | None = None
    dollars_high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return to_dict(self)

    def explain(self) -> list[str]:
        """Lines for people."""
        t, days = self.run.train, 86_400
        spent = "" if self.megawatt_hours is None else (
            f"; {self.megawatt_hours:,.3g} MWh ({self.megawatt_hours_low:,.3g} to {self.megawatt_hours_high:,.3g}, "
            f"overhead {PUE} included), {self.tonnes:,.3g} t CO2e")
        money = "" if self.dollars is None else (
            f"; {self.dollars:,.0f} dollars ({self.dollars_low:,.0f} to {self.dollars_high:,.0f})")
        return [
            f"{self.parameters / 1e9:.3g} B parameters ({self.run.model.fields['layers']} layers of width "
            f"{self.run.model.fields['dim']}), {self.tokens / 1e9:.3g} B tokens ({self.tokens / self.parameters:.3g} a "
            f"parameter), {self.flops:.3g} FLOPs",
            f"{t.steps:,} steps of {t.batch:,} x {t.context} tokens, learning rate {t.lr:.2g}, {t.optimizer}, "
            f"{t.dtype}",
            f"forecast: {self.loss:.3f} nats a token ({self.low:.3f} to {self.high:.3f} with 80 %)",
            f"{self.seconds / days:.3g} days ({self.seconds_low / days:.3g} to {self.seconds_high / days:.3g})"
            + spent + money, *self.placement.explain()[:-1]]


def chinchilla() -> forecast.Forecast:
    """The refit of Chinchilla's runs with its bootstrap."""
    return forecast.stored(Law(**json.loads(CHINCHILLA.read_text(encoding="utf-8"))))


def plan(budget: Budget, name: str, devices: int, *, price: float = 0.0, grid: str = "world",
         law: forecast.Forecast | None = None) -> Abroad:
    """The best run of a budget on `devices` devices called `name`; `price` in dollars a device-hour.

    RequestError: an unknown device, a loss that nothing reaches, a budget too small, or no mesh that fits.
    """
    kind, law = device(name), law or chinchilla()
    if devices < 1:
        raise RequestError(f"--devices {devices} must be at least 1")
    asked = budget.priced(price, devices)
    reached = REACHED * kind.flops("bfloat16" if "bfloat16" in kind.peak else "float32") * devices
    flops = asked.flops or (cheapest(law, asked.loss) if asked.loss else asked.seconds * reached)
    found = _best(flops, name, kind, devices, law)
    if asked.seconds:                                          # messages and waiting take their share: again with it
        found = _best(flops * asked.seconds / found.seconds, name, kind, devices, law)
    return _priced(found, kind, price, grid)


def cheapest(law: forecast.Forecast, loss: float) -> float:
    """FLOPs of the least budget whose optimum is forecast to reach a loss; RequestError where none does."""
    if loss <= law.law.E * 1.001:
        raise RequestError(f"no budget reaches {loss:g} nats a token: the law's floor is {law.law.E:.3f}")
    low, high = 1e15, 1e32
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if law.law.loss(*law.law.optimal(middle)) <= loss else (middle, high)
    return high


def meshes(shape: Shape, kind: Device, devices: int) -> Iterator[list[tuple[int, int, int]]]:
    """(dp, tp, pp) of whole nodes that divide a shape's key heads and layers; those without stages first."""
    groups = shape.part(TEMPLATE.model).fields["groups"]
    for pp in (p for p in PIPES if shape.layers % p == 0):
        yield [(devices // tp // pp, tp, pp) for tp in (1, 2, 4, 8)
               if tp <= min(kind.node, devices) and groups % tp == 0 and devices % (tp * pp) == 0]


def fastest(shape: Shape, tokens: float, name: str, kind: Device, devices: int) -> tuple[Run, Placement] | None:
    """The run of a shape on the mesh that trains it fastest within memory, with recomputation where it must be."""
    dtype: Any = "bfloat16" if "bfloat16" in kind.peak else "float32"
    text = Text("", round(tokens), round(tokens), VOCAB, Part("bpe", {"vocab": VOCAB}))
    template = replace(TEMPLATE, train=replace(TEMPLATE.train, dtype=dtype))
    plain = recipe(shape, tokens, text, template)
    for several in meshes(shape, kind, devices):
        found = []
        for dp, tp, pp in several:
            for recompute in (False, True):
                batch = dp * max(1, round(plain.train.batch / dp), pp)         # a row on each device at a time
                train = replace(plain.train, batch=batch, micro=dp, mesh=f"pp={pp},dp={dp},tp={tp}", compile=False,
                                steps=max(1, round(tokens / batch / plain.train.context)), recompute=recompute)
                run = replace(plain, train=train, data=Data(codec=text.codec))
                try:
                    placed = place(run, name, VOCAB)
                except RequestError:
                    break
                if sum(placed.fullest.memory.values()) <= placed.memory:
                    found.append((run, placed))
                    break
        if found:                                              # stages are for what fits no other way
            return min(found, key=lambda each: each[0].train.steps * each[1].step_seconds)
    return None


def _best(flops: float, name: str, kind: Device, devices: int, law: forecast.Forecast) -> Abroad:
    """The size of least forecast loss for so many FLOPs that some mesh holds."""
    def guess(shape: Shape) -> float:
        n = 11 * shape.layers * shape.dim**2 + VOCAB * shape.dim               # within 5 %, to look at few exactly
        return law.law.loss(n, flops / 6 / n)
    exact = {shape: _cost(shape) for shape in sorted(SIZES, key=guess)[:4]}
    order = sorted(exact, key=lambda s: law.law.loss(exact[s].active, flops / exact[s].training_flops))
    for shape in order:                                        # a size that is not the best, where that fits nowhere
        cost = exact[shape]
        tokens = flops / cost.training_flops
        if tokens < 100 * shape.context or (made := fastest(shape, tokens, name, kind, devices)) is None:
            continue
        run, placed = made
        t = run.train
        used = t.steps * t.batch * t.context
        low, high = law.interval(cost.active, used)
        seconds = t.steps * placed.step_seconds
        least, _, most = (used * cost.training_flops_full / (kind.flops(t.dtype) * devices * share)
                          for share in reversed(PUBLISHED))
        return Abroad(run, name, devices, cost.parameters, used, used * cost.training_flops,
                      law.law.loss(cost.active, used), low, high, seconds, min(least, seconds), max(most, seconds),
                      sum(placed.fullest.memory.values()), placed.mesh, placed)
    raise RequestError(f"{flops:.3g} FLOPs on {devices} x {name}: no model of the right size trains there (too few "
                       "tokens, or no mesh whose memory holds it); give another budget or more devices")


def _priced(found: Abroad, kind: Device, price: float, grid: str) -> Abroad:
    """With energy, carbon and money, each with its range."""
    hours, low, high = (each / 3600 * found.devices for each in (found.seconds, found.seconds_low, found.seconds_high))
    if kind.watts:
        used, least, most = (energy.megawatt_hours(each, kind.watts, PUE) for each in (hours, low * DRAWN, high))
        found = replace(found, megawatt_hours=used, megawatt_hours_low=least, megawatt_hours_high=most,
                        tonnes=energy.tonnes(used, energy.factor(grid) / 1000))
    if price:
        found = replace(found, dollars=hours * price, dollars_low=low * price, dollars_high=high * price)
    return found


@functools.cache
def _cost(shape: Shape) -> Cost:
    return Cost.of(on_meta(shape.part(TEMPLATE.model).with_fields(vocab=VOCAB, context=shape.context)), shape.context)
