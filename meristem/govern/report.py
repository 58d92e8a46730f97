"""`report.html`: one self-contained page that shows a run, or base and adapted model together, from the folder's files.

    write(Path("runs/quickstart"))          # or one run folder; returns the page's path

The page has no script and fetches nothing, follows the reader's light or dark setting, fits a phone and prints.
Whatever a corpus or a model wrote is escaped by jinja2. Numbers that are not in the folder are shown as gaps.
"""
import base64
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import jinja2

from meristem.core.files import write_bytes
from meristem.govern import risk, svg
from meristem.govern.facts import Facts, RunFacts, Tree, gather
from meristem.govern.lineage import links
from meristem.govern.numbers import MISSING, count, duration, in_unit, p_value, percent, short

STYLES = ("second", "main")             # colours of base and adapted model
EXAMPLES, SAMPLES = 4, 5                # shown on the page
FIRST = 0.04                            # share of the steps that may leave the frame: they fall from ln(vocab)
WHAT = {
    "recipe.json": "every setting of the run", "manifest.json": "versions, seed and hashes the numbers depend on",
    "log.jsonl": "one line a step", "samples.jsonl": "texts written during training", "result.json": "how it ended",
    "energy.json": "energy with method and band", "plan.json": "what was planned", "README.md": "the model card",
    "model.safetensors": "the weights", "config.json": "the architecture", "tokenizer.json": "the tokenizer",
    "corpus.json": "what the corpus holds", "ledger.jsonl": "every decision of curation",
    "adapter_model.safetensors": "the adapter's weights", "evals": "a score certificate with its evidence"}


def write(folder: Path) -> Path:
    """Write FOLDER/report.html; RequestError when the folder holds no run."""
    facts = gather(folder)
    page = folder / "report.html"
    write_bytes(page, render(facts).encode("utf-8", "replace"))
    return page


def render(facts: Facts) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
                                     undefined=jinja2.StrictUndefined)
    base = facts.runs[0]
    examples_task, examples = _examples(facts)
    parts: dict[str, Any] = {
        "title": _title(facts), "folder": facts.folder.name, "lead": _lead(facts), "tiles": _tiles(facts),
        "forests": _forests(facts), "scores": _scores(facts), "examples": examples, "examples_task": examples_task,
        "risks": _risks(facts), "risk_plots": _risk_plots(facts),
        "runs": [_run(run, facts) for run in facts.runs], "plan": _plan(facts, base), "data": _data(facts.corpus),
        "energy": [_cost(run) for run in facts.runs if run.result or run.energy], "gaps": gaps(facts),
        "links": [{"run": run.name, "what": link.what, "hash": link.hash, **_verdict(link.ok, link.why)}
                  for run in facts.runs for link in links(run)],
        "files": list(_files(facts)), "next": next_steps(facts)}
    shown = [("scores", "Scores"), ("risks", "Risks"), ("examples", "Examples"),
             *((r["id"], r["short"]) for r in parts["runs"]),
             ("plan", "Plan"), ("data", "Data"), ("energy", "Cost"), ("files", "Files"), ("gaps", "Gaps"),
             ("next", "Next")]
    present = [(id, name) for id, name in shown if parts.get(id, True)]
    return environment.get_template("report.html.jinja").render(sections=present, **parts)


def gaps(facts: Facts) -> list[str]:
    """What a reader might expect and this folder does not hold, in words."""
    runs = facts.runs
    out = [f"{run.name + ': ' if len(runs) > 1 and risk.risks(run) else ''}{line}" for run in runs
           for line in risk.gaps(run)]
    out = list(dict.fromkeys(out))
    for run in facts.runs:
        wanted = (("no evaluation", run.evals), ("no energy record", run.energy),
                  ("no training log", run.log), ("no result: the run is not finished", run.result))
        out += [f"{run.name}: {what}." for what, there in wanted if not there]
        for score in run.scores:
            if score["contamination"] is None:
                out.append(f"{run.name}: {score['name']} has no contamination evidence.")
    if not facts.corpus:
        out.append("The corpus folder is not here, so what was kept and dropped cannot be shown.")
    if not facts.plan and not facts.runs[0].adapted:
        out.append("No plan: there is no forecast to compare the outcome with.")
    return out


def next_steps(facts: Facts) -> list[str]:
    """Commands that make sense now."""
    last = facts.runs[-1].folder
    if facts.runs[-1].sees:
        painted = [f"meristem generate {last} --out grid.png"] if facts.runs[-1].pictures else []
        return [*painted, f"meristem evaluate {last} --corpus CORPUS", f"meristem card {facts.runs[0].folder}"]
    return [f"meristem chat {last}", f'meristem generate {last} "def "', f"meristem export {last} --to hf",
            f"meristem card {facts.runs[0].folder}"]


def _title(facts: Facts) -> str:
    return facts.folder.resolve().name


def _lead(facts: Facts) -> list[str]:
    """Plain and bold pieces in turn."""
    base, last = facts.runs[0], facts.runs[-1]
    kind, unit = ("model of pictures", "pictures") if base.sees else ("language model", "tokens")
    out = [f"A {kind} of ", f"{short(base.manifest.get('parameters'))} parameters", ", trained from scratch on ",
           f"{short(base.result.get('tokens'))} {unit}", " in ", duration(base.result.get("train_seconds"))]
    bits = _score(base, "bits_per_byte")
    if bits and bits["baseline"]:
        gain = 1 - bits["value"] / bits["baseline"]["value"]
        out += [". On text it never saw it needs ", f"{bits['value']:.3f} bits a byte",
                f", {percent(abs(gain), 0)} {'less' if gain > 0 else 'more'} than a 5-gram model"]
    for score in last.scores if last.adapted else []:
        if score["name"] == "body_bits_per_byte" and score["paired"]:
            before = score["value"] - score["paired"]["difference"]
            out[-1] += ". Adapted to fill in function bodies, it needs "
            out += [f"{score['value']:.3f} instead of {before:.3f}", " bits a byte of them"]
    out[-1] += "."
    notice = str(base.manifest.get("notice", ""))              # what the corpus asks everything made of it to say
    return ["", notice, f" {out[0]}", *out[1:]] if notice else out


def _tiles(facts: Facts) -> list[dict[str, str]]:
    base = facts.runs[0]
    bits = _score(base, "bits_per_byte")
    rates, shares = _column(base, "tokens_per_second"), _column(base, "share_of_peak")
    joules = [run.energy["joules"] for run in facts.runs if "joules" in run.energy]
    out = [("Parameters", short(base.manifest.get("parameters")), base.manifest.get("family", "")),
           ("Training tokens", short(base.result.get("tokens")), duration(base.result.get("train_seconds"))),
           ("Bits per byte", in_unit(bits["value"] if bits else None, ""),
            f"5-gram: {in_unit(bits['baseline']['value'], '')}" if bits and bits["baseline"] else ""),
           ("Validation loss", in_unit(base.result.get("validation"), ""), "nats a token"),
           ("Tokens a second", short(_median(rates)),
            f"{percent(_median(shares), 0)} of this machine's peak" if shares else ""),
           ("Energy", f"{sum(joules) / 3600:.2g} Wh" if joules else MISSING, "all runs" if len(facts.runs) > 1 else "")]
    return [{"name": name, "value": value, "note": str(note)} for name, value, note in out]


def _forests(facts: Facts) -> list[Any]:
    """One plot a unit: scores of different units share no axis."""
    plots = []
    for unit, title, axis in (("share", "Shares of right answers", "more is better"),
                              ("bits/byte", "Bits per byte", "less is better")):
        rows = []
        for score, model, style, _ in _by_name(facts):
            if score["unit"] != unit:
                continue
            reference = {key: score[key]["value"] if score[key] else None for key in ("baseline", "ceiling")}
            rows.append(svg.Row(f"{_words(score['name'])}, {model}", style, score["value"], score["interval"]["low"],
                                score["interval"]["high"], in_unit(score["value"], unit), **reference))
        text = _as_percent if unit == "share" else _three
        if rows:
            plots.append(svg.forest(title, rows, axis, text, from_zero=unit == "share"))
    return plots


def _scores(facts: Facts) -> list[dict[str, Any]]:
    out = []
    for score, model, _, place in _by_name(facts):
        unit, base, pair, dirt = score["unit"], score["baseline"], score["paired"], score["contamination"]
        low, high = (in_unit(score["interval"][k], unit) for k in ("low", "high"))
        out.append({
            "name": _words(score["name"]), "what": score["what"], "first": place[0] == 0, "span": place[1],
            "better": "more is better" if score["higher_is_better"] else "less is better", "model": model,
            "value": in_unit(score["value"], unit), "interval": f"{low} to {high}", "n": count(score["n"]),
            "baseline": in_unit(base["value"], unit) if base else MISSING,
            "baseline_what": base["what"] if base and place[0] == 0 else "",
            "paired": f"{_signed(pair['difference'], unit)}, {p_value(pair['p'])}" if pair else "",
            "test": f"against {pair['against']}; {pair['test']}" if pair else "",
            **{key: count(dirt[key]) if dirt else "" for key in ("exact", "gram13", "clean_n")},
            "inflation": _inflation(dirt, unit),
            "chance": in_unit(score["chance"]["value"], unit) if score.get("chance") else "",
            "clean": in_unit(dirt["clean_value"], unit) if dirt else ""})
    return out


def _inflation(dirt: Tree | None, unit: str) -> str:
    """What the items seen in training add to a score, with its interval where the certificate has one."""
    if not dirt or dirt.get("inflation") is None:
        return ""
    ends = dirt.get("inflation_interval")
    return _signed(dirt["inflation"], unit) + (
        f" ({_signed(ends['low'], unit)} to {_signed(ends['high'], unit)})" if ends else "")


def _risks(facts: Facts) -> list[dict[str, str]]:
    """The battery's certificates as rows of a table."""
    out = []
    for score, model, _, place in _by_name(facts, risks=True):
        unit = score["unit"]
        low, high = (in_unit(score["interval"][k], unit) for k in ("low", "high"))
        beside = [f"{in_unit(r['value'], unit)}: {r['what']}" for r in (score.get("chance"), score["baseline"]) if r]
        pair = score["paired"]
        first = place[0] == 0
        out.append({"name": _words(score["name"]) if first else "", "what": score["what"] if first else "",
                    "model": model, "value": in_unit(score["value"], unit), "interval": f"{low} to {high}",
                    "n": count(score["n"]), "beside": "; ".join(beside),
                    "paired": f"{_signed(pair['difference'], unit)}, {p_value(pair['p'])}" if pair else ""})
    return out


def _risk_plots(facts: Facts) -> list[Any]:
    """A forest plot of the battery's shares; a bar marks the neutral value."""
    rows = [svg.Row(f"{_words(s['name'])}, {model}", style, s["value"], s["interval"]["low"], s["interval"]["high"],
                    in_unit(s["value"], "share"), baseline=(s.get("chance") or s["baseline"] or {}).get("value"))
            for s, model, style, _ in _by_name(facts, risks=True) if s["unit"] == "share"]
    return [svg.forest("Risks", rows, "neutral value or baseline", _as_percent, from_zero=True)] if rows else []


def _by_name(facts: Facts, risks: bool = False) -> Iterator[tuple[Tree, str, str, tuple[int, int]]]:
    """Scores of all runs, those of one name together: (score, model, colour, (place, how many) within the name).

    The battery's certificates stand apart from the others.
    """
    names = list(dict.fromkeys(score["name"] for run in facts.runs for score in run.scores
                               if risk.is_risk(run, score) == risks))
    for name in names:
        found = [(s, run.name, STYLES[run.adapted]) for run in facts.runs for s in run.scores
                 if s["name"] == name and risk.is_risk(run, s) == risks]
        for i, (score, model, style) in enumerate(found):
            yield score, model, style, (i, len(found))


def _examples(facts: Facts) -> tuple[str, list[dict[str, Any]]]:
    """The function-body questions of the last run that has them, with every run's answers to the same ones."""
    task = "function_bodies"
    tables = [(run.name, {e["prompt"]: e for tree in run.evals if tree["task"] == task for e in tree["examples"]})
              for run in facts.runs]
    last = tables[-1][1]
    out = []
    for prompt, example in list(last.items())[:EXAMPLES]:
        right = example["values"]["body_exact"] == 1
        first = example["values"]["body_first_line"] == 1
        verdict = "the same as the author" if right else "same first line" if first else "different"
        outputs = [{"name": name, "text": dedent(table[prompt]["output"]) or "(nothing)"}
                   for name, table in tables if prompt in table]
        out.append({"head": prompt.strip().split("\n")[0], "prompt": prompt.strip("\n"), "right": right,
                    "verdict": verdict, "answer": dedent(example["answer"]).strip("\n"), "outputs": outputs})
    return task, out


def _run(run: RunFacts, facts: Facts) -> dict[str, Any]:
    adapted = run.adapted
    size = short(run.manifest.get("trainable" if adapted else "parameters"))
    t = run.recipe.train
    story = (f"{t.steps:,} steps of {t.batch} sequences of {t.context} tokens, {t.optimizer} with a peak learning rate "
             f"of {t.lr:.2g}, in {t.dtype}; {size} {'trained parameters' if adapted else 'parameters'}, "
             f"{duration(run.result.get('train_seconds'))}.")
    loss = [(row["step"], row["loss"]) for row in run.log if row.get("loss") is not None]
    held_out = [(row["step"], row["validation"]) for row in run.log if row.get("validation") is not None]
    rate = [(row["step"], row["tokens_per_second"]) for row in run.log if row.get("tokens_per_second")]
    return {"id": f"run-{run.name}", "short": f"Run {run.name}",
            "heading": f"How {run.name} was {'adapted' if adapted else 'trained'}", "story": story,
            "loss": _loss(loss, held_out, None if adapted else _forecast(facts.plan, t.steps)), "rate": _rate(rate),
            "samples": _samples(run), "pictures": list(_pictures(run))}


def _rate(rate: list[svg.Point]) -> Any:
    if not rate:
        return ""
    line = svg.Line("tokens a second", svg.thin(svg.smooth(rate)), "second")
    return svg.curves("Speed", [line], "step", "tokens a second", y_range=(0, max(y for _, y in line.points) * 1.05),
                      y_text=short, height=190)


def _loss(loss: list[svg.Point], held_out: list[svg.Point], forecast: svg.Band | None) -> Any:
    if not loss:
        return ""
    smooth = svg.smooth(loss, 0.015)
    seen = [y for _, y in smooth[int(len(smooth) * FIRST):]] + [y for _, y in held_out]
    ends = [v for v in (forecast.value, forecast.low, forecast.high) if v is not None] if forecast else []
    spread = max(seen + ends) - min(seen + ends) or 1.0
    lines = [svg.Line("training", svg.thin(loss), "faint"), svg.Line("training, smoothed", svg.thin(smooth), "main"),
             svg.Line("validation", held_out, "dots")]
    frame = (min(seen + ends) - 0.08 * spread, max(seen + ends) + 0.02 * spread)
    return svg.curves("Loss", lines, "step", "nats a token", forecast, y_range=frame, y_text=_three)


def _forecast(plan: Tree, steps: int) -> svg.Band | None:
    """The plan's interval is in bits a byte: the same tokens a byte turn it into nats a token."""
    if not plan.get("nats_per_token") or not plan.get("bits_per_byte"):
        return None
    rate = plan["nats_per_token"] / plan["bits_per_byte"]
    low, high = (plan[end] * rate if end in plan else None for end in ("low", "high"))
    return svg.Band("forecast", steps, plan["nats_per_token"], low, high)


def _samples(run: RunFacts) -> list[dict[str, str]]:
    """The first, the last and some between."""
    rows = run.samples
    if len(rows) > SAMPLES:
        rows = [rows[round(i * (len(rows) - 1) / (SAMPLES - 1))] for i in range(SAMPLES)]
    losses = {row["step"]: row["loss"] for row in run.log if row.get("loss") is not None}
    return [{"step": count(row["step"]), "text": row["text"],
             "note": f"loss {losses[row['step']]:.2f}" if row["step"] in losses else ""} for row in rows]


def _pictures(run: RunFacts) -> Iterator[dict[str, str]]:
    """Grids and overlays inside the page itself; of many grids the first, the last and some between."""
    grids = [path for path in run.pictures if path.parent.name == "samples"]
    if len(grids) > SAMPLES:
        grids = [grids[round(i * (len(grids) - 1) / (SAMPLES - 1))] for i in range(SAMPLES)]
    for path in [*grids, *(path for path in run.pictures if path.parent.name != "samples")]:
        name = f"step {int(path.stem):,}" if path.stem.isdigit() else _words(path.stem)
        yield {"name": name, "data": base64.b64encode(path.read_bytes()).decode()}


def _plan(facts: Facts, base: RunFacts) -> dict[str, Any] | None:
    plan, result = facts.plan, base.result
    if not plan:
        return None
    bits = _score(base, "bits_per_byte")
    band = f" ({plan['low']:.3f} to {plan['high']:.3f})" if "low" in plan and "high" in plan else ""
    told = base.outcome.get("loss", {})
    verdict = f", {'inside' if told['inside'] else 'OUTSIDE'} the interval" if told.get("measured") is not None else ""
    memory = base.outcome.get("memory", {})
    rows = [("Parameters", short(plan.get("parameters")), short(base.manifest.get("parameters"))),
            ("Tokens", short(plan.get("tokens")), short(result.get("tokens"))),
            ("Training time", duration(plan.get("seconds")), duration(result.get("train_seconds"))),
            ("Tokens a second", short(plan.get("tokens_per_second")),
             short(_median(_column(base, "tokens_per_second")))),
            ("Validation loss, nats a token", in_unit(plan.get("nats_per_token"), ""),
             in_unit(result.get("validation"), "") + verdict),
            ("Peak memory", short(plan.get("memory"), "B"),
             short(memory.get("measured") or result.get("peak_rss"), "B")),
            ("Energy, Wh", in_unit(plan.get("watt_hours"), ""),
             in_unit(base.energy["joules"] / 3600 if "joules" in base.energy else None, "")),
            ("Bits per byte", in_unit(plan.get("bits_per_byte"), "") + band,
             in_unit(bits["value"] if bits else None, ""))]
    why = plan.get("why", "")
    return {"rows": rows, "why": " ".join(why) if isinstance(why, list) else str(why)}


def _data(corpus: Tree) -> dict[str, Any] | None:
    if not corpus.get("splits"):
        return None
    kept = {k: sum(row[k] for row in corpus["splits"].values()) for k in ("documents", "bytes")}
    seen = corpus["seen"]
    most = max(seen["bytes"], 1)
    dropped = [(f"dropped: {_words(rule)}", row, False) for rule, row in corpus["dropped"].items()]
    rows = [("read", seen, False), *dropped, ("kept", kept, True)]
    funnel = [{"name": name, "width": round(100 * row["bytes"] / most, 2), "kept": is_kept,
               "text": f"{short(row['bytes'], 'B')} in {row['documents']:,}"} for name, row, is_kept in rows]
    table = [(f"{title} {name}", count(row["documents"]), short(row["bytes"], "B"))
             for title, key in (("Split:", "splits"), ("Kind:", "kinds"), ("Licence:", "licences"))
             for name, row in corpus[key].items()]
    story = (f"{seen['documents']:,} documents and files were read ({short(seen['bytes'], 'B')}) and "
             f"{kept['documents']:,} kept ({short(kept['bytes'], 'B')}); the rest was dropped by the rules below.")
    return {"story": story, "funnel": funnel, "rows": table}


def _cost(run: RunFacts) -> dict[str, str]:
    e, result = run.energy, run.result
    return {"name": run.name, "time": duration(result.get("train_seconds")),
            "flops": short(result.get("flops"), "FLOP"), "carbon": f"{e['grams']:.2g} g" if "grams" in e else MISSING,
            "value": f"{e['joules'] / 3600:.3g} Wh" if "joules" in e else MISSING,
            "band": f"{e['low'] / 3600:.2g} to {e['high'] / 3600:.2g} Wh" if "low" in e and "high" in e else MISSING,
            "method": str(e.get("method", ""))}


def _files(facts: Facts) -> Iterator[dict[str, str]]:
    """The files a reader may want, not checkpoints and shards."""
    corpus = [facts.corpus_folder / n for n in ("corpus.json", "ledger.jsonl")] if facts.corpus_folder else []
    found = [p for run in facts.runs for p in sorted(run.folder.rglob("*")) if "checkpoints" not in p.parts]
    for path in [*corpus, facts.folder / "plan.json", *found]:
        what = WHAT["evals"] if path.parent.name == "evals" else WHAT.get(path.name)
        if what and path.is_file() and path.name != "report.html":
            inside = path.is_relative_to(facts.folder)
            name = str(path.relative_to(facts.folder) if inside else path)
            yield {"path": name, "what": what, "size": short(path.stat().st_size, "B")}


def _verdict(ok: bool | None, why: str) -> dict[str, str]:
    style, word = {True: ("good", "yes"), False: ("bad", "no"), None: ("open", "not checked")}[ok]
    return {"style": style, "verdict": f"{word}: {why}" if why else word}


def _score(run: RunFacts, name: str) -> Tree | None:
    return next((s for s in run.scores if s["name"] == name), None)


def _signed(value: float, unit: str) -> str:
    return f"{100 * value:+.1f} points" if unit == "share" else f"{value:+.3f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _column(run: RunFacts, name: str) -> list[float]:
    return [row[name] for row in run.log if row.get(name) is not None]


def _as_percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _three(value: float) -> str:
    return f"{value:.3g}"


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
