"""`meristem evaluate`: score certificates, each with n, an interval, a baseline and contamination evidence."""
from pathlib import Path
from typing import Annotated

import typer

from meristem.cli.common import Answer, model_folder, table
from meristem.cli.display import shown
from meristem.core.errors import RequestError


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder or run folder; a run folder keeps the scores in evals/.",
                                          show_default=False)],
    corpus: Annotated[Path, typer.Option(help="The corpus whose test split is used.", show_default=False)],
    tasks: Annotated[str, typer.Option(help="Comma-separated (see: meristem list tasks), NAME=FILE for one that "
                                            "reads a file; none = all that need the corpus alone.",
                                       show_default=False)] = "",
    against: Annotated[Path | None, typer.Option(help="Another model for a paired test.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="At most so many items a task; 0 = all.")] = 0,
    shots: Annotated[int, typer.Option(help="Worked examples before each question, for tasks that take them.")] = 0,
    stretch: Annotated[str, typer.Option(help="Read beyond the context by scaled rotary positions: yarn:4, yarn:4:1.25 "
                                         "(its amplitude), dynamic:2, linear:4, llama3:4.", show_default=False)] = "",
    seed: Annotated[int, typer.Option(help="Names the items drawn and the sampling.")] = 0,
) -> Answer:
    """Score certificates: each value with n, a 95 % interval, its baseline, and evidence about contamination.

    The 5-gram Kneser-Ney baseline is fitted on the same training split. Overlap with it, exact and by 13-grams, is
    counted for every item, and the score on the clean subset stands beside the score. --against adds a paired test.

    Example: meristem evaluate runs/fill --corpus runs/corpus --tasks function_bodies --against runs/llama

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong (unknown tasks get the nearest name).
    """
    from meristem.core.config import to_dict
    from meristem.corpus.labelled import is_labelled, labelled
    from meristem.corpus.store import Corpus
    from meristem.evals.run import evaluate as judge
    from meristem.evals.run import task_of
    from meristem.evals.subject import Subject
    names = [t.strip() for t in tasks.split(",") if t.strip()]
    for name in names:
        task_of(name)                                          # all names are checked before anything is computed
    for folder in filter(None, (model, against)):
        model_folder(folder)
    corpus = corpus.expanduser()
    source = labelled(corpus) if is_labelled(corpus) else Corpus.open(corpus)
    subject = Subject.open(model, "model", _stretch(stretch))
    other = Subject.open(against, str(against)) if against else None
    with shown("evaluate") as progress:
        scores = judge(subject, source, names, seed=seed, limit=limit, against=other, shots=shots,
                       progress=progress)
    rows = [("task", "score", "value", "95 % interval", "n", "baseline", "against")]
    for s in scores:
        rows.append((s.task, s.name, f"{s.value:.4g} {s.unit}", f"{s.interval.low:.4g} to {s.interval.high:.4g}",
                     str(s.n), "; ".join(f"{b.value:.4g} ({b.what})" for b in (s.baseline, *s.beside) if b) or "-",
                     f"{s.paired.difference:+.4g} (p {s.paired.p:.2g})" if s.paired else "-"))
    return Answer({"model": str(model), "scores": [to_dict(s) for s in scores]}, table(rows))


def _stretch(text: str) -> tuple[str, float, float] | None:
    """'yarn:4' -> ("yarn", 4.0, 0.0); a third part is YaRN's amplitude."""
    if not text:
        return None
    kind, *numbers = text.split(":")
    try:
        factor, amplitude = map(float, numbers if len(numbers) > 1 else [*numbers, "0"])
    except ValueError:                                         # no number, or too few or many of them
        raise RequestError(f"--stretch {text!r} is not a kind and a factor; write yarn:4 or yarn:4:1.25") from None
    return kind, factor, amplitude
