"""Agreement with lm_eval: the same model, the same items, equal log-likelihoods of every item and equal scores.

    python -m benchmarks.harness_agreement DATA             # lm_eval needs `make bench-peers` once (an environment)
    python -m benchmarks.harness_agreement DATA --tiny      # three tasks, a handful of items

DATA is a folder with the benchmarks' own files (docs/scores.md says where each is to be had). Ours reads them; for
lm_eval they are written as JSON lines with the columns of its data sets, and its own task files (prompts, choices,
metrics as it ships them) read those instead of the network. lm_eval runs twice: with its Hugging Face backend on the
exported folder, and with ours by `meristem.evals.harness`. The model is a small random Llama, or `--model RUN`.
"""
import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import PEERS, record, worker

PYTHON = PEERS / "lm_eval" / "bin" / "python"
LIMIT = 60
Row = dict[str, Any]


def piqa(item: Any) -> Row:
    """Columns of baber/piqa."""
    return {"goal": item.stem, "sol1": item.choices[0], "sol2": item.choices[1], "label": item.right}


def arc(item: Any) -> Row:
    """Columns of allenai/ai2_arc."""
    letters = "ABCDE"[:len(item.choices)]
    return {"question": item.stem, "choices": {"text": list(item.choices), "label": list(letters)},
            "answerKey": letters[item.right]}


def winogrande(item: Any) -> Row:
    """Columns of allenai/winogrande."""
    first, second = item.suffix.split("\n")
    return {"sentence": item.stem, "option1": first, "option2": second, "answer": str(item.right + 1)}


def boolq(item: Any) -> Row:
    """Columns of super_glue's boolq."""
    passage, _, question = item.stem.partition("\nQuestion: ")
    return {"passage": passage, "question": question, "label": item.right}


def blimp(item: Any) -> Row:
    """Columns of nyu-mll/blimp."""
    return {"sentence_good": item.choices[0], "sentence_bad": item.choices[1]}


def plain(item: Any) -> Row:
    """Columns of the tasks that we state ourselves."""
    return {"query": item.prompt, "choices": list(item.choices), "gold": item.right}


def question(item: Any) -> Row:
    """A question with its answer."""
    return {"question": item.stem, "answer": item.answer}


# Ours -> lm_eval's own file below its tasks folder ("" for one we state), the columns, its metrics and ours.
CHOICES: dict[str, tuple[str, Callable[[Any], Row], dict[str, str]]] = {
    "piqa": ("piqa/piqa.yaml", piqa, {"acc": "piqa_acc", "acc_norm": "piqa_acc_norm"}),
    "arc_easy": ("arc/arc_easy.yaml", arc, {"acc": "arc_easy_acc", "acc_norm": "arc_easy_acc_norm"}),
    "arc_challenge": ("arc/arc_challenge.yaml", arc,
                      {"acc": "arc_challenge_acc", "acc_norm": "arc_challenge_acc_norm"}),
    "winogrande": ("winogrande/default.yaml", winogrande, {"acc": "winogrande_acc"}),
    "boolq": ("super_glue/boolq/default.yaml", boolq, {"acc": "boolq_acc"}),
    "blimp": ("blimp/_template_yaml", blimp, {"acc": "blimp_acc"}),
    "aqua": ("", plain, {"acc": "aqua_acc", "acc_norm": "aqua_acc_norm"}),
    "sentence_polarity": ("", plain, {"acc": "sentence_polarity_acc", "acc_norm": "sentence_polarity_acc_norm"})}
STATED = {"output_type": "multiple_choice", "doc_to_text": "{{query}}", "doc_to_choice": "{{choices}}",
          "doc_to_target": "gold", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}


def make(folder: Path) -> None:
    """A random Llama with a tokenizer of English words, in the Hugging Face layout."""
    import torch

    from meristem.codecs import bpe
    from meristem.hub import hf
    from meristem.models.llama import Config, Model
    torch.manual_seed(0)
    text = Path(re.__file__).read_text() + Path(argparse.__file__).read_text() + "".join(map(chr, range(32, 300)))
    codec = bpe.fit([text], 1000)
    module = Model(Config(vocab=codec.vocab, context=1024, dim=64, layers=2, heads=4, groups=2, hidden=128))
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    hf.save(folder, "llama", module.config, module, codec)


def ours(model: Path, data: Path, tasks: list[str], limit: int, out: Path) -> None:
    """Our scores and log-likelihoods; and the same items as lm_eval's tasks in `out`."""
    from meristem.evals.benchmark import likelihoods
    from meristem.evals.run import task_of
    from meristem.evals.subject import Subject
    subject, made = Subject.open(model), {}
    for name in tasks:
        task: Any = task_of(name, data)
        items = task.items(None, subject.codec, limit, 0)      # type: ignore[arg-type]
        found = likelihoods(subject, items)[0]
        outcome = task.outcome(items, found)
        theirs, columns, metrics = CHOICES[name]
        scores = {m: sum(outcome.values[o]) / len(items) for m, o in metrics.items()}
        made[name] = {"likelihoods": found, "scores": scores}
        rows = out / f"{name}.jsonl"
        rows.write_text("".join(json.dumps(columns(item)) + "\n" for item in items))
        split = "test"
        config: dict[str, Any] = {"task": f"local_{name}", "dataset_path": "json", "dataset_name": None,
                                  "dataset_kwargs": {"data_files": {split: str(rows)}}, "num_fewshot": 0}
        config |= {key: split if key.startswith(split) else None for key in
                   ("training_split", "validation_split", "test_split", "fewshot_split")}
        config |= {} if theirs else STATED
        (out / f"{name}.yaml").write_text(json.dumps({"include": theirs, **config} if theirs else config))
    (out / "ours.json").write_text(json.dumps(made))


def theirs(model: Path, tasks: list[str], out: Path, backend: str) -> dict[str, Any]:
    """lm_eval's scores and log-likelihoods, by its Hugging Face backend or by ours inside it."""
    import logging

    import lm_eval
    from lm_eval.tasks import TaskManager
    logging.disable(logging.WARNING)
    package = Path(lm_eval.__file__).parent / "tasks"
    for name in tasks:
        path = out / f"{name}.yaml"
        tree = json.loads(path.read_text())
        if tree.get("include") and not Path(tree["include"]).is_absolute():
            tree["include"] = str(package / tree["include"])
            path.write_text(json.dumps(tree))
    if backend == "meristem":
        from meristem.evals.harness import register
        register()
    arguments = f"path={model}" if backend == "meristem" else f"pretrained={model},dtype=float32"
    found = lm_eval.simple_evaluate(model=backend, model_args=arguments, tasks=[f"local_{name}" for name in tasks],
                                    task_manager=TaskManager(include_path=str(out)), batch_size=8, device="cpu",
                                    log_samples=True, bootstrap_iters=0)
    made = {}
    for name in tasks:
        samples = sorted(found["samples"][f"local_{name}"], key=lambda row: row["doc_id"])
        each = [[float(r[0][0] if isinstance(r[0], list | tuple) else r[0]) for r in row["resps"]] for row in samples]
        made[name] = {"likelihoods": each, "scores": {m: found["results"][f"local_{name}"][f"{m},none"]
                                                         for m in CHOICES[name][2]}}
    return made


def compare(mine: dict[str, Any], other: dict[str, Any]) -> list[Row]:
    """A row a task: the largest difference of a log-likelihood, and both scores."""
    rows = []
    for name, made in mine.items():
        gaps = [abs(a - b) for x, y in zip(made["likelihoods"], other[name]["likelihoods"], strict=True)
                for a, b in zip(x, y, strict=True)]
        rows.append({"task": name, "items": len(made["likelihoods"]), "largest_difference": max(gaps),
                     "scores": made["scores"], "theirs": other[name]["scores"],
                     "equal": all(abs(made["scores"][m] - other[name]["scores"][m]) < 1e-9 for m in made["scores"])})
    return rows


def main() -> None:
    """Ours here, lm_eval's in its own environment."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--worker", nargs=4, default=None)
    words = parser.parse_args()
    if words.worker:
        backend, model, tasks, out = words.worker
        print(json.dumps(theirs(Path(model), tasks.split(","), Path(out), backend)))
        return
    if not PYTHON.exists() or words.data is None:
        sys.exit("give the folder with the benchmarks' files; lm_eval is installed by: make bench-peers")
    tasks, limit = (list(CHOICES)[:3], 4) if words.tiny else (list(CHOICES), LIMIT)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        model = words.model or out / "model"
        if words.model is None:
            make(model)
        ours(model, words.data, tasks, limit, out)
        mine, rows = json.loads((out / "ours.json").read_text()), {}
        for backend in ("hf", "meristem"):
            found = worker("benchmarks.harness_agreement", backend, str(model), ",".join(tasks), str(out),
                           python=str(PYTHON))
            rows[backend] = compare(mine, found)
    for backend, some in rows.items():
        for row in some:
            print(backend, json.dumps(row))
    if not words.tiny:
        record("harness_agreement", {"limit": limit, **rows})


if __name__ == "__main__":
    main()
