"""What the recipes that see, act and film reach on corpora whose truth is known, each with its control, one table.

    python -m benchmarks.senses --out runs/senses [--part looks grid ...] [--real FOLDER] [--steps 0.5]

| part | trained | judged |
| --- | --- | --- |
| tower | clip on captions, llava from its tower on questions | as looks |
| looks | llava on questions about scenes | accuracy on unseen scenes and unseen pairs, on noise, by type |
| names | flamingo: a frozen language model, a frozen vit | new words after 0, 4 and 8 worked examples |
| grid | rt2 on demonstrations and questions | success on unseen instructions, seen ones, none |
| worldly | the same with questions about other worlds, which show every pair | the same |
| demonstrations | rt2 on 100, 300, 1,000 episodes | the same: success by how much was recorded |
| returns | decision_transformer on wandering demonstrations | steps to the goal, told to earn 1 and told 0 |
| clips | film_clip, film_autoencoder, film | actions named, beside disorder; what a tracker sees in films |
| arm, babyai | rt2 in MuJoCo and in minigrid | as grid; need `pip install meristem[robots]` |
| both | one rt2 for both simulators, on as many rows of each | the same, one checkpoint in two bodies |
| four | senses: one model for words, pictures, sounds, numbers | eight tasks, each beside a specialist on equal rows |
| bridge, door, sprites, nlvr, emoji, medicine, nuclei | the recipes on real data, in `--real` | their tasks |

Finished runs are read back, so an interrupted command goes on. `--tiny` proves in seconds that every part works.
"""
import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from meristem.core.progress import SILENT
from meristem.corpus.labelled import labelled
from meristem.corpus.store import NOTICE, Corpus
from meristem.data import (
    arm,
    babyai,
    clips,
    demonstrations,
    emoji,
    gridworld,
    looks,
    medicine,
    nlvr,
    scenes,
    senses,
    sprites,
)
from meristem.data.worlds import WORLD, together
from meristem.evals.run import evaluate
from meristem.evals.statistics import wilson
from meristem.evals.subject import Subject
from meristem.evals.tasks import visual_answers
from meristem.generate.acting import Actor
from meristem.recipes import resolve
from meristem.train.run import pretrain

TINY = {"train.steps": 2, "train.batch": 4, "train.warmup": 1, "train.dtype": "float32"}


@dataclass
class Bench:
    """Where runs lie, how long they train, and what was found."""

    out: Path
    real: Path
    share: float
    tiny: bool
    found: dict[str, Any] = field(default_factory=dict)

    def corpus(self, name: str, make: Callable[..., Corpus], **fields: Any) -> Corpus:
        """A toy corpus, made once."""
        small = {"documents": 30} if self.tiny else {}
        return make(self.out / name, {**fields, **small})

    def run(self, name: str, recipe: str, corpus: Corpus, **edits: Any) -> Path:
        """A finished run; its CPU minutes are noted when it is trained here."""
        steps = resolve(recipe)[0].train.steps
        more = TINY if self.tiny else {"train.steps": max(1, round(self.share * steps)), "train.compile": False}
        run, _ = resolve(recipe, {"data.corpus": str(corpus.folder), **more,
                                  **{key.replace("__", "."): value for key, value in edits.items()}})
        start = time.process_time()
        folder = pretrain(run, self.out / f"run-{name}")
        if (spent := (time.process_time() - start) / 60) > 0.02:
            (folder / "cpu_minutes.json").write_text(json.dumps(round(spent, 2)))
        noted = folder / "cpu_minutes.json"
        self.found.setdefault("cpu_minutes", {})[name] = json.loads(noted.read_text()) if noted.exists() else None
        return folder

    def judge(self, name: str, run: Path, corpus: Corpus, *tasks: str, shots: int = 0, limit: int = 0) -> None:
        """The certificates of a run: value, interval, n, baseline."""
        for s in evaluate(Subject.open(run), corpus, tasks, shots=shots, limit=4 if self.tiny else limit):
            self.found[f"{name}/{s.name}"] = {
                "value": round(s.value, 4), "interval": [round(s.interval.low, 4), round(s.interval.high, 4)], "n": s.n,
                "baseline": round(s.baseline.value, 4) if s.baseline else None}
            print(name, s.name, self.found[f"{name}/{s.name}"], flush=True)

    def beside(self, one: str, kinds: list[str]) -> None:
        """What one model reaches on each kind of question, what the specialist of that kind does, and the points."""
        for kind in kinds:
            ours, theirs = (self.found[name]["value"] for name in (
                f"{one}/visual_{kind}", f"{one}-{kind}/visual_answers"))
            self.found[f"{one}/{kind} beside its specialist"] = {
                "one": ours, "specialist": theirs, "points": round(100 * (ours - theirs), 1)}


def tower(b: Bench) -> None:
    """Questions about scenes by a model whose vision tower was trained on captions first, as LLaVA's was."""
    seen = b.corpus("captions", scenes.make, documents=6000, held_out=0.0)
    shape = {"dim": 96, "layers": 3, "heads": 4}
    clip = b.run("tower", "clip", seen, model__patch=4, model__vision=shape, train__batch=64, objective__together=True)
    corpus = b.corpus("looks", looks.make, documents=10_000, held_out=0.0)
    run = b.run("looks-tower", "llava", corpus, objective__vision=str(clip), train__context=88,
                model__vision={"name": "clip", "fields": {"image": 32, "patch": 4, "vision": shape}})
    b.judge("looks-tower", run, corpus, "visual_answers")


def look(b: Bench) -> None:
    """Questions about scenes."""
    for name, share in (("looks", 0.0), ("looks-unseen-pairs", 0.17)):
        corpus = b.corpus(name, looks.make, documents=10_000, held_out=share)
        b.judge(name, b.run(name, "llava", corpus), corpus, "visual_answers")


def names(b: Bench) -> None:
    """New words from worked examples."""
    text, seen = b.corpus("words", looks.make, kind="words"), b.corpus("scenes", scenes.make, objects=1)
    corpus = b.corpus("names", looks.make, kind="names")
    words = b.run("words", "shown_words", text)
    vit = b.run("vit", "vit", seen, model__patch=8, model__dim=96, model__layers=3)
    flamingo = b.run("flamingo", "flamingo", corpus, objective__language=str(words), objective__vision=str(vit),
                     data__codec__name="saved", data__codec__folder=str(words))
    for shots in (0, 4, 8):
        b.judge("names", flamingo, corpus, "visual_answers", shots=shots)


def world(b: Bench, name: str, module: Any, documents: int, count: str = "", steps: int = 0, **fields: Any) -> None:
    """A policy in a simulator."""
    corpus = b.corpus(name + count, module.make, documents=documents, **fields)
    run = b.run(f"rt2-{name}{count}", "rt2", corpus, **({"train__steps": steps} if steps and not b.tiny else {}))
    file = corpus.folder.with_name(corpus.folder.name + ".rows") / WORLD
    b.judge(name + count, run, corpus, f"closed_loop={file}", *(() if count else ("action_error",)))


def both(b: Bench) -> None:
    """One policy in two bodies: the arm's two numbers and a level's one, in one vocabulary and one training set."""
    made = {"arm": b.corpus("arm", arm.make, documents=1000), "babyai": b.corpus("babyai", babyai.make, documents=1000)}
    rows = {name: corpus.folder.with_name(corpus.folder.name + ".rows") for name, corpus in made.items()}
    folder = b.out / "both.rows"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        lines = []
        for name, source in rows.items():
            for line in (source / f"{split}.jsonl").read_text().splitlines():
                row = json.loads(line)
                (folder / f"{name}-{row['image']}").write_bytes((source / row["image"]).read_bytes())
                lines.append(json.dumps({**row, "image": f"{name}-{row['image']}"}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    corpus = labelled(folder, b.out / "both")
    steps = 2 * resolve("rt2")[0].train.steps                  # as many rows of each as a policy of its own is shown
    run = b.run("rt2-both", "rt2", corpus, **({} if b.tiny else {"train__steps": round(b.share * steps)}))
    for name, source in rows.items():
        b.judge(f"both-{name}", run, corpus, f"closed_loop={source / WORLD}")


def four(b: Bench) -> None:
    """Eight tasks of four senses in one checkpoint, and a network of the same shape for each on the rows of it alone.

    A specialist takes an eighth of the steps, warmup among them: as many rows of its task as the one model sees.
    """
    corpus = b.corpus("four", senses.make)
    b.judge("four", b.run("four", "senses", corpus), corpus, "visual_answers", limit=2000)
    whole = resolve("senses")[0].train
    steps, warmup = (count / len(senses.TASKS) for count in (whole.steps, whole.warmup))
    for kind in senses.TASKS:
        own = only(b.out, corpus, "four", kind)
        run = b.run(f"four-{kind}", "senses", own, **({} if b.tiny else {
            "train__steps": round(b.share * steps), "train__warmup": round(warmup)}))
        b.judge(f"four-{kind}", run, own, "visual_answers", limit=2000)
    b.beside("four", list(senses.TASKS))


def recorded(b: Bench) -> None:
    """Success by the number of demonstrations."""
    for documents in (100, 300, 1000):
        world(b, "grid", gridworld, documents, f"-{documents}")


def returns(b: Bench) -> None:
    """A policy that is told what to earn."""
    corpus = b.corpus("returns", gridworld.make, documents=2000, returns=True, wander=0.5)
    subject = Subject.open(b.run("decision_transformer", "decision_transformer", corpus))
    kind = gridworld.Gridworld(returns=True, wander=0.5)
    for earn in (1.0, 0.0):
        worlds = [kind.episode("validation", 5000 + n) for n in range(4 if b.tiny else 200)]
        runs = together(worlds, Actor(subject.module, subject.codec, gridworld.DIMS, earn))
        done = [run.steps for run in runs if run.success]
        b.found[f"returns/{earn:g}"] = {"success": float(np.mean([run.success for run in runs])), "n": len(runs),
                                        "steps_of_successes": float(np.mean(done)) if done else None}


def film(b: Bench) -> None:
    """Actions named, and films painted."""
    corpus = b.corpus("clips", clips.make, documents=1500)
    towers = b.run("film_clip", "film_clip", corpus)
    b.judge("clips", towers, corpus, "film_classes")
    autoencoder = b.run("film_autoencoder", "film_autoencoder", corpus)
    painted = b.run("film", "film", corpus, objective__autoencoder=str(autoencoder), objective__text=str(towers),
                    data__codec__name="saved", data__codec__folder=str(towers))
    b.judge("clips", painted, corpus, "film_motion")


def cloned(b: Bench, name: str, folder: str) -> None:
    """Demonstrations of a real robot."""
    corpus = demonstrations.make(b.real / folder, b.out / name)
    b.judge(name, b.run(name, "behaviour_cloning", corpus), corpus, "action_error")


def characters(b: Bench) -> None:
    """Actions of animated characters whom training never saw."""
    corpus = sprites.make(b.real / "sprites-video", b.out / "sprites", films=40 if b.tiny else 1500)
    b.judge("sprites", b.run("sprites", "film_clip", corpus, model__image=32, model__frames=6), corpus, "film_classes")


def boxes(b: Bench) -> None:
    """What people wrote about boxes of shapes."""
    corpus = nlvr.make(b.real / "nlvr-dev", b.out / "nlvr")
    b.judge("nlvr", b.run("nlvr", "llava", corpus, model__vision__fields__image=96, model__vision__fields__patch=16,
                          train__context=96), corpus, "visual_answers")


def emojis(b: Bench) -> None:
    """What unseen emoji show, by a model that begins with nothing."""
    corpus = emoji.make(b.real / "emoji-noto", b.out / "emoji")
    b.judge("emoji", b.run("emoji", "llava", corpus, model__vision__fields__image=48, train__context=64), corpus,
            "visual_answers", limit=2000)


def generalist(b: Bench) -> None:
    """One checkpoint for questions, cells and reports; an adapter on it, and a twin alone, for each kind of question.

    NOT FOR CLINICAL USE.
    """
    corpus = medicine.make(b.real, b.out / "medicine")
    base = b.run("medicine", "medicine", corpus)
    b.judge("medicine", base, corpus, "visual_answers", limit=2000)
    told_apart(b, "medicine", base, corpus)
    for kind in corpus.summary["labels"]:
        one = only(b.out, corpus, "medicine", kind)
        lora = {"base": str(base), "adapt__name": "lora", "adapt__rank": 8, **({} if b.tiny else {"train__steps": 100})}
        for name, more in ((f"medicine-{kind}", {}), (f"medicine-{kind}-adapter", lora)):
            run = b.run(name, "medicine", one, **more)
            b.judge(name, run, one, "visual_answers", limit=2000)
            if kind == "cell":
                told_apart(b, name, run, one)
    b.beside("medicine", corpus.summary["labels"])


def told_apart(b: Bench, name: str, run: Path, corpus: Corpus) -> None:
    """Sensitivity and specificity for each kind of cell, 95 % intervals of cells taken as independent.

    NOT FOR CLINICAL USE.
    """
    subject, task = Subject.open(run), visual_answers.TASK.on(corpus)
    items = [item for item in task.items(corpus, subject.codec, 1 << 30, 0) if item.prompt.endswith(medicine.CELL)]
    said = [text.strip() for text in task.run(subject, items, 0, SILENT).outputs]
    for kind in medicine.CELLS.values():
        for what, some in (("sensitivity", [text == kind for text, item in zip(said, items, strict=True)
                                            if item.answer == kind]),
                           ("specificity", [text != kind for text, item in zip(said, items, strict=True)
                                            if item.answer != kind])):
            low = wilson(sum(some), len(some)) if some else None
            b.found[f"{name}/{kind} {what}"] = low and {
                "value": round(sum(some) / len(some), 4), "interval": [round(low.low, 4), round(low.high, 4)],
                "n": len(some)}


def nuclei(b: Bench) -> None:
    """Nuclei segmented for a click. NOT FOR CLINICAL USE."""
    corpus = medicine.make(b.real / "nuclei-seg", b.out / "nuclei")
    b.judge("nuclei", b.run("nuclei", "sam", corpus), corpus, "masks", limit=150)


def only(out: Path, corpus: Corpus, name: str, kind: str) -> Corpus:
    """The rows of one label, in a corpus of their own."""
    source, folder = corpus.folder.with_name(corpus.folder.name + ".rows"), out / f"{name}-{kind}.rows"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        lines = [line for line in (source / f"{split}.jsonl").read_text().splitlines()
                 if json.loads(line)["label"] == kind]
        for file in filter(None, (json.loads(line).get("image") for line in lines)):
            (folder / file).write_bytes((source / file).read_bytes())
        (folder / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines))
    if (source / NOTICE).is_file():
        (folder / NOTICE).write_bytes((source / NOTICE).read_bytes())
    return labelled(folder, out / f"{name}-{kind}")


PARTS: dict[str, Callable[[Bench], None]] = {
    "tower": tower, "looks": look, "names": names, "grid": lambda b: world(b, "grid", gridworld, 3000),
    "worldly": lambda b: world(b, "worldly", gridworld, 3000, steps=2000, worldly=1.0), "demonstrations": recorded,
    "returns": returns, "clips": film, "arm": lambda b: world(b, "arm", arm, 1000),
    "babyai": lambda b: world(b, "babyai", babyai, 1000), "both": both, "four": four,
    "bridge": lambda b: cloned(b, "bridge", "bridge-robot"),
    "door": lambda b: cloned(b, "door", "dapg-door"), "sprites": characters, "nlvr": boxes, "medicine": generalist,
    "nuclei": nuclei, "emoji": emojis}
REAL = ("bridge", "door", "sprites", "nlvr", "medicine", "nuclei", "emoji")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/senses"))
    parser.add_argument("--part", nargs="*", default=[], choices=list(PARTS))
    parser.add_argument("--real", type=Path, help="the folder of the real sets; without it only toys")
    parser.add_argument("--steps", type=float, default=1.0, help="share of the recipes' steps")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(given.out, given.real or Path(), given.steps, given.tiny)
    for part in given.part or [name for name in PARTS if given.real or name not in REAL]:
        PARTS[part](bench)
    if given.tiny:
        print(json.dumps(bench.found))
    else:
        record("senses", {"parts": given.part or "all", "share_of_steps": given.steps, **bench.found})
