"""Row I10 and the sounds of issue 10: digits of a voice never heard, sounds of the world, speech to text, voices.

    python -m benchmarks.sounds digits --fsdd FSDD --out runs/sounds       # classes, letters; speaker `theo` held out
    python -m benchmarks.sounds world --esc ESC --out runs/sounds          # ESC-10, fold 5 held out (needs soundfile)
    python -m benchmarks.sounds named --fsdd FSDD --esc ESC --out runs/sounds          # both by words (CLAP)
    python -m benchmarks.sounds voices --fsdd FSDD --out runs/sounds        # codec and voice, judged by `digits`
    python -m benchmarks.sounds series --door DOOR --out runs/sounds       # a hand's joints, unseen demonstrations

FSDD: a folder with recordings.tar.xz of the Free Spoken Digit Dataset; ESC: one with esc10.tar; DOOR: one with
door_demos.npz (hand_dapg). Words after the part are edits of every recipe of it. Prints one JSON line a certificate.
"""
import argparse
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.image_text import fit, judge
from meristem.codecs.audio import decode, encode, normal
from meristem.core.config import parse_edits
from meristem.corpus.labelled import labelled
from meristem.corpus.pictures import Tar
from meristem.corpus.store import Corpus
from meristem.evals.sounds import logits
from meristem.evals.statistics import wilson
from meristem.evals.subject import Subject
from meristem.objectives.sound_tokens import SoundTokens
from meristem.train.painting import open_run

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPOKEN = 20                             # sounds of each digit that a voice is judged by
WIDE = {"speed": 0.1, "gain": 6.0, "noise": 0.05, "bands": 8, "times": 60}      # changes of clips of five seconds


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file of an archive."""
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isfile() and (stream := tar.extractfile(member)):
                yield member.name, stream.read()


def corpus_of(folder: Path, files: Iterator[tuple[str, bytes]],
              row: Callable[[str], tuple[str, dict[str, str]] | None]) -> Corpus:
    """Files as rows: `row(name)` gives the split and what is said of it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name, raw in files:
        found = row(Path(name).stem if name.endswith(".wav") else name)
        if found:
            file = name.replace("/", "_")
            (folder / file).write_bytes(raw)
            lines[found[0]].append(json.dumps({"audio": file, **found[1]}) + "\n")
    for split, some in lines.items():
        (folder / f"{split}.jsonl").write_text("".join(some))
    return labelled(folder, folder.with_name(folder.name + ".corpus"))


def fsdd(a: argparse.Namespace) -> Corpus:
    """Digits of three speakers; the fourth is the test split, every tenth recording of the others validation."""
    def row(stem: str) -> tuple[str, dict[str, str]] | None:
        if stem.count("_") != 2:
            return None
        digit, speaker, number = stem.split("_")
        split = "test" if speaker == a.speaker else "validation" if int(number) % 10 == 0 else "train"
        return split, {"text": WORDS[int(digit)], "label": digit}
    return corpus_of(a.out / f"fsdd-{a.speaker}", members(a.fsdd / "recordings.tar.xz"), row)


def digits(a: argparse.Namespace, edits: dict[str, Any]) -> None:
    """I10: the digit that a held-out voice says, by a class and in letters."""
    corpus = fsdd(a)
    print(json.dumps({"speaker": a.speaker, **{k: v["documents"] for k, v in corpus.summary["splits"].items()}}))
    for recipe, task in (("spoken", "sound_classes"), ("listen", "word_errors")):
        judge(fit(recipe, corpus, a, edits, a.out / f"{recipe}-{a.speaker}"), corpus, [task], recipe=recipe,
              speaker=a.speaker)


def unlabelled(a: argparse.Namespace, edits: dict[str, Any]) -> None:
    """What hearing sounds without labels is worth: letters from HuBERT, and from nothing."""
    corpus = fsdd(a)
    for recipe in ("hubert", "wav2vec2"):
        fit(recipe, corpus, a, edits, a.out / recipe)
    for name, base in (("letters after hubert", str(a.out / "hubert")), ("letters from nothing", "")):
        run = fit("letters", corpus, a, {**edits, "base": base}, a.out / name.replace(" ", "-"))
        judge(run, corpus, ["word_errors"], recipe=name, speaker=a.speaker)


def named(a: argparse.Namespace, edits: dict[str, Any]) -> None:
    """CLAP: digits of a held-out voice and sounds of the world, named by words."""
    corpus = fsdd(a)
    judge(fit("clap", corpus, a, edits, a.out / f"clap-{a.speaker}"), corpus, ["sound_words"], recipe="clap",
          speaker=a.speaker)
    if a.esc:
        corpus = esc10(a)
        more = {"model.rate": 16000, "model.seconds": 5.0, "model.mels": 64, "model.spec": 256, "model.patch": 8,
                "train.steps": 300, "train.batch": 16, "objective.changes": WIDE}
        judge(fit("clap", corpus, a, {**more, **edits}, a.out / "clap-esc"), corpus, ["sound_words"], recipe="clap",
              set="esc10")


def esc10(a: argparse.Namespace) -> Corpus:
    """ESC-10: ten classes, ten clips each; fold 5 is never trained on."""
    def row(name: str) -> tuple[str, dict[str, str]] | None:
        if not name.endswith(".ogg"):
            return None
        label, fold = Path(name).parent.name.partition("-")[2].replace("_", " ").lower(), Path(name).name[0]
        split = {"5": "test", "4": "validation"}.get(fold, "train")
        return split, {"text": label, "label": label}
    return corpus_of(a.out / "esc10", members(a.esc / "esc10.tar"), row)


def world(a: argparse.Namespace, edits: dict[str, Any]) -> None:
    """Sounds of the world by their class."""
    corpus = esc10(a)
    more = {"model.rate": 16000, "model.places": 250, "objective.changes": WIDE, "train.steps": 300, "train.batch": 16}
    judge(fit("spoken", corpus, a, {**more, **edits}, a.out / "esc"), corpus, ["sound_classes"], recipe="spoken",
          set="esc10")


def voices(a: argparse.Namespace, edits: dict[str, Any]) -> None:
    """A codec and a voice, and what the classifier of `digits`, which heard neither, says of their sounds."""
    corpus = fsdd(a)
    ear = fit("audio_codec", corpus, a, edits, a.out / "codec")
    voice = fit("speak", corpus, a, {**edits, "objective.ear": str(ear)}, a.out / "speak")
    objective, codec = open_run(voice)
    assert isinstance(objective, SoundTokens) and codec is not None
    judge_of = Subject.open(a.out / f"spoken-{a.speaker}").module
    names: Any = judge_of.config.labels                        # type: ignore[union-attr]
    tests = list(corpus.documents("test"))

    tar, right, plain = Tar(corpus.folder / "test.tar"), 0, 0
    c = objective.ear.config
    for d in tests[:200]:
        x = decode(tar[d.fields["audio"]], c.rate)[:c.samples]
        padded = np.pad(normal(x), (0, c.samples - len(x)))
        with torch.no_grad():
            again = objective.ear.sound(objective.ear.tokens(torch.from_numpy(padded)[None]))[0].numpy()
        both = logits(judge_of, [0.1 * padded, 0.1 * again]).argmax(1)
        plain, right = plain + (names[both[0]] == d.fields["label"]), right + (names[both[1]] == d.fields["label"])
    print(json.dumps({"resynthesised": right / len(tests[:200]), "themselves": plain / len(tests[:200])}))
    said = objective.speaker(codec).speak([word for word in WORDS for _ in range(SPOKEN)], a.seed, 0.9, 0).numpy()
    heard = logits(judge_of, list(said)).argmax(1)
    hits = sum(names[i] == str(n // SPOKEN) for n, i in enumerate(heard.tolist()))
    interval = wilson(hits, len(said))
    print(json.dumps({"spoken digits that are understood": hits / len(said), "n": len(said),
                      "interval": [interval.low, interval.high]}))
    for digit in range(10):                                    # the first of each, not chosen
        (a.out / f"{digit}.wav").write_bytes(encode(said[digit * SPOKEN], c.rate))


def series(a: argparse.Namespace, edits: dict[str, Any]) -> None:
    """Joint angles of a hand that opens doors: whole demonstrations are held out."""
    with np.load(a.door / "door_demos.npz") as file:
        demos = [file[name] for name in sorted(file.files) if "obs" in name]
    folder = a.out / "door"
    folder.mkdir(parents=True, exist_ok=True)
    for split, some in (("train", demos[:17]), ("validation", demos[17:20]), ("test", demos[20:])):
        rows = [{"series": [round(float(x), 6) for x in demo[:, joint]]} for demo in some for joint in range(0, 28)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = labelled(folder, a.out / "door.corpus")
    judge(fit("series", corpus, a, edits, a.out / "series"), corpus, ["forecast"], recipe="series")


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("edits", nargs="*", metavar="EDIT=VALUE")
    parser.add_argument("--fsdd", type=Path)
    parser.add_argument("--esc", type=Path)
    parser.add_argument("--door", type=Path)
    parser.add_argument("--speaker", default="theo")
    parser.add_argument("--out", type=Path, default=Path("runs/sounds"))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    PARTS[a.part](a, parse_edits(a.edits))


PARTS: dict[str, Callable[[argparse.Namespace, dict[str, Any]], None]] = {
    "digits": digits, "unlabelled": unlabelled, "world": world, "named": named, "voices": voices, "series": series}

if __name__ == "__main__":
    main()
