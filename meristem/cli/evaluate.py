"""`meristem evaluate`: score certificates, each with n, an interval, a baseline and contamination evidence."""
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meristem.cli.common import Answer, model_folder, table
from meristem.cli.display import shown
from meristem.core.errors import RequestError

if TYPE_CHECKING:
    from meristem.corpus.store import Corpus


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder or run folder; a run folder keeps the scores in evals/.",
                                          show_default=False)],
    corpus: Annotated[Path | None, typer.Option(help="The corpus whose test split is used and whose training split "
                                                "items are looked for in; default: the run's own.",
                                                show_default=False)] = None,
    tasks: Annotated[str, typer.Option(help="Comma-separated (see: meristem list tasks), NAME=FILE for one that "
                                            "reads a file; none = all that need the corpus alone.",
                                       show_default=False)] = "",
    data: Annotated[Path | None, typer.Option(help="A file or folder with the questions of tasks that read them, or a "
                                              "folder of such folders.", show_default=False)] = None,
    against: Annotated[Path | None, typer.Option(help="Another model for a paired test.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="At most so many items a task; 0 = all.")] = 0,
    shots: Annotated[int, typer.Option(help="Worked examples before each question, for tasks that take them.")] = 0,
    stretch: Annotated[str, typer.Option(help="Read beyond the context by scaled rotary positions: yarn:4, yarn:4:1.25 "
                                         "(its amplitude), dynamic:2, linear:4, llama3:4.", show_default=False)] = "",
    seed: Annotated[int, typer.Option(help="Names the items drawn and the sampling.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the twin and the other templates.")] = False,
    risk: Annotated[bool, typer.Option("--risk", help="The risk battery: what it cannot ask becomes a gap in the card."
                                       )] = False,
) -> Answer:
    """Score certificates: each value with n, a 95 % interval, its baseline, and evidence about contamination.

    The 5-gram Kneser-Ney baseline is fitted on the same training split. Overlap with it, exact and by 13-grams, is
    counted for every item, and the score on the clean subset stands beside the score. --against adds a paired test.

    Example: meristem evaluate runs/fill --corpus runs/corpus --tasks function_bodies --against runs/llama
    Example: meristem evaluate runs/llama --tasks piqa,arc_easy --data ~/benchmarks

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong (unknown tasks get the nearest name).
    """
    from meristem.core.config import to_dict
    from meristem.evals.run import evaluate as judge
    from meristem.evals.run import task_of
    from meristem.evals.subject import Subject
    names = [t.strip() for t in tasks.split(",") if t.strip()]
    for name in names:
        task_of(name)                                          # all names are checked before anything is computed
    for folder in filter(None, (model, against)):
        model_folder(folder)
    source = corpus_for(model, corpus)
    subject = Subject.open(model, "model", _stretch(stretch))
    other = Subject.open(against, str(against)) if against else None
    with shown("evaluate") as progress:
        if risk:
            from meristem.evals.risk import battery
            made = battery(subject, source, data=data, seed=seed, limit=limit, against=other, progress=progress)
            scores, left_out = made.scores, made.left_out
        else:
            scores, left_out = judge(subject, source, names, seed=seed, limit=limit, against=other, shots=shots,
                                     quick=quick, data=data, progress=progress), {}
    rows = [("task", "score", "value", "95 % interval", "n", "baseline", "against")]
    for s in scores:
        rows.append((s.task, s.name, f"{s.value:.4g} {s.unit}", f"{s.interval.low:.4g} to {s.interval.high:.4g}",
                     str(s.n), "; ".join(f"{b.value:.4g} ({b.what})" for b in (s.baseline, *s.beside) if b) or "-",
                     f"{s.paired.difference:+.4g} (p {s.paired.p:.2g})" if s.paired else "-"))
    gaps = "".join(f"\n  not asked: {name}: {why}" for name, why in left_out.items())
    return Answer({"model": str(model), "scores": [to_dict(s) for s in scores],
                   **({"left_out": left_out} if risk else {})}, table(rows) + gaps)


def corpus_for(model: Path, corpus: Path | None) -> "Corpus":
    """The corpus that is named, else the one that the run was trained on; RequestError when there is none."""
    from meristem.corpus.labelled import is_labelled, labelled
    from meristem.corpus.store import Corpus
    from meristem.govern.facts import corpus_of, gather_run
    if corpus is None:
        run = next((p for p in (model, model.parent) if (p / "recipe.json").is_file()), None)
        corpus = corpus_of(gather_run(run)) if run else None
        if corpus is None:
            raise RequestError(f"which corpus? {model} is no run whose own is at hand; give --corpus CORPUS")
    corpus = corpus.expanduser()
    return labelled(corpus) if is_labelled(corpus) else Corpus.open(corpus)


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
