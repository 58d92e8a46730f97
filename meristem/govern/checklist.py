"""The release checklist: what must be known of a model, and said by a person, before it leaves.

    points = check(Path("runs/mine"), answers(Path("release.json")))           # every point, met or not
    refuse(points)                                             # RequestError names the open ones and how to close them

What a program can see is looked up in the run folder: licences, a chain of hashes without a broken link, scores with
their overlap with training, a risk battery that was run, energy. What only a person can answer stands in a JSON file,
a text for each of `QUESTIONS` (after Mitchell et al. 2019, https://arxiv.org/abs/1810.03993, section 4, and Gebru et
al. 2021, https://arxiv.org/abs/1803.09010, section 3); the program checks that it was answered, not that it is true.
`meristem export RUN --release release.json` asks, refuses, and writes what was said into the export.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meristem.core.config import to_dict
from meristem.core.errors import RequestError, nearest
from meristem.core.files import read_json, write_json
from meristem.govern import gate, lineage, risk
from meristem.govern.facts import gather_run

FILE = "RELEASE.json"
QUESTIONS = {
    "intended_use": "what the model is for, and for whom",
    "out_of_scope": "what it must not be used for",
    "people_in_the_data": "whose words or pictures it has learned from, and whether they agreed",
    "harms": "who could be harmed, how, and what was done about it",
    "oversight": "who decides where its answers matter, and how a person is reached",
    "contact": "where faults and objections are reported"}
SHORTEST = 10                           # characters of an answer; "n/a" is none


@dataclass(frozen=True)
class Point:
    """One point of the list: whether it is met, what was found, and how an open one is closed."""

    name: str
    met: bool
    found: str
    mend: str

    def line(self) -> str:
        """For people."""
        return f"[{'x' if self.met else ' '}] {self.name}: {self.found}" + ("" if self.met else f"; {self.mend}")


def answers(path: Path) -> dict[str, str]:
    """A person's answers; RequestError for an unknown question, naming the nearest."""
    tree = read_json(path)
    if not isinstance(tree, dict) or not all(isinstance(value, str) for value in tree.values()):
        raise RequestError(f"{path} holds a text for each of {', '.join(QUESTIONS)}")
    if unknown := [key for key in tree if key not in QUESTIONS]:
        raise RequestError(f"{path}: no question {unknown[0]!r}; {nearest(unknown[0], QUESTIONS)}")
    return {key: " ".join(value.split()) for key, value in tree.items()}


def check(run: Path, said: Mapping[str, str], allow: str = "") -> list[Point]:
    """Every point for a run folder; `allow` are licences as `gate.check` takes them."""
    facts, rights = gather_run(run), gate.check(run, allow)
    links = lineage.links(facts)
    broken, open_links = ([link.what for link in links if link.ok is ok] for ok in (False, None))
    own = [s for s in facts.scores if not risk.is_risk(facts, s)]
    unseen = [s["name"] for s in own if s.get("contamination") is None]
    points = [
        Point("training", bool(facts.result), "finished" if facts.result else "not finished",
              f"meristem pretrain --from {run}"),
        Point("licences", rights.checked and not rights.forbidden, rights.line(),
              "put the corpus beside the run, or curate without these documents"),
        Point("chain of hashes", bool(links) and not broken, f"{len(links)} links, {len(broken)} broken, "
              f"{len(open_links)} not checked", f"meristem verify {run} names them"),
        Point("scores", bool(own), f"{len(own)} certificates", f"meristem evaluate {run} --corpus CORPUS"),
        Point("overlap with training", bool(own) and not unseen, f"known of {len(own) - len(unseen)} of {len(own)}",
              f"meristem evaluate {run} --corpus CORPUS --tasks {','.join(unseen)}" if unseen else "no score yet"),
        Point("risks", bool(risk.risks(facts)), "; ".join(risk.gaps(facts)) or "battery run in full",
              f"meristem evaluate {run} --corpus CORPUS --risk"),
        Point("energy", bool(facts.energy), "stated" if facts.energy else "not stated", "train with this version")]
    return points + [Point(key.replace("_", " "), len(said.get(key, "")) >= SHORTEST, said.get(key) or "not answered",
                           f"answer {key!r} in the file: {what}") for key, what in QUESTIONS.items()]


def refuse(points: Sequence[Point]) -> None:
    """RequestError that names every open point, if there is one."""
    if still := [point for point in points if not point.met]:
        named = "; ".join(f"{p.name} ({p.found}; {p.mend})" for p in still)
        raise RequestError(f"{len(still)} of {len(points)} points of the release checklist are open: {named}")


def write(points: Sequence[Point], out: Path) -> None:
    """RELEASE.json in the folder that leaves."""
    write_json(out / FILE, {"points": [to_dict(point) for point in points]})
