"""Rows A21, B2, B24, B25, B27, C6, F8, H14, H15, I7: two towers on real pictures, judged on what they were never shown.

    python -m benchmarks.image_text tones --emoji EMOJI --font NotoColorEmoji.ttf --out runs/image-text
    python -m benchmarks.image_text digits --out runs/image-text
    python -m benchmarks.image_text cards --clipart openclipart/png --out runs/image-text
    python -m benchmarks.image_text flags --font NotoColorEmoji.ttf --clipart openclipart/png --out runs/image-text
    python -m benchmarks.image_text animals --clipart openclipart/png --emoji EMOJI --out runs/image-text

EMOJI: a folder with Noto's captions.jsonl and noto72.tar.gz. The font is Debian's fonts-noto-color-emoji: the same
drawings with skin tones, which Pillow puts together. The clip art is Debian's openclipart-png (public domain). Every
part writes rows, trains with the recipe `clip` and prints one JSON line a certificate; EDIT=VALUE words after the part
go to the recipe. Nothing of a test set is in its training set: tests of `Visual.seen` say so in each certificate.
"""
import argparse
import io
import json
import random
import re
import tarfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from meristem.core.config import parse_edits, to_dict
from meristem.corpus.labelled import labelled
from meristem.corpus.store import Corpus
from meristem.data import digits
from meristem.data.sieve import Sieve
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.recipes import resolve
from meristem.train.run import pretrain

Row = dict[str, Any]
TONES = {"light": 0x1F3FB, "medium-light": 0x1F3FC, "medium": 0x1F3FD, "medium-dark": 0x1F3FE, "dark": 0x1F3FF}
PHRASES = ("a picture of {}", "an icon of {}", "this is {}", "a drawing: {}", "the emoji {}", "{}, a picture")
ONE_GLYPH = (136, 128)                  # pixels of Noto's bitmaps at its only size, 109
RANKS = {"a": "ace", "j": "jack", "q": "queen", "k": "king"}
THINGS = ("animals", "food", "plants", "people", "transportation", "buildings", "tools")       # folders of clip art
SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}


def write(folder: Path, pictures: dict[str, bytes], **splits: list[Row]) -> Path:
    """Rows by split and the pictures that they name; equal rows in another split are the test's (corpus.labelled)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in {row["image"] for rows in splits.values() for row in rows}:
        (folder / name).write_bytes(pictures[name])
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def phrased(caption: str, key: str) -> str:
    """A caption in one of a few phrasings, the same one every time."""
    return random.Random(key).choice(PHRASES).format(caption)


def emoji(folder: Path) -> Iterator[tuple[Row, bytes]]:
    """Noto's rows with their pictures."""
    with tarfile.open(folder / "noto72.tar.gz") as tar:
        pictures = {m.name.rpartition("/")[2]: found.read() for m in tar if (found := tar.extractfile(m))}
    for text in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        if row["file"] in pictures:
            yield row, pictures[row["file"]]


def toned(codepoints: str, font: Any) -> dict[str, bytes]:
    """An emoji in the five skin tones, or nothing where it has none: the font then draws two glyphs, or the same."""
    from PIL import Image, ImageDraw
    first, *rest = (int(code, 16) for code in codepoints.split("-"))
    rest = rest[1:] if rest[:1] == [0xFE0F] else rest
    made = {}
    for tone, modifier in TONES.items():
        text = "".join(map(chr, [first, modifier, *rest]))
        if font.getbbox(text)[2:] != ONE_GLYPH:
            return {}
        picture = Image.new("RGB", ONE_GLYPH, "white")
        ImageDraw.Draw(picture).text((0, 0), text, font=font, embedded_color=True)
        out = io.BytesIO()
        picture.resize((72, 68), Image.Resampling.LANCZOS).save(out, format="PNG")
        made[tone] = out.getvalue()
    return made if len(set(made.values())) == len(TONES) else {}


def tones(a: argparse.Namespace, edits: Row) -> None:
    """A21, B2, C6, H14, H15: people in five skin tones; one tone of each is held out, and every seventh whole class."""
    from PIL import ImageFont
    font = ImageFont.truetype(str(a.font), 109, layout_engine=ImageFont.Layout.RAQM)
    pictures, rng = dict[str, bytes](), random.Random(a.seed)
    train, sets = list[Row](), {"seen": list[Row](), "combination": list[Row](), "class": list[Row]()}
    for number, (row, raw) in enumerate(sorted(emoji(a.emoji), key=lambda pair: pair[0]["codepoints"])):
        name, made = row["caption"], toned(row["codepoints"], font) if row["group"] == "People & Body" else {}
        new, apart = bool(made) and rng.random() < 1 / 7, rng.choice([*TONES])
        for tone, picture in made.items():
            file = f"{number}-{tone}.png"
            pictures[file] = picture
            which = "class" if new else "combination" if tone == apart else "seen"
            asked = {"image": file, "text": f"{name}: {tone} skin tone"}
            sets[which].append({**asked, "name": name, "tone": f"{tone} skin tone"})
            if which == "seen":                                # as it is asked, and in another phrasing
                train += [asked, {**asked, "text": phrased(asked["text"], file)}]
        if not new:
            pictures[f"{number}.png"] = raw
            train += [{"image": f"{number}.png", "text": text} for text in (name, phrased(name, str(number)))]
    rng.shuffle(train)
    sets["seen"] = rng.sample(sets["seen"], len(sets["combination"]))
    held = len(train) // 20
    print(json.dumps({"train": len(train) - held, **{which: len(rows) for which, rows in sets.items()}}))
    root, run = a.out / "tones", None
    for which, rows in (("combination", sets["combination"]), ("seen", sets["seen"]), ("class", sets["class"])):
        for label in ("tone", "name"):
            test = [{"image": row["image"], "text": row["text"], "label": row[label]} for row in rows]
            corpus = labelled(write(root / f"{which}-{label}", pictures, train=train[held:], validation=train[:held],
                                    test=test))
            run = run or fit("clip", corpus, a, edits, root / "run")
            judge(run, corpus, ["zero_shot", "retrieval"] if label == "tone" else ["zero_shot"], part=which,
                  label=label)


def strings(a: argparse.Namespace, edits: Row) -> None:
    """B27: numbers of three real digits, none of them in training; before and after it was shown any string."""
    root = a.out / "digits"
    single, triple = (digits.make(root / name, fields) for name, fields in (
        ("single", {}), ("triple", {"places": 3, "documents": 6000, "seed": a.seed})))
    base = fit("clip", single, a, {**edits, "train.steps": 200}, root / "base")
    judge(base, single, ["zero_shot"], part="one digit", model="digits")
    judge(base, triple, ["zero_shot", "retrieval"], part="three digits", model="digits: zero-shot")
    tuned = fit("clip", triple, a, {**edits, "base": str(base)}, root / "tuned")
    judge(tuned, triple, ["zero_shot", "retrieval"], part="three digits", model="fine-tuned on other strings")


def cards(a: argparse.Namespace, edits: Row) -> None:
    """B24: playing cards of four designs; twelve of the 52 are shown in none, and told apart by their names."""
    names = {f"{suit}_{rank}": f"{RANKS.get(rank, rank)} of {SUITS[suit]}"
             for suit in SUITS for rank in ("a", "j", "q", "k", *map(str, range(2, 11)))}
    rng, train, test, pictures = random.Random(a.seed), list[Row](), list[Row](), dict[str, bytes]()
    held = {f"{suit}_{rank}" for suit in SUITS for rank in rng.sample([*RANKS, *map(str, range(2, 11))], 3)}
    for design in ("white", "simple", "bordered", "ornamental"):
        for key, name in names.items():
            file = f"{design}_{key}.png"
            raw = (a.clipart / "recreation" / "games" / "cards" / design / file).read_bytes()
            for number, picture in enumerate(moved(raw, rng, 1 if key in held else 12)):
                pictures[f"{number}-{file}"] = picture
                row = {"image": f"{number}-{file}", "text": name, "label": name}
                (test if key in held else train).append(row)
    rng.shuffle(train)
    root, held_out = a.out / "cards", len(train) // 20
    print(json.dumps({"train": len(train) - held_out, "test": len(test), "unseen cards": len(held)}))
    corpus = labelled(write(root / "rows", pictures, train=train[held_out:], validation=train[:held_out], test=test))
    judge(fit("clip", corpus, a, edits, root / "run"), corpus, ["zero_shot", "retrieval"], part="unseen cards")


def flags(a: argparse.Namespace, edits: Row) -> None:
    """B25: flags as Noto draws them, waving, with their places' names; asked for in the flat drawings of the clip art.

    No drawing of the second family is in training. Names of places are CLDR's (package babel).
    """
    from babel import Locale  # type: ignore[import-untyped, unused-ignore]
    from PIL import ImageFont
    font = ImageFont.truetype(str(a.font), 109, layout_engine=ImageFont.Layout.RAQM)
    codes = {plain(name): (code, name) for code, name in Locale("en").territories.items()
             if len(code) == 2 and code.isalpha()}
    rng, train, test, pictures = random.Random(a.seed), list[Row](), list[Row](), dict[str, bytes]()
    root, folder, done = a.out / "flags", a.clipart / "signs_and_symbols" / "flags", set[str]()
    for continent in ("africa", "america", "asia", "europe", "oceania"):
        for file in sorted((folder / continent).rglob("*.png")):
            code, name = codes.get(plain(file.stem), ("", ""))
            raw = waving(code, font) if code not in done else b""
            if not raw:
                continue
            done.add(code)
            for number, picture in enumerate(moved(raw, rng, 16)):
                pictures[f"{number}-{code}.png"] = picture
                train.append({"image": f"{number}-{code}.png", "text": name})
            pictures[f"flat-{code}.png"] = next(moved(file.read_bytes(), rng, 1))
            test.append({"image": f"flat-{code}.png", "text": name, "label": name})
    rng.shuffle(train)
    held = len(train) // 20
    print(json.dumps({"places": len(test), "train": len(train) - held}))
    corpus = labelled(write(root / "rows", pictures, train=train[held:], validation=train[:held], test=test))
    judge(fit("clip", corpus, a, {"objective.together": True, **edits}, root / "run"), corpus, ["retrieval"],
          part="flat drawings")


def plain(name: str) -> str:
    """The letters of a place's name: what stands in brackets, accents and "and" left out, "saint" cut short."""
    text = unicodedata.normalize("NFKD", name.partition("(")[0].lower()).replace("&", "and")
    words = ["st" if word == "saint" else word for word in re.findall(r"[a-z]+", text) if word not in ("and", "the")]
    return "".join(words)


def waving(code: str, font: Any) -> bytes:
    """Noto's flag of a place by its two letters, cut to what it covers; b"" where the font has none."""
    from PIL import Image, ImageDraw
    text = "".join(chr(0x1F1E6 + ord(letter) - ord("A")) for letter in code)
    if not code or font.getbbox(text)[2:] != ONE_GLYPH:
        return b""
    picture = Image.new("RGBA", ONE_GLYPH)
    ImageDraw.Draw(picture).text((0, 0), text, font=font, embedded_color=True)
    out = io.BytesIO()
    picture.crop(picture.getbbox()).save(out, format="PNG")
    return out.getvalue()


def moved(raw: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """A picture on white, as it is, then slightly turned, scaled and shifted."""
    from PIL import Image
    with Image.open(io.BytesIO(raw)) as opened:
        picture = opened.convert("RGBA")
    side = max(picture.size)
    ground = Image.new("RGBA", (side, side), "white")
    ground.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    plain = ground.convert("RGB").resize((96, 96), Image.Resampling.LANCZOS)
    for number in range(count):
        angle, scale, dx, dy = (rng.uniform(-6, 6), rng.uniform(0.9, 1.1), rng.uniform(-4, 4), rng.uniform(-4, 4))
        made = plain if not number else plain.rotate(angle, Image.Resampling.BICUBIC, translate=(dx, dy),
                                                     fillcolor="white").resize((round(96 * scale),) * 2)
        out = io.BytesIO()
        made.save(out, format="PNG")
        yield out.getvalue()


def animals(a: argparse.Namespace, edits: Row) -> None:
    """I7, F8: clip art and emoji with their names, sifted; dogs from cats and five kinds of animals, kept out of it."""
    kinds = {"dogs": "dog", "housecats": "cat", "birds": "bird", "bugs": "bug", "fish": "fish", "dinosaurs": "dinosaur"}
    rng, train, test, pictures = random.Random(a.seed), list[Row](), list[Row](), dict[str, bytes]()
    for file in sorted(a.clipart.rglob("*.png")):
        inside = file.relative_to(a.clipart)
        if inside.parts[0] not in THINGS or file.stat().st_size > 200_000:     # icons; drawings of a second each
            continue
        name = str(inside).replace("/", "-")
        kind = next((kinds[part] for part in inside.parts if part in kinds), "")
        kind = kind or ("dog" if file.name.startswith("dog_") else "cat" if "cat_" in file.name else "")
        caption = " ".join([kind or inside.parts[-2].replace("_", " "), words(file.stem)]).strip()
        row = {"image": name, "text": caption}
        pictures[name] = file.read_bytes()
        if kind and inside.parts[0] == "animals" and rng.random() < 0.5:
            test.append({**row, "text": kind, "label": kind})
        else:
            train.append(row)
    for row, raw in emoji(a.emoji):
        pictures[row["file"]] = raw
        train.append({"image": row["file"], "text": row["caption"]})
    rng.shuffle(train)
    root, held = a.out / "animals", len(train) // 20
    folder = write(root / "rows", pictures, train=train[held:], validation=train[:held], test=test)
    corpus = labelled(folder, root / "corpus", sieve=Sieve())
    print(json.dumps({"seen": corpus.summary["seen"], "dropped": corpus.summary["dropped"],
                      "splits": corpus.summary["splits"]}))
    run = fit("clip", corpus, a, edits, root / "run")
    judge(run, corpus, ["zero_shot", "linear_probe"], part="kinds of animals")
    pets = [row for row in test if row["label"] in ("dog", "cat")]
    judge(run, labelled(write(root / "pets", pictures, train=train[held:], validation=train[:held], test=pets)),
          ["zero_shot"], part="dogs and cats")


def words(stem: str) -> str:
    """The words of a clip art's name without its author and number: what stands before the last two parts."""
    parts = [part for part in re.split(r"[_\W]+", stem.lower()) if part and not part.isdigit()]
    return " ".join(parts[:3])


def fit(recipe: str, corpus: Corpus, a: argparse.Namespace, edits: Row, out: Path) -> Path:
    """Train a recipe on a corpus; prints CPU minutes (of all its launches), parameters and the last losses."""
    run, _ = resolve(recipe, {"data.corpus": str(corpus.folder), "seed": a.seed, **edits})
    start, spent = time.process_time(), out.with_name(out.name + ".cpu")
    try:
        pretrain(run, out)
    finally:
        before = float(spent.read_text()) if spent.is_file() else 0.0
        spent.write_text(str(before + time.process_time() - start))
    result = json.loads((out / "result.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    print(json.dumps({"run": str(out), "cpu_minutes": round(float(spent.read_text()) / 60, 2),
                      "parameters": manifest["parameters"], **{k: result[k] for k in ("loss", "validation", "step")}}))
    return out


def judge(out: Path, corpus: Corpus, tasks: list[str], **facts: str) -> list[Row]:
    """One JSON line a certificate, and all of them."""
    lines: list[Row] = []
    for score in evaluate(Subject.open(out), corpus, tasks):
        tree = to_dict(score)
        beside = [tree["baseline"], *tree["beside"]]
        lines.append({**facts, "score": score.name, "value": round(score.value, 4), "n": score.n,
                      "interval": [round(score.interval.low, 4), round(score.interval.high, 4)],
                      "baselines": {b["what"]: round(b["value"], 4) for b in beside if b},
                      "seen": score.contamination.exact if score.contamination else None})
        print(json.dumps(lines[-1]), flush=True)
    return lines


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("edits", nargs="*", metavar="EDIT=VALUE")
    parser.add_argument("--emoji", type=Path)
    parser.add_argument("--font", type=Path)
    parser.add_argument("--clipart", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/image-text"))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    PARTS[a.part](a, parse_edits(a.edits))


PARTS: dict[str, Callable[[argparse.Namespace, Row], None]] = {
    "tones": tones, "digits": strings, "cards": cards, "flags": flags, "animals": animals}

if __name__ == "__main__":
    main()
