"""The whole lifecycle once, within a budget of time: curate, tokenise, plan, pretrain, adapt, evaluate, account.

    meristem quickstart --budget 5m
    facts = quickstart([], Path("runs/quickstart"), 300.0)

Every stage is a public function of its own folder; here is only their order and their share of the time. Each
recognises by hashes what it has already done, so the same call again goes on where it was. The folder:

    OUT/quickstart.json   what was asked, seconds of each stage
    OUT/corpus/  plan.json  base/  fill/ (run folders)  report.html
"""
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meristem.core.config import Part, edit, from_dict, to_dict
from meristem.core.errors import RequestError
from meristem.core.files import claim, digest_bytes, read_json, write_json
from meristem.core.progress import SILENT, Progress
from meristem.core.run import Run

if TYPE_CHECKING:                       # `meristem list` reads this folder and must not pay for torch
    from meristem.corpus.store import Corpus
    from meristem.plan.budget import Budget
    from meristem.plan.plan import Plan, Rate

STATE, PLAN = "quickstart.json", "plan.json"
SMALLEST = 60.0                         # seconds; below it compiling and scoring leave nothing to train with
BYTES_PER_SECOND = 100_000              # of corpus for each second of budget: more than training can read in that time
VOCAB = 4096
TASKS = ("bits_per_byte", "function_bodies", "parses_as_python")
PILOTS = 6                              # tiny runs before a long one
PILOT_RATE = 0.15                       # of peak, by so small models
VALIDATION_TOKENS = 1 << 17             # a validation's, in train.sources
COMPILE_SECONDS = 20.0
FULL_ITEMS = 240.0                      # seconds of budget from which every task is asked its full count of items
# Shares of what is left of the budget after the stages before: measured so that 90 s and 5 min both end on time.
PRETRAIN, ADAPT = 0.62, 0.45


@dataclass
class Ledger:
    """What the quickstart folder remembers between calls: the request, the corpus, and the seconds each stage took."""

    path: Path
    facts: dict[str, Any]
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        """Seconds of all stages, over all calls."""
        return sum(self.seconds.values())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to stage `name`, also when it is interrupted."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 2)
            self.write()

    def write(self, **more: Any) -> None:
        """Keep the facts on disk."""
        self.facts |= more
        write_json(self.path, {**self.facts, "seconds": self.seconds})


def timed(run: Run) -> float:
    """Tokens per second of `run` on this machine, from a few real steps of it."""
    from meristem.train.probe import tokens_per_second
    return tokens_per_second(run)


def quickstart(paths: Sequence[Path], out: Path, budget_seconds: float, *, fresh: bool = False,
               edits: Mapping[str, Any] | None = None, limit: int = 0, rate: "Rate" = timed,
               progress: Progress = SILENT) -> dict[str, Any]:
    """Run the lifecycle on `paths` (none: the Python standard library) in `out`; returns the facts of its summary.

    `edits` change the planned run (field.path -> value) and `limit` the items a task is asked; `rate`
    replaces the timing of shapes. RequestError: a budget that is too small, an `out` that holds something else.
    """
    if not budget_seconds >= SMALLEST:
        raise RequestError(f"a budget of {budget_seconds:g} s is too small: compiling and scoring alone take most of "
                           f"it; the smallest that works is --budget {SMALLEST:g}s")
    ledger = _open(out, {"paths": [str(p.resolve()) for p in paths], "budget_seconds": budget_seconds}, fresh, progress)
    corpus = _corpus(paths, out, budget_seconds, ledger, progress)
    run = _plan(corpus, out, budget_seconds, edits or {}, rate, ledger, progress)
    from meristem.plan import history
    from meristem.train.run import pretrain
    with ledger.stage("pretrain"):
        base = pretrain(run, out / "base", progress=progress, allow_drift=True)
    history.settle(base, out / PLAN)
    fill = _adapt(run, base, out, budget_seconds, edits or {}, ledger, progress)
    limit = limit or (0 if budget_seconds >= FULL_ITEMS else max(24, int(0.3 * budget_seconds)))
    with ledger.stage("evaluate"):
        scores = _evaluate(corpus, base, fill, limit, progress)
    with ledger.stage("account"):
        report = _account(out, base, fill, progress)
    facts = {"out": str(out), "corpus": str(corpus.folder), "base": str(base), "fill": str(fill) if fill else None,
             "report": str(report), "scores": scores, "seconds": dict(ledger.seconds),
             "total_seconds": round(ledger.spent, 1)}
    return {**facts, "summary": summary(facts)}


def make_plan(corpus: "Corpus", budget: "Budget | float", *, rate: "Rate | None" = timed, pilots: int = 0,
              price: float = 0.0, grid: str = "world", progress: Progress = SILENT) -> "Plan":
    """The plan for training on `corpus` for a budget (a number: seconds) on this machine; `rate` times shapes, None
    guesses.

    `pilots`: tiny runs on this corpus that the forecast rests on, 4 to 8; 0 = the package's own law; -1 = as many as
    the corpus keeps, else six of them where they take at most a twentieth of the time.
    """
    from meristem.core import machine
    from meristem.data.shards import tokenise
    from meristem.plan import plan
    from meristem.plan.budget import Budget
    from meristem.train import pilots as tiny
    from meristem.train.run import codec_of
    part = Part("bpe", {"vocab": VOCAB})
    codec = codec_of(part, corpus, progress)
    shards = tokenise(corpus, codec, progress)
    text, here = plan.Text.of(corpus, shards, codec, part), machine.measured()
    asked = (budget if isinstance(budget, Budget) else Budget(seconds=budget)).priced(price)
    if pilots < 0:
        kept = tiny.there(corpus, codec.vocab)
        cheap = tiny.FLOPS / (PILOT_RATE * here.peak) < 0.05 * asked.seconds
        pilots = min(kept, len(tiny.SET)) if kept >= tiny.LEAST else PILOTS if cheap or asked.flops > 20 * tiny.FLOPS \
            else 0
    template = replace(plan.TEMPLATE, train=replace(plan.TEMPLATE.train, dtype=here.best_dtype))
    law = tiny.law_of(text, corpus, template, pilots, progress).to_law() if pilots else None
    progress.stage("plan")
    return plan.make(asked, text, here, rate, law=law, price=price, grid=grid)


def summary(facts: Mapping[str, Any]) -> str:
    """What to look at and what to do next, for a person."""
    model = facts["fill"] or facts["base"]
    rows = [f"  {s['model']:<5} {s['name']}: {s['value']:.4g} {s['unit']}, 95 % interval "
            f"{s['interval']['low']:.4g} to {s['interval']['high']:.4g}, n {s['n']}"
            + (f" ({s['baseline']['what']}: {s['baseline']['value']:.4g})" if s["baseline"] else "")
            + (f"; {s['paired']['difference']:+.4g} against {s['paired']['against']}, p {s['paired']['p']:.2g}"
               if s["paired"] else "")
            for s in facts["scores"]]
    return "\n".join([f"Done in {facts['total_seconds']:.0f} s.", *rows, "", "Next:",
                      f"  meristem chat {facts['base']}", f"  meristem generate {model} 'def add(a, b):'",
                      f"  open {facts['report']}"])


def _open(out: Path, request: dict[str, Any], fresh: bool, progress: Progress) -> Ledger:
    """Claim the folder: empty, or holding this same request; anything else is refused and left as it is."""
    path = out / STATE
    if fresh and path.is_file():
        shutil.rmtree(out)
    claim(out, "quickstart", lambda folder: path.is_file())
    old = read_json(path) if path.is_file() else None
    if old:
        other = "; ".join(f"{key} is {old.get(key)!r} there, {value!r} here"
                          for key, value in request.items() if old.get(key) != value)
        if other:
            raise RequestError(f"{out} holds another quickstart ({other}); choose another --out, or add --fresh")
        progress.say(f"going on with {out}; finished stages are not repeated")
    ledger = Ledger(path, old or request, progress, dict(old["seconds"]) if old else {})
    ledger.facts.pop("seconds", None)
    ledger.write()
    return ledger


def _corpus(paths: Sequence[Path], out: Path, budget: float, ledger: Ledger, progress: Progress) -> "Corpus":
    """Curate and tokenise; RequestError when the files are not those that the folder was begun with."""
    from meristem.corpus.curate import curate
    from meristem.corpus.find import standard_library
    from meristem.data.shards import tokenise
    from meristem.train.run import codec_of
    with ledger.stage("curate"):
        limit = int(budget * BYTES_PER_SECOND)
        corpus = curate(list(paths) or standard_library(), out / "corpus", limit_bytes=limit, progress=progress,
                        expect=ledger.facts.get("corpus", ""))
        ledger.write(corpus=corpus.hash)
    with ledger.stage("tokenise"):
        tokenise(corpus, codec_of(Part("bpe", {"vocab": VOCAB}), corpus, progress), progress)
    return corpus


def _plan(corpus: "Corpus", out: Path, budget: float, edits: Mapping[str, Any], rate: "Rate", ledger: Ledger,
          progress: Progress) -> Run:
    """The run of the plan on file when that answers this corpus, budget and edits; else of a new plan."""
    key = digest_bytes(corpus.hash, repr(budget), repr(sorted(edits.items())))
    path = out / PLAN
    if path.is_file() and (old := read_json(path)).get("key") == key:
        return from_dict(Run, old["run"])
    with ledger.stage("plan"):
        share = (budget - ledger.spent) * PRETRAIN
        try:
            made = make_plan(corpus, share, rate=rate, progress=progress)
        except RequestError as error:
            raise RequestError(f"of --budget {budget:g}s, {share:.0f} s are pretraining's share: {error}") from None
        for line in made.explain():
            progress.say(line)
        checks = _validations(made.seconds, made.tokens_per_second)
        steps = made.run.train.steps
        rhythm = {"train.validate_every": -(-steps // checks), "train.sample_every": -(-steps // 6)}
        run = edit(replace(made.run, name="quickstart"), {**rhythm, **edits})
        nats = made.nats_per_token / made.bits_per_byte        # a bit per byte in nats per token
        write_json(path, {**made.to_dict(), "run": to_dict(run), "key": key, "loss": made.nats_per_token,
                          "loss_low": made.low * nats, "loss_high": made.high * nats})
    return run


def _adapt(base_run: Run, base: Path, out: Path, budget: float, edits: Mapping[str, Any], ledger: Ledger,
           progress: Progress) -> Path | None:
    """The LoRA run on function bodies, as long as the budget allows; None for a corpus without such functions."""
    from meristem.corpus.store import Corpus
    from meristem.data.examples import function_bodies
    from meristem.recipes import language
    from meristem.train.run import pretrain
    folder = out / "fill"
    with ledger.stage("adapt"):
        if (folder / "recipe.json").is_file():
            begun = from_dict(Run, read_json(folder / "recipe.json"))
            return pretrain(begun, folder, progress=progress, allow_drift=True)
        corpus = Corpus.open(Path(base_run.data.corpus))
        if not (function_bodies(corpus, "train") and function_bodies(corpus, "validation")):
            progress.warn("no documented Python functions in this corpus: nothing to adapt to, only the base is judged")
            return None
        t, result = base_run.train, read_json(base / "result.json")
        rate = result["tokens"] / result["train_seconds"]
        seconds = (budget - ledger.spent) * ADAPT
        compiled = t.compile and seconds >= 3 * COMPILE_SECONDS      # LoRA's layers are other code than the base's
        steps = max(8, int((seconds - COMPILE_SECONDS * compiled) * rate / (t.batch * t.context)))
        run = edit(language.function_bodies(), {
            "data.corpus": base_run.data.corpus, "base": str(base / "model"), "train.batch": t.batch,
            "train.micro": t.micro, "train.context": t.context, "train.dtype": t.dtype, "train.compile": compiled,
            "train.steps": steps, "train.warmup": min(10, steps // 10 + 1),
            "train.validate_every": -(-steps // _validations(seconds, rate)),
            **{key: value for key, value in edits.items() if key.startswith("train.")}})
        return pretrain(run, folder, progress=progress, allow_drift=True)


def _validations(seconds: float, rate: float) -> int:
    """How many validations a run can afford: each reads 131 k tokens, about three times as fast as training would."""
    return max(1, min(10, int(0.05 * seconds * 3 * rate / VALIDATION_TOKENS)))


def _evaluate(corpus: "Corpus", base: Path, fill: Path | None, limit: int,
              progress: Progress) -> list[dict[str, Any]]:
    """Certificates of base and adapted model; the adapted one with paired tests against the base."""
    from meristem.evals.run import evaluate
    from meristem.evals.subject import Subject
    subject = Subject.open(base, "base")
    scores = [{"model": "base", **to_dict(s)} for s in evaluate(subject, corpus, TASKS, limit=limit, progress=progress)]
    if fill:
        adapted = evaluate(Subject.open(fill, "fill"), corpus, TASKS, limit=limit, against=subject,
                           progress=progress)
        scores += [{"model": "fill", **to_dict(s)} for s in adapted]
    return scores


def _account(out: Path, base: Path, fill: Path | None, progress: Progress) -> Path:
    """Model cards and the report."""
    from meristem.govern import card, report
    progress.stage("account")
    for folder in filter(None, (base, fill)):
        card.write(folder)
    return report.write(out)
