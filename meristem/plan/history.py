"""What plans promised and what came of it: one line a run, kept for this user, so that forecasts are held to account.

    settle(Path("runs/mine"))           # plan.json and result.json of a finished run: scored, kept, returned
    print("\n".join(lines(read())))     # meristem plan --history

The file is $XDG_STATE_HOME/meristem/plans.jsonl (~/.local/state). A run that is settled again replaces its line.
"""
import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from meristem.core.errors import MachineError
from meristem.core.files import read_json, write_bytes, write_json

Row = dict[str, Any]
PLAN, OUTCOME = "plan.json", "forecast.json"
FACTS = ("loss", "seconds", "memory", "watt_hours")


def place() -> Path:
    """Where the history is kept."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "meristem" / "plans.jsonl"


def settle(run: Path, plan: Path | None = None) -> Row | None:
    """Score the forecast of a finished run, write RUN/forecast.json and the history; None where one of the two is
    missing."""
    plan = plan or run / PLAN
    if not plan.is_file() or not (run / "result.json").is_file():
        return None
    energy = read_json(run / "energy.json") if (run / "energy.json").is_file() else {}
    row = {"when": time.strftime("%Y-%m-%d"), "run": str(run.resolve()),
           **score(read_json(plan), read_json(run / "result.json"), energy)}
    write_json(run / OUTCOME, row)
    path = place()
    with contextlib.suppress(OSError, MachineError):           # a home that cannot be written ends no run
        kept = [r for r in read(path) if (r.get("run"), r.get("model")) != (row["run"], row["model"])]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, "".join(json.dumps(r) + "\n" for r in (*kept, row)).encode())
    return row


def score(plan: Row, result: Row, energy: Row) -> Row:
    """Forecast beside outcome: {forecast, measured} and the interval where the plan gave one. Losses are in nats a
    token of the validation split; seconds are those of the steps, without compilation and validation."""
    nats = plan["nats_per_token"] / plan["bits_per_byte"]
    low, high, loss = plan["low"] * nats, plan["high"] * nats, result.get("validation")
    used = energy.get("joules")
    facts: Row = {
        "loss": {"forecast": plan["nats_per_token"], "low": low, "high": high, "measured": loss,
                 "inside": loss is not None and low <= loss <= high},
        "seconds": {"forecast": plan["tokens"] / plan["tokens_per_second"], "measured": result.get("train_seconds")},
        "memory": {"forecast": plan["memory"], "measured": result.get("peak_rss")},
        "watt_hours": {"forecast": plan["watt_hours"], "measured": used / 3600 if used is not None else None}}
    return {"model": result.get("model"), "parameters": plan["parameters"], "tokens": plan["tokens"],
            "flops": plan.get("flops"), "law": plan.get("law", ""), **facts}


def read(path: Path | None = None) -> list[Row]:
    """Every settled plan, oldest first; a torn line is left out."""
    path, rows = path or place(), []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def summary(rows: Sequence[Row]) -> Row:
    """How many losses fell into their 80 % intervals, and the median of measured over forecast of each other fact."""
    judged = [r["loss"]["inside"] for r in rows if r["loss"]["measured"] is not None]
    ratios = {fact: [r[fact]["measured"] / r[fact]["forecast"] for r in rows if r[fact]["measured"]] for fact in FACTS}
    return {"plans": len(rows), "inside": sum(judged), "judged": len(judged),
            "measured_over_forecast": {fact: round(median(found), 3) for fact, found in ratios.items() if found}}


def lines(rows: Sequence[Row]) -> list[str]:
    """For people."""
    if not rows:
        return ["no plan has been settled yet: meristem plan --corpus CORPUS --out plan.json, then meristem pretrain "
                "plan.json"]
    out = []
    for r in rows:
        loss, parts = r["loss"], []
        for fact in FACTS[1:]:
            if r[fact]["measured"]:
                parts.append(f"{fact.replace('_', ' ')} x {r[fact]['measured'] / r[fact]['forecast']:.2f}")
        held = "not validated" if loss["measured"] is None else f"{loss['measured']:.3f} measured, " + (
            "inside" if loss["inside"] else "OUTSIDE")
        out.append(f"{r['when']} {Path(r['run']).name}: {r['parameters'] / 1e6:.3g} M parameters, loss "
                   f"{loss['forecast']:.3f} ({loss['low']:.3f} to {loss['high']:.3f}) forecast, {held}; "
                   + ", ".join(parts))
    told = summary(rows)
    return [*out, f"{told['inside']} of {told['judged']} losses inside their 80 % intervals"]
