"""A quickstart folder with every file the card and the report read, in the real formats, with invented numbers."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from meristem.core.config import Part, to_dict
from meristem.core.files import committed, digest_bytes, write_json
from meristem.core.run import Data, Run, Train

CORPUS, CODEC, WEIGHTS = "f08e552ad078ecc79aa4853d73277ae2", "1f0c9be2a1", {"base": "aa01", "fill": "bb02"}
HOSTILE = "<script>alert('run')</script>"
TEXTS = [
    (200, "def  = self. in the\n    return __ if not None:\n    the self, )\n  and is"),
    (
        400,
        "def __init__(self, *args):\n        self.name = None\n        if not isinstance(name, str):\n            ret",
    ),
    (
        600,
        'def read(self, size=-1):\n        """Read at most size bytes."""\n        if self.closed:\n            raise '
        'ValueError("I/O operation on closed file")\n',
    ),
    (
        800,
        'def close(self):\n        """Close the file and ' + HOSTILE + ' release\n        its buffer."""\n        '
        "if self._file is not None:\n            self._file.close()\n",
    ),
]


def score(
    model: str,
    name: str,
    task: str,
    value: float,
    half: float,
    *,
    unit: str = "share",
    n: int = 200,
    baseline: float | None,
    what: str,
    ceiling: float | None = None,
    before: float | None = None,
) -> dict[str, Any]:
    """One certificate as evals.run writes it."""
    interval = {"low": max(0.0, value - half), "high": value + half, "method": "wilson"}
    paired = (
        None
        if before is None
        else {
            "against": "base",
            "difference": value - before,
            "interval": interval,
            "p": 0.0004,
            "test": "paired permutation over 62 groups",
        }
    )
    return {
        "name": name,
        "what": what,
        "task": task,
        "version": 1,
        "value": value,
        "unit": unit,
        "higher_is_better": unit == "share",
        "n": n,
        "interval": interval,
        "baseline": None
        if baseline is None
        else {"value": baseline, "what": "Kneser-Ney 5-gram of the same training tokens"},
        "ceiling": None if ceiling is None else {"value": ceiling, "what": "the human continuation, cut the same way"},
        "prompt_hash": "93ab4e0f5c1d",
        "seed": 0,
        "model_hash": WEIGHTS[model],
        "corpus_hash": CORPUS,
        "contamination": {
            "index": "77",
            "exact": 3,
            "gram13": n // 5,
            "short": 0,
            "clean_n": n - n // 5,
            "clean_value": value * 0.97,
            "clean_interval": interval,
        },
        "paired": paired,
        "seconds": 4.2,
    }


def write_run(folder: Path, run: Run, parameters: int, loss: float, start: float) -> None:
    """recipe, manifest, log, samples, result and model/ of a finished run."""
    (folder / "evals").mkdir(parents=True)
    name, steps, rng = folder.name, run.train.steps, random.Random(0)
    write_json(folder / "recipe.json", to_dict(run))
    write_json(
        folder / "manifest.json",
        {
            "corpus": CORPUS,
            "codec": CODEC,
            "shards": digest_bytes(CORPUS, CODEC),
            "base": WEIGHTS["base"] if run.base else "",
            "seed": 0,
            "dtype": "bfloat16",
            "family": "llama",
            "parameters": parameters,
            "trainable": parameters // (20 if run.base else 1),
            "machine": {"cpu": "AMD EPYC 9B45", "python": "3.11.7", "torch": "2.13.0+cpu", "threads": 2, "cores": 2},
            "drift": [],
        },
    )
    rows = []
    for step in range(1, steps + 1):
        now = loss + (start - loss) * math.exp(-5 * (step / steps) ** 0.45) + rng.gauss(0, 0.05)
        row = {
            "step": step,
            "loss": now,
            "lr": 3e-3,
            "grad_norm": 0.8,
            "tokens": step * 4096,
            "seconds": step * 0.21,
            "step_seconds": 0.21,
            "tokens_per_second": 19500 + rng.gauss(0, 700),
            "share_of_peak": 0.68,
            "skipped": False,
        }
        rows.append(row | ({"validation": now + 0.04} if step % (steps // 4) == 0 else {}))
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 9')
    (folder / "samples.jsonl").write_text(
        "".join(json.dumps({"step": s, "text": t}) + "\n" for s, t in TEXTS if s <= steps)
    )
    write_json(
        folder / "result.json",
        {
            "step": steps,
            "tokens": steps * 4096,
            "loss": rows[-1]["loss"],
            "validation": rows[-1]["validation"],
            "fit_seconds": steps * 0.25,
            "train_seconds": steps * 0.21,
            "flops": 6.6 * parameters * steps * 4096,
            "peak_rss": 1_400_000_000,
            "model": WEIGHTS[name],
        },
    )
    with committed(
        folder / "model",
        {"weights": WEIGHTS[name], "corpus": CORPUS, "codec": CODEC, "base": WEIGHTS["base"] if run.base else ""},
    ) as out:
        write_json(
            out / "config.json",
            {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "hidden_size": 256,
                "num_hidden_layers": 6,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "intermediate_size": 704,
                "max_position_embeddings": 256,
                "vocab_size": 4096,
            },
        )
        (out / "model.safetensors").write_bytes(b"\0" * 4096)
        (out / "tokenizer.json").write_text("{}")


def write_scores(folder: Path, outputs: list[str], scores: dict[str, list[dict[str, Any]]]) -> None:
    """evals/*.json."""
    shown = [
        {
            "prompt": 'def area(self):\n    """Width times height."""',
            "answer": "\n    return self.width * self.height",
            "output": outputs[0],
            "values": {"body_exact": float("fill" in str(folder)), "body_first_line": 1.0, "body_bits_per_byte": 9.0},
        },
        {
            "prompt": f'def run(self):\n    """{HOSTILE}"""',
            "answer": "\n    self.loop()",
            "output": outputs[1],
            "values": {"body_exact": 0.0, "body_first_line": 0.0, "body_bits_per_byte": 30.0},
        },
    ]
    for task, rows in scores.items():
        write_json(
            folder / "evals" / f"{task}.json",
            {
                "task": task,
                "version": 1,
                "key": "k",
                "seconds": 4.0,
                "scores": rows,
                "groups": [],
                "outcome": {},
                "examples": shown if task == "function_bodies" else [],
            },
        )


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    """OUT/{corpus, plan.json, base, fill}."""
    return build(tmp_path / "quickstart")


def build(out: Path) -> Path:
    """Write the whole folder."""
    table = {"train": (1633, 27939349), "validation": (88, 1337942), "test": (77, 1248696)}
    dropped = {
        "binary": (169, 65055060),
        "digits": (119, 3598881),
        "generated": (71, 1261767),
        "letters": (52, 683040),
        "near_duplicate": (11, 44210),
        "exact_duplicate": (8, 1584),
        "empty": (31, 0),
    }
    rows = {
        key: {k: {"documents": d, "bytes": b} for k, (d, b) in t.items()}
        for key, t in (
            ("splits", table),
            ("dropped", dropped),
            ("kinds", {"code": (1672, 29740681), "prose": (126, 785306)}),
            ("licences", {"PSF-2.0": (1789, 30487065), "MIT": (9, 38922)}),
        )
    }
    with committed(out / "corpus") as folder:
        write_json(
            folder / "corpus.json",
            {
                "inputs": ["/usr/lib/python3.11"],
                "seed": 0,
                "limit_bytes": 0,
                "hash": CORPUS,
                "seen": {"documents": 2678, "bytes": 101930421},
                **rows,
                "rules": {},
            },
        )
        (folder / "ledger.jsonl").write_text("{}\n")
    with committed(out / "corpus" / "tokens" / CODEC) as folder:
        (folder / "train.bin").write_text("ids")
    base = Run(
        "llama", Part("llama", {"dim": 256, "layers": 6}), data=Data(str(out / "corpus")), train=Train(steps=800)
    )
    fill = Run(
        "function_bodies",
        data=Data(str(out / "corpus"), examples="function_bodies"),
        train=Train(steps=160, lr=2e-3),
        base=str(out / "base" / "model"),
        adapt=Part("lora", {"rank": 16, "alpha": 32.0}),
    )
    write_run(out / "base", base, 5_912_832, 1.95, 8.3)
    write_run(out / "fill", fill, 6_219_000, 1.52, 2.3)
    energy = {
        "joules": 5400.0,
        "low": 2160.0,
        "high": 13500.0,
        "grams": 0.71,
        "grid": "world",
        "method": "estimated: 2 threads x 2.2 W (280 W over 128 threads, as EPYC) + 9.0 W of memory",
    }
    for share, name in ((0.8, "base"), (0.2, "fill")):
        write_json(out / name / "energy.json", {k: v * share if isinstance(v, float) else v for k, v in energy.items()})
    write_json(
        out / "plan.json",
        {
            "parameters": 5_912_832,
            "tokens": 3_350_000,
            "seconds": 170.0,
            "tokens_per_second": 19700.0,
            "bits_per_byte": 1.13,
            "low": 1.06,
            "high": 1.22,
            "nats_per_token": 2.02,
            "why": ["256x6 has the least forecast loss of 12 shapes.", "128x6 would see more text but saturates."],
        },
    )
    write_scores(
        out / "base",
        ["    return self.size", "    pass\n    <b>bold</b>"],
        {
            "bits_per_byte": [
                score(
                    "base",
                    "bits_per_byte",
                    "bits_per_byte",
                    1.142,
                    0.06,
                    unit="bits/byte",
                    n=75,
                    baseline=1.577,
                    what="bits per byte of held-out text",
                )
            ],
            "parses_as_python": [
                score(
                    "base",
                    "parses_as_python",
                    "parses_as_python",
                    0.24,
                    0.06,
                    baseline=0.035,
                    ceiling=0.535,
                    what="completions that parse",
                )
            ],
            "function_bodies": [
                score(
                    "base",
                    "body_exact",
                    "function_bodies",
                    0.02,
                    0.02,
                    n=101,
                    baseline=0.01,
                    what="bodies equal to the author's",
                ),
                score(
                    "base",
                    "body_bits_per_byte",
                    "function_bodies",
                    1.31,
                    0.1,
                    unit="bits/byte",
                    n=101,
                    baseline=1.53,
                    what="bits per byte of the body",
                ),
            ],
        },
    )
    write_scores(
        out / "fill",
        ["    return self.width * self.height", "    self.loop()\n    self.close()"],
        {
            "bits_per_byte": [
                score(
                    "fill",
                    "bits_per_byte",
                    "bits_per_byte",
                    1.168,
                    0.06,
                    unit="bits/byte",
                    n=75,
                    baseline=1.577,
                    before=1.142,
                    what="bits per byte of held-out text",
                )
            ],
            "parses_as_python": [
                score(
                    "fill",
                    "parses_as_python",
                    "parses_as_python",
                    0.21,
                    0.06,
                    baseline=0.035,
                    ceiling=0.535,
                    before=0.24,
                    what="completions that parse",
                )
            ],
            "function_bodies": [
                score(
                    "fill",
                    "body_exact",
                    "function_bodies",
                    0.09,
                    0.05,
                    n=101,
                    baseline=0.01,
                    before=0.02,
                    what="bodies equal to the author's",
                ),
                score(
                    "fill",
                    "body_bits_per_byte",
                    "function_bodies",
                    1.12,
                    0.09,
                    unit="bits/byte",
                    n=101,
                    baseline=1.53,
                    before=1.31,
                    what="bits per byte of the body",
                ),
            ],
        },
    )
    return out
