"""From a budget to a run: the size, tokens, batch and learning rate of least forecast loss on this machine.

    text = Text.of(corpus, shards, codec, Part("bpe", {"vocab": 4096}))
    plan = make(Budget(seconds=240), text, machine.measured(), rate=probe.tokens_per_second)
    plan.run, plan.explain()

A budget is seconds, FLOPs, dollars at a price an hour, or a loss to reach in the least time.

Every shape of `SHAPES` is priced exactly (`plan.cost`), its rate predicted from the machine's measured peak, its loss
from the project's own scaling law with repeats discounted (`plan.scaling`); the best one is then really timed by
`rate`, which corrects the predictions, until the best shape is one that was timed. Batch and learning rate follow Li
et al. 2025, "Step Law", https://arxiv.org/abs/2503.04715: B = 0.58 D^0.571 tokens, lr = 1.79 N^-0.713 D^0.307 (N
inside the blocks). They fitted models of 60 M and more; the ladder that our law rests on ran under this very rule, so
its forecasts include it.
"""
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from meristem.codecs.base import Codec
from meristem.core.config import Part, to_dict
from meristem.core.errors import RequestError
from meristem.core.machine import Machine
from meristem.core.run import Data, Run, Train
from meristem.corpus.store import Corpus
from meristem.data.shards import Shards
from meristem.plan import energy, forecast, scaling
from meristem.plan.budget import Budget
from meristem.plan.cost import Cost, on_meta

COMPILE_SECONDS = 20.0                  # torch.compile of one block and the loss: 12 to 22 s here
WARM_SECONDS = 4.0                      # the same with the kernels cached on disk, and building the model
WARM_EAGER = 1.0                        # building the model alone
COMPILE_FROM = 80.0                     # below this budget a third more speed does not pay for compiling
RESERVE = 0.06                          # of the budget, for validation, samples and checkpoints
MIN_STEPS = 60                          # fewer updates are no training: the warm-up alone is ten
MIN_TOKENS = 2048                       # an update: smaller ones lose 10 to 20 % of the rate
MEMORY_SHARE = 0.7                      # of the machine's memory that training may take
PROBES = 3
PROBE_SHARE = 0.15                      # of the budget: after that no further shape is timed
DECADE = 3e8                            # seconds: where the search for a budget ends
EAGER = 0.65                            # rate without compilation over the rate with it
BUSY = 0.4                              # of the predicted rate: worth a word
RATE_ERROR = 0.15                       # neighbours on a shared machine: the tokens of a budget are only known so well
Rate = Callable[[Run], float]
# Muon at the rule's rate: 1.83 bits per byte (1 M parameters, 1 M tokens); AdamW, the best of three rates, 2.06
# (docs/log.md). A long linear fall to almost nothing: Bergsma et al. 2025, https://arxiv.org/abs/2502.15938.
TEMPLATE = Run("llama", train=Train(optimizer="muon", schedule="wsd", decay=0.6, floor=0.02))


@dataclass(frozen=True)
class Text:
    """What there is to train on: training bytes and tokens of one corpus under one codec."""

    corpus: str
    bytes: int
    tokens: int
    vocab: int
    codec: Part = field(default_factory=lambda: Part("bpe", {"vocab": 4096}))
    held_out: float = 0.0               # bytes a token of the validation split; 0 = as in training

    @classmethod
    def of(cls, corpus: Corpus, shards: Shards, codec: Codec, part: Part) -> "Text":
        """The training split of a tokenised corpus; `part` is what the recipe will call the codec."""
        split, validation = shards.split("train"), shards.split("validation")
        return cls(str(corpus.folder), split.bytes, len(split.tokens), codec.vocab, part,
                   validation.bytes / max(1, len(validation.tokens)))

    @property
    def bytes_per_token(self) -> float:
        """How much text a token stands for."""
        return self.bytes / self.tokens


@dataclass(frozen=True)
class Shape:
    """Width, depth and context of a decoder; the rest follows: head size 32 or 64, grouped queries, 8/3 gated hidden
    units."""

    dim: int
    layers: int
    context: int = 256

    def part(self, template: Part) -> Part:
        """The model's `Part`: this shape over `template`'s other fields (the family's name, qk_norm, theta)."""
        heads = self.dim // (32 if self.dim < 256 else 64)
        groups = max(1, heads // (2 if self.dim < 1024 else 4))
        return Part(template.name, {
            "tied": True, "qk_norm": True, **template.fields, "dim": self.dim, "layers": self.layers, "heads": heads,
            "groups": groups, "hidden": 64 * round(self.dim / 24)})

    @property
    def name(self) -> str:
        """"256x6": width x layers."""
        return f"{self.dim}x{self.layers}"


# From 0.4 M to 1 B parameters in steps of about 1.6.
SHAPES = tuple(Shape(*s) for s in (
    (64, 3), (64, 6), (128, 3), (128, 6), (192, 4), (192, 8), (256, 6), (256, 9), (384, 6), (384, 9), (512, 8, 512),
    (512, 12, 512),
    (640, 12, 512), (768, 12, 512), (768, 18, 1024), (1024, 16, 1024), (1280, 16, 1024), (1536, 18, 1024),
    (1792, 20, 1024),
    (2048, 20, 1024)))


@dataclass(frozen=True)
class Plan:
    """What will be trained and what to expect of it; `why` says so in words."""

    run: Run
    budget_seconds: float
    seconds: float                      # expected, compilation and reserve included
    tokens: int
    epochs: float                       # passes over the text
    parameters: int
    flops_per_token: float              # training, causal half of attention
    tokens_per_second: float
    rate_measured: bool
    share_of_peak: float
    bits_per_byte: float                # forecast for the validation split
    low: float                          # its 80 % interval
    high: float
    nats_per_token: float
    memory: int                         # bytes, estimated
    machine_memory: int
    watt_hours: float
    energy: str
    law: str
    why: tuple[str, ...] = ()
    flops: float = 0.0
    watt_hours_low: float = 0.0
    watt_hours_high: float = 0.0
    grams: float = 0.0                  # of CO2e
    dollars: float | None = None        # None: no price was given
    mesh: str = "dp=1"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as plan.json holds them."""
        return to_dict(self)

    def explain(self) -> list[str]:
        """The plan in a few lines of text."""
        model, train = self.run.model.fields, self.run.train
        return [
            f"{self.parameters / 1e6:.3g} M parameters ({model['layers']} layers of width {model['dim']}), "
            f"{self.tokens / 1e6:.3g} M tokens ({self.tokens / self.parameters:.2g} a parameter, "
            f"{self.epochs:.2g} passes over the text)",
            f"{train.steps} steps of {train.batch} x {train.context} tokens, learning rate {train.lr:.2g}, "
            f"{train.optimizer}, {train.dtype}{', compiled' if train.compile else ''}",
            f"{self.tokens_per_second:,.0f} tokens/s {'measured' if self.rate_measured else 'predicted'} "
            f"({self.share_of_peak:.0%} of peak), {self.flops:.3g} FLOPs: {self.seconds:.0f} s"
            + (f" of {self.budget_seconds:.0f} s" if self.budget_seconds else ""),
            f"forecast: {self.bits_per_byte:.3f} bits per byte ({self.low:.3f} to {self.high:.3f} with 80 %), "
            f"{self.nats_per_token:.3f} nats a token",
            f"memory about {self.memory / 1e9:.2g} of {self.machine_memory / 1e9:.3g} GB, one process of all threads "
            f"(mesh {self.mesh}); energy {self.energy}",
            *([f"money: {self.dollars:.2f} dollars"] if self.dollars is not None else []), *self.why]


@dataclass(frozen=True)
class Option:
    """One shape within a budget."""

    shape: Shape
    cost: Cost
    run: Run
    rate: float
    loss: float
    memory: int


def make(budget: Budget | float, text: Text, machine: Machine, rate: Rate | None = None, *,
         law: scaling.Law | None = None, template: Run | None = None, grid: str = "world", price: float = 0.0) -> Plan:
    """Plan a training run of a budget (a number: seconds of wall-clock), probes included.

    `rate` times a candidate run in tokens/s (`train.probe.tokens_per_second`); without it rates are predicted.
    `law` may keep its refits (`forecast.Forecast.to_law`). `template` holds what the plan does not decide (name, seed,
    family, optimizer, schedule); `price` is in dollars an hour. RequestError when nothing fits.
    """
    law = law or scaling.own()
    template = template or TEMPLATE
    asked = (budget if isinstance(budget, Budget) else Budget(seconds=budget)).priced(price)
    if law.unit != "bits/byte":
        raise ValueError(f"plans need a law in bits/byte, this one is in {law.unit}")
    if text.tokens < 2 * MIN_TOKENS:
        raise RequestError(f"{text.corpus or 'the corpus'} has {text.tokens} tokens of training text; "
                           f"a run needs at least {2 * MIN_TOKENS}: add files")
    search = Search(text, machine, law, replace(template, train=replace(template.train, dtype=machine.best_dtype)))
    while True:
        options = search.options(asked)
        if not options:
            raise search.too_small(asked)
        best = min(options, key=search.worth(asked))
        if rate is None or best.shape in search.timed:
            break
        if len(search.timed) == PROBES or 0 < PROBE_SHARE * asked.seconds < search.spent:  # settle on a measured one
            best = min((o for o in options if o.shape in search.timed), key=search.worth(asked), default=best)
            break
        search.probe(best, rate)
    return _plan(best, options, asked, search, grid, price)


@dataclass
class Search:
    """The shapes of a budget, their predicted rates corrected by what was timed so far."""

    text: Text
    machine: Machine
    law: scaling.Law
    template: Run
    timed: dict[Shape, float] = field(default_factory=dict)
    calibration: float = 1.0            # timed over predicted rate
    spent: float = 0.0                  # seconds of probing

    def probe(self, option: Option, rate: Rate) -> None:
        """Time one option; the clock runs on the budget."""
        started = time.perf_counter()
        self.timed[option.shape] = rate(option.run)
        self.spent += time.perf_counter() - started
        self.calibration *= self.timed[option.shape] / option.rate

    def options(self, budget: Budget) -> list[Option]:
        """Every shape that trains at least `MIN_STEPS` updates in the budget and in memory.

        Once a probe was paid for, a quarter of them will do: a busy machine should get a short run, not a refusal.
        """
        least = MIN_STEPS // 4 if self.timed else MIN_STEPS
        every = [self.option(shape, budget) for shape in SHAPES]
        return [o for o in every if o and o.run.train.steps >= least and o.memory <= MEMORY_SHARE * self.machine.memory]

    def worth(self, budget: Budget) -> Callable[[Option], float]:
        """What the best option has least of: the loss, or the time to a loss."""
        return (lambda o: _tokens(o.run) / o.rate) if budget.loss else (lambda o: o.loss)

    def option(self, shape: Shape, budget: Budget) -> Option | None:
        """One shape, trained for what is left of the budget; None when it never reaches the loss that is asked for."""
        compiled = self.template.train.compile and self.machine.compiler and not 0 < budget.seconds < COMPILE_FROM
        cost = _cost(shape, self.template.model, self.text.vocab)
        guess = self.calibration * predicted_share(shape.dim, compiled) * self.machine.peak / cost.training_flops
        rate = self.timed.get(shape, guess)
        template = replace(self.template, train=replace(self.template.train, compile=compiled))
        tokens = budget.flops / cost.training_flops if budget.flops else rate * self.left(budget.seconds, compiled)
        if budget.loss:
            each, unique = self.text.bytes_per_token, self.text.bytes
            found = self.law.data_for(budget.loss, cost.active, unique)
            if found is None or found > DECADE * rate * each:
                return None
            tokens = max(found / each, 1.01 * MIN_STEPS * 4 * shape.context)
        run = recipe(shape, tokens, self.text, template)
        loss = self.law.loss(cost.active, _tokens(run) * self.text.bytes_per_token, self.text.bytes)
        run, memory = _within_memory(run, cost, self.machine)
        return Option(shape, cost, run, rate, loss, memory)

    def left(self, seconds: float, compiled: bool) -> float:
        """Seconds for steps: a probe has paid for compilation, whose kernels are then cached."""
        return max(0.0, seconds * (1 - RESERVE) - self.spent - self.start(compiled))

    def start(self, compiled: bool) -> float:
        """Seconds before the first step."""
        return WARM_EAGER if not compiled else WARM_SECONDS if self.timed else COMPILE_SECONDS

    def too_small(self, budget: Budget) -> RequestError:
        """The error that names the smallest budget that works, found by trying."""
        if budget.loss:
            return RequestError(f"no model that trains here is forecast to reach {budget.loss:g} bits per byte on this "
                                f"text (the law's floor is {self.law.E:.3f}); ask for a higher loss or bring more text")
        if budget.flops:
            least = min(MIN_STEPS * MIN_TOKENS * _cost(s, self.template.model, self.text.vocab).training_flops
                        for s in SHAPES)
            return RequestError(f"a budget of {budget.flops:g} FLOPs is too small, or this machine's memory: "
                                f"{MIN_STEPS} steps of the smallest model take about {least:.2g}; try --budget "
                                f"'{1.1 * least:.2g} FLOPs'")
        seconds, trial = budget.seconds, 5.0
        while trial < DECADE and (trial <= seconds or not self.options(Budget(seconds=trial))):
            trial = 5 * math.ceil(trial * 1.05 / 5 + 0.01)
        if trial >= DECADE:
            return RequestError(f"nothing of {len(SHAPES)} model sizes trains on this machine with "
                                f"{self.machine.memory / 1e9:.2g} GB of memory; "
                                "use a smaller vocabulary or a larger machine")
        return RequestError(f"a budget of {seconds:g} s is too small to train anything here: {MIN_STEPS} steps of "
                            f"the smallest model take about {trial:g} s in all; try --budget {trial:g}s")


def recipe(shape: Shape, tokens: float, text: Text, template: Run) -> Run:
    """The run that trains `shape` on about `tokens` tokens: batch and learning rate by the step law, whole steps."""
    context = min(shape.context, max(32, text.tokens // 16))
    inner = _cost(shape, template.model, text.vocab).matrices
    wanted = max(MIN_TOKENS, 0.58 * max(tokens, 1.0) ** 0.571)
    batch = 4 * max(1, round(wanted / context / 4))
    steps = int(tokens // (batch * context))
    rise = max(10, steps // 20)
    lr = min(2e-2, max(1e-4, 1.79 * inner**-0.713 * max(tokens, 1.0) ** 0.307))
    train = replace(template.train, steps=max(steps, 1), batch=batch, context=context, lr=float(f"{lr:.3g}"),
                    warmup=min(rise, 2000))
    return replace(template, model=shape.part(template.model), train=train,
                   data=Data(corpus=text.corpus, codec=text.codec))


def predicted_share(dim: int, compiled: bool) -> float:
    """Share of the machine's peak that training at this width reaches, before it was timed.

    Drawn through measurements on two cores, compiled: about 20 % at width 128, 35 % at 256, 75 % at 768.
    """
    return 0.78 / (1 + (260 / dim) ** 1.25) * (1.0 if compiled else EAGER)


def _within_memory(run: Run, cost: Cost, machine: Machine) -> tuple[Run, int]:
    """The run with the largest micro-batch (a divisor of the batch) that fits, and the bytes it takes."""
    memory = 0
    for micro in [run.train.batch // k for k in range(1, run.train.batch + 1) if run.train.batch % k == 0]:
        memory = sum(cost.memory(micro * run.train.context, run.train.optimizer, run.train.ema > 0).values())
        if memory <= MEMORY_SHARE * machine.memory:
            return replace(run, train=replace(run.train, micro=0 if micro == run.train.batch else micro)), memory
    return run, memory


def _tokens(run: Run) -> int:
    return run.train.steps * run.train.batch * run.train.context


def _plan(best: Option, options: Sequence[Option], budget: Budget, search: Search, grid: str, price: float) -> Plan:
    text, machine, law = search.text, search.machine, forecast.stored(search.law)
    tokens, seconds = _tokens(best.run), budget.seconds
    each, n = text.bytes_per_token, best.cost.active
    low = law.interval(n, tokens * each * (1 + RATE_ERROR * bool(seconds)), text.bytes)[0]
    high = law.interval(n, tokens * each * (1 - RATE_ERROR * bool(seconds)), text.bytes)[1]
    train = tokens / best.rate
    total = seconds - search.left(seconds, best.run.train.compile) + train if seconds else \
        search.spent + search.start(best.run.train.compile) + train / (1 - RESERVE)
    used = energy.estimate(total, grid=grid)
    return Plan(
        run=best.run, budget_seconds=seconds, seconds=total, tokens=tokens, epochs=tokens / text.tokens,
        parameters=best.cost.parameters,
        flops_per_token=best.cost.training_flops, tokens_per_second=best.rate, rate_measured=best.shape in search.timed,
        share_of_peak=best.rate * best.cost.training_flops / machine.peak, bits_per_byte=best.loss, low=low, high=high,
        nats_per_token=best.loss * math.log(2) * (text.held_out or each), memory=best.memory,
        machine_memory=machine.memory, watt_hours=used.joules / 3600, energy=used.line(), law=search.law.source,
        why=tuple(_why(best, options, tokens * each, search)), flops=tokens * best.cost.training_flops,
        watt_hours_low=used.low / 3600, watt_hours_high=used.high / 3600, grams=used.grams,
        dollars=total / 3600 * price if price else None)


def _why(best: Option, options: Sequence[Option], data: float, search: Search) -> list[str]:
    text, law = search.text, search.law
    lines = []
    by_size = sorted(options, key=lambda o: o.cost.parameters)
    at = by_size.index(best)
    around = [o for o in by_size[max(0, at - 1):at + 2] if o is not best]
    if around:
        lines.append("why this size: " + " and ".join(
            f"{o.cost.parameters / 1e6:.3g} M would reach {o.loss:.3f} in {_tokens(o.run) / o.rate:.0f} s"
            for o in around) + f", this one {best.loss:.3f} in {_tokens(best.run) / best.rate:.0f} s")
    if data > text.bytes:
        worth = scaling.effective(data, text.bytes)
        lines.append(f"the text is repeated: {data / 1e6:.3g} MB read are worth {worth / 1e6:.3g} MB "
                     "of new text; more text would help")
    if search.calibration < BUSY:
        lines.append(f"this machine trained at {search.calibration:.0%} of the predicted rate: "
                     "other work may be running")
    for name, value, unit in (("parameters", best.cost.active / 1e6, "M parameters"), ("data", data / 1e6, "MB")):
        low, high = (x / 1e6 for x in law.facts.get(name, (0.0, math.inf)))
        if not low <= value <= high:
            lines.append(f"beyond the law's runs ({low:.3g} to {high:.3g} {unit}): the interval is widened")
    return lines


@functools.cache
def _cost_of(shape: Shape, name: str, fields: tuple[tuple[str, Any], ...], vocab: int) -> Cost:
    part = shape.part(Part(name, dict(fields)))
    return Cost.of(on_meta(part.with_fields(vocab=vocab, context=shape.context)), shape.context)


def _cost(shape: Shape, template: Part, vocab: int) -> Cost:
    return _cost_of(shape, template.name, tuple(sorted(template.fields.items())), vocab)
