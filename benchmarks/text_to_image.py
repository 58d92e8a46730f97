"""Rows A24, A25, A26, B15, B16, B18, B19, B20, B22, C9, C10: pictures from captions, judged by classifiers.

    python -m benchmarks.text_to_image scenes --out runs/text-to-image     # DALL-E and unCLIP, unseen pairs
    python -m benchmarks.text_to_image captions --out runs/text-to-image   # DALL-E 3: recaptioned rows
    python -m benchmarks.text_to_image looks --out runs/text-to-image      # night and faces: style, new combinations
    python -m benchmarks.text_to_image edits --out runs/text-to-image      # instructions: colour, shape, light
    python -m benchmarks.text_to_image shadows --out runs/text-to-image    # instructions: does the shadow follow?

Pictures are 16 x 16 scenes of one shape (data/scenes.py); an eighth of the pairs of colour and shape is never trained
on, except by the judge, whose scenes have another seed. A part goes on where it was left: finished runs are kept. Every
result is a JSON line. `--tiny` proves in a minute that all of it runs.
"""
import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from meristem.codecs.image import encode
from meristem.core.config import to_dict
from meristem.core.files import read_json
from meristem.core.random import seed_of
from meristem.corpus.labelled import labelled
from meristem.corpus.store import Corpus
from meristem.data import edits, scenes, shadows
from meristem.data.objects import render, shadow_found
from meristem.evals.judge import Judge
from meristem.evals.pictures import Seen
from meristem.evals.run import evaluate
from meristem.evals.statistics import bootstrap, wilson
from meristem.evals.subject import Subject
from meristem.generate.image_tokens import Writer
from meristem.generate.pictures import Wish, paint
from meristem.generate.unclip import Unclip
from meristem.hub import hf
from meristem.recipes import resolve
from meristem.train.painting import as_bytes, as_grid, open_painter
from meristem.train.run import pretrain

Names = Callable[[torch.Tensor], list[str]]
SIDE, STEPS = 16, {False: 50, True: 2}  # of a picture; of DDIM back and forth
JUDGE = {"model.image": 2 * SIDE, "train.steps": 400, "train.batch": 64, "train.compile": False}
NIGHT, NEW = (22, 26, 54), ("diamond", "cross")                # these shapes have no face in training
LOOKS = {"": "", "face": " with a face", "night": " at night", "face night": " with a face at night"}
CLIP = {"model.image": SIDE, "model.patch": 4, "model.project": 128, "objective.together": True,
        "train.optimizer": "muon", "train.lr": 1e-2, "train.warmup": 20, "train.steps": 300, "train.compile": False}


def say(**facts: Any) -> None:
    """One line."""
    print(json.dumps(facts), flush=True)


def fit(recipe: str, corpus: Corpus, a: argparse.Namespace, name: str = "", **edits: Any) -> Path:
    """A finished run of a recipe; says its CPU minutes when it was not there yet."""
    out = a.out / (name or recipe)
    if (out / "result.json").exists():
        return out
    quick = {"train.steps": 3, "train.batch": 8, "train.warmup": 1} if a.tiny else {}
    run, _ = resolve(recipe, {"data.corpus": str(corpus.folder), "seed": a.seed, **edits, **quick})
    start = time.process_time()
    pretrain(run, out)
    result, manifest = read_json(out / "result.json"), read_json(out / "manifest.json")
    say(run=out.name, cpu_minutes=round((time.process_time() - start) / 60, 2), parameters=manifest["parameters"],
        **{key: result[key] for key in ("step", "loss", "validation")})
    return out


def dalle(corpus: Corpus, a: argparse.Namespace, name: str = "dalle", dvae: Path | None = None) -> Path:
    """Both stages."""
    return fit("dalle", corpus, a, name, **{"objective.autoencoder": str(dvae or fit("dvae", corpus, a))})


def unclip(corpus: Corpus, a: argparse.Namespace, prefix: str = "") -> Path:
    """CLIP, prior, decoder."""
    clip = fit("clip", corpus, a, prefix + "clip", **CLIP)
    prior = fit("prior", corpus, a, prefix + "prior", **{"objective.clip": str(clip)})
    return fit("unclip", corpus, a, prefix + "unclip", **{"objective.clip": str(clip), "objective.prior": str(prior)})


def certificates(run: Path, corpus: Corpus, judge: Path, a: argparse.Namespace, against: Path | None = None) -> None:
    """Caption consistency on unseen and on seen pairs."""
    tasks = [f"caption_consistency{kind}={judge}" for kind in ("", "_seen")]
    other = Subject.open(against) if against else None
    for score in evaluate(Subject.open(run), corpus, tasks, limit=4 if a.tiny else 0, against=other):
        beside = [score.baseline, *score.beside]
        say(run=run.name, score=score.name, value=round(score.value, 4), n=score.n,
            interval=[round(score.interval.low, 4), round(score.interval.high, 4)],
            baselines={one.what: round(one.value, 4) for one in beside if one},
            paired=to_dict(score.paired) if score.paired else None)


def share(what: str, right: list[bool], **facts: Any) -> None:
    """A share with its interval."""
    low, high = (interval := wilson(sum(right), len(right), len(right))).low, interval.high
    say(score=what, value=round(sum(right) / len(right), 4), n=len(right), interval=[round(low, 4), round(high, 4)],
        **facts)


def shown(path: Path, images: torch.Tensor, columns: int = 0) -> None:
    """A grid for the documentation."""
    path.write_bytes(as_grid(images, columns))


def parts_of_unclip(run: Path, corpus: Corpus, named: Names, a: argparse.Namespace) -> None:
    """The prior's cosine, what its absence does, variations, and text diffs."""
    painter, rows = open_painter(run), 4 if a.tiny else 128
    assert isinstance(painter, Unclip)
    side = painter.side
    test = Seen.of(corpus, "test", side).rows(np.arange(rows))
    real = torch.from_numpy(test.pixels).float() / 127.5 - 1
    with torch.no_grad():
        true, drawn = painter.reader.of_pictures(real), painter.vectors(tuple(test.captions), a.seed)
        chance = F.cosine_similarity(F.normalize(torch.randn(true.shape, generator=torch.Generator().manual_seed(0)),
                                                 dim=-1), true)
        other = F.cosine_similarity(drawn.roll(1, 0), true)
    near = F.cosine_similarity(drawn, true)
    say(score="prior_cosine", value=round(float(near.mean()), 4), n=rows, captions_direct=round(float(
        F.cosine_similarity(painter.reader.of_texts(test.captions)["caption"], true).mean()), 4),
        random=round(float(chance.mean()), 4), other_captions=round(float(other.mean()), 4),
        interval=[round(float(near.mean() + s * 1.96 * near.std() / rows**0.5), 4) for s in (-1, 1)])
    for name, one in (("prior", painter), ("no prior", replace(painter, prior=None))):
        images = paint(one, Wish(tuple(test.captions), seed=a.seed))
        share("consistency", [x == y for x, y in zip(named(images), test.labels, strict=True)], way=name)
        spread = []
        for caption in sorted(set(test.captions))[:6]:
            with torch.no_grad():
                vectors = painter.reader.of_pictures(paint(one, Wish((caption,) * 8, seed=a.seed)))
            spread += [1 - float(x @ y) for x, y in combinations(vectors, 2)]
        say(score="diversity", what="mean 1 - cosine of two pictures of one caption in CLIP's space", way=name,
            value=round(float(np.mean(spread)), 4), n=len(spread))
    kept, similar, control, pixels = [], [], [], []
    for i in range(min(rows, 32)):
        varied = paint(painter, Wish(("",) * 2, how="vary", image=real[i], seed=seed_of(a.seed, i)))
        with torch.no_grad():
            vectors = painter.reader.of_pictures(varied)
        similar += (vectors @ true[i]).tolist()
        control += (vectors @ true[(i + 7) % rows]).tolist()
        pixels += (varied - real[i]).abs().mean((1, 2, 3)).tolist()
        kept += [said == test.labels[i] for said in named(varied)]
    share("variations_keep_the_label", kept, clip_similarity=round(float(np.mean(similar)), 4),
          other_pictures=round(float(np.mean(control)), 4), pixels=round(float(np.mean(pixels)), 4))
    colour, shape = [], []
    for i in range(min(rows, 48)):
        was, form = test.labels[i].split()
        new = list(scenes.COLOURS)[(list(scenes.COLOURS).index(was) + 1 + i) % len(scenes.COLOURS)]
        if new == was:
            continue
        said = named(paint(painter, Wish((f"a {new} {form}",), how="edit", avoid=f"a {was} {form}", image=real[i],
                                         strength=0.5, steps=STEPS[a.tiny])))[0].split()
        colour.append(said[0] == new)
        shape.append(said[1] == form)
    share("text_diff_changes_the_colour", colour)
    share("text_diff_keeps_the_shape", shape)
    shown(a.out / f"{run.name}-variations.png", torch.cat([torch.cat([real[i:i + 1], paint(painter, Wish(
        ("",) * 7, how="vary", image=real[i], seed=a.seed))]) for i in range(4)]), 8)


def scene_runs(a: argparse.Namespace) -> None:
    """A24, A25, B15, B16, C9, C10."""
    documents = 40 if a.tiny else 6000
    corpus = scenes.make(a.out / "one", {"documents": documents, "side": SIDE, "objects": 1})
    apart = scenes.make(a.out / "all", {"documents": documents, "side": SIDE, "objects": 1, "seed": 1, "held_out": 0.0})
    judge = fit("resnet", apart, a, "judge", **JUDGE)
    named = judged_by(judge)
    first = dalle(corpus, a)
    certificates(first, corpus, judge, a)
    second = unclip(corpus, a)
    certificates(second, corpus, judge, a, against=first)
    ranked(first, a.out / "clip", corpus, named, a)
    parts_of_unclip(second, corpus, named, a)
    texts = tuple(Seen.of(corpus, "test", SIDE).captions[:16])
    for run in (first, second):
        shown(a.out / f"{run.name}.png", paint(open_painter(run), Wish(texts, seed=a.seed)))


def ranked(run: Path, clip: Path, corpus: Corpus, named: Names, a: argparse.Namespace) -> None:
    """DALL-E as its paper shows it (section 2.6): of eight draws the one that CLIP finds nearest to the caption."""
    painter, count = open_painter(run), 4 if a.tiny else 256
    assert isinstance(painter, Writer)
    painter = replace(painter, judge=hf.load(clip).module)
    for split in ("validation", "test"):
        found = Seen.of(corpus, split, SIDE)
        found = found.rows(range(min(count, len(found.captions))))
        images = paint(painter, Wish(tuple(found.captions), seed=2, temperature=0.7, guidance=1.5, best_of=8))
        share("caption_consistency_best_of_8", [x == y for x, y in zip(named(images), found.labels, strict=True)],
              split=split)


def judged_by(judge: Path) -> Names:
    """What a judge sees in pictures."""
    one = Judge(judge)
    return lambda images: one.named(as_bytes(images).numpy())


def caption_runs(a: argparse.Namespace) -> None:
    """A26: the web's captions leave out the colour, or are another picture's; a captioner's name both."""
    documents = 40 if a.tiny else 6000
    corpus = scenes.make(a.out / "one", {"documents": documents, "side": SIDE, "objects": 1})
    apart = scenes.make(a.out / "all", {"documents": documents, "side": SIDE, "objects": 1, "seed": 1, "held_out": 0.0})
    judge, dvae = fit("resnet", apart, a, "judge", **JUDGE), fit("dvae", corpus, a)
    captioner = judged_by(fit("resnet", apart, a, "captioner", **{**JUDGE, "seed": a.seed + 1}))   # another network
    for name in ("web", "recaptioned"):
        rows = a.out / f"{name}.rows"
        rows.mkdir(parents=True, exist_ok=True)
        for split in ("train", "validation"):
            found = Seen.of(corpus, split, SIDE)
            said = captioner(torch.from_numpy(found.pixels).float() / 127.5 - 1)
            lines = []
            for i, (pixels, caption) in enumerate(zip(found.pixels, found.captions, strict=True)):
                (rows / f"{split}{i}.png").write_bytes(encode(pixels))
                rng = np.random.default_rng(seed_of(a.seed, split, i))
                poor = found.captions[rng.integers(len(found.captions))] if rng.random() < 0.3 else \
                    f"a {caption.split()[-1]}" if rng.random() < 0.6 else caption
                text = poor if name == "web" else f"a {said[i]}"
                lines.append(json.dumps({"image": f"{split}{i}.png", "text": text, "label": found.labels[i]}))
            (rows / f"{split}.jsonl").write_text("\n".join(lines))
        test_rows(corpus, rows)
        made = labelled(rows)
        certificates(dalle(made, a, f"dalle-{name}", dvae), corpus, judge, a)


def test_rows(corpus: Corpus, rows: Path) -> None:
    """The test split with its true captions."""
    found, lines = Seen.of(corpus, "test", SIDE), []
    for i, pixels in enumerate(found.pixels):
        (rows / f"test{i}.png").write_bytes(encode(pixels))
        lines.append(json.dumps({"image": f"test{i}.png", "text": found.captions[i], "label": found.labels[i]}))
    (rows / "test.jsonl").write_text("\n".join(lines))


def looked(objects: list[scenes.Object], look: str) -> np.ndarray:
    """A scene by day or night, its first object with a face or without: two eyes and a mouth."""
    pixels = scenes.draw(objects, SIDE, NIGHT if "night" in look else (244, 242, 236))[0]
    if "face" in look:
        one = objects[0]
        x, y, r = one.x * SIDE, one.y * SIDE, one.radius * SIDE
        ink = (250, 250, 250) if one.colour in ("black", "blue", "purple") else (15, 15, 15)
        for dx, dy in ((-0.4, -0.3), (0.4, -0.3), (-0.3, 0.35), (0.0, 0.35), (0.3, 0.35)):
            pixels[:, int(y + dy * r), int(x + dx * r)] = ink
    return pixels


def look_rows(folder: Path, seed: int, documents: int, named: Callable[[str, str], str], new: bool) -> Corpus:
    """Scenes with looks; `named(label, look)` is a row's label. With `new` only the test split has NEW's faces."""
    kind = scenes.Scenes(documents=documents, seed=seed, side=SIDE, objects=1, held_out=0.0)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        lines = []
        for i in range(documents if split == "train" else max(1, documents // 10)):
            objects, caption = kind.scene(split, i)
            looks = list(LOOKS)
            if new:
                odd = objects[0].shape in NEW
                looks = [look for look in LOOKS if ("face" in look) == odd] if split == "test" and odd else \
                    [look for look in LOOKS if not (odd and "face" in look)]
            look = looks[seed_of(seed, "look", split, i) % len(looks)]
            (folder / f"{split}{i}.png").write_bytes(encode(looked(objects, look)))
            lines.append(json.dumps({"image": f"{split}{i}.png", "text": caption + LOOKS[look],
                                     "label": named(objects[0].name, look)}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return labelled(folder)


def look_runs(a: argparse.Namespace) -> None:
    """B19: from day to night and back by text diffs, content kept; B20: faces on shapes that never had one."""
    documents = 40 if a.tiny else 6000
    corpus = look_rows(a.out / "looks.rows", 0, documents, lambda label, look: label, True)
    content, look = (judged_by(fit("resnet", look_rows(a.out / f"{name}.rows", 1, documents, chosen, False), a, name,
                                   **JUDGE))
                     for name, chosen in (("judge-content", lambda label, look: label),
                                          ("judge-look", lambda label, look: look or "plain")))
    run, test = unclip(corpus, a, "looks-"), Seen.of(corpus, "test", SIDE)
    painter = open_painter(run)
    faced = [i for i, text in enumerate(test.captions) if "face" in text][:4 if a.tiny else 192]
    for name, odd in (("new", True), ("seen", False)):
        rows = [i for i in faced if (test.labels[i].split()[1] in NEW) == odd]
        images = paint(painter, Wish(tuple(test.captions[i] for i in rows), seed=a.seed)) if rows else None
        if images is not None:
            share("face_and_object", [x == test.labels[i] and "face" in y for i, x, y in
                                      zip(rows, content(images), look(images), strict=True)], objects=name)
            shown(a.out / f"faces-{name}.png", images[:16])
    flipped, kept = [], []
    for i in range(2 if a.tiny else 64):
        image = torch.from_numpy(test.pixels[i]).float() / 127.5 - 1
        was, bare = "night" in test.captions[i], f"a {test.labels[i]}"
        words = (bare, f"{bare} at night")
        made = paint(painter, Wish((words[not was],), how="edit", avoid=words[was], image=image, strength=0.5,
                                   steps=STEPS[a.tiny]))
        flipped.append(("night" in look(made)[0]) != was)
        kept.append(content(made)[0] == test.labels[i])
    share("style_flips", flipped)
    share("content_is_kept", kept)


def edit_runs(a: argparse.Namespace) -> None:
    """B18: what an instruction names changes, what it does not stays; pairs that come out were never trained on."""
    documents = 40 if a.tiny else 6000
    corpus = edits.make(a.out / "edits", {"documents": documents, "side": SIDE})
    apart = scenes.make(a.out / "all", {"documents": documents, "side": SIDE, "objects": 1, "seed": 1, "held_out": 0.0})
    named = judged_by(fit("resnet", apart, a, "judge", **JUDGE))
    words = fit("clip", corpus, a, "words", **{**CLIP, "train.steps": 100})
    run = fit("instruct", corpus, a, **{"objective.text": str(words), "data.codec.name": "saved",
                                        "data.codec.folder": str(words)})
    painter, kind = open_painter(run), edits.Edits(documents=documents, side=SIDE)
    right, kept, left, dark = (dict[str, list[Any]]() for _ in range(4))
    grid = []
    for i in range(2 if a.tiny else 160):
        before, after, said, now = kind.edit("test", i)
        old = torch.from_numpy(before.copy()).float() / 127.5 - 1
        made = paint(painter, Wish((said,), how="edit", image=old, seed=seed_of(a.seed, i)))
        what = "light" if said.startswith("make it") else "colour" if said.startswith("make") else "shape"
        ground = torch.from_numpy(((before == after).all(0)) & (before == before[:, :1, :1]).all(0))
        error = float((made[0] - old)[:, ground].square().mean()) if bool(ground.any()) else float("nan")
        if what == "light":
            dark.setdefault(what, []).append((float(made.mean((0, 1))[0, 0]) < 0) == ("night" in said))
        else:
            colour, shape = named(made)[0].split()
            right.setdefault(what, []).append((colour if what == "colour" else shape) ==
                                              (now.colour if what == "colour" else now.shape))
            kept.setdefault(what, []).append((shape if what == "colour" else colour) ==
                                             (now.shape if what == "colour" else now.colour))
            left.setdefault(what, []).append(10 * float(np.log10(4 / max(error, 1e-10))))
        if i < 8:
            grid += [old, made[0]]
    for what in right:
        share("instruction_is_followed", right[what], edit=what)
        share("the_other_attribute_is_kept", kept[what], edit=what)
        say(score="ground_psnr", edit=what, value=round(float(np.mean(left[what])), 2), n=len(left[what]),
            least=round(min(left[what]), 2))
    for what in dark:
        share("instruction_is_followed", dark[what], edit=what)
    shown(a.out / "instruct.png", torch.stack(grid), 4)


def average(what: str, values: list[float], **facts: Any) -> None:
    """A mean with its interval."""
    low = bootstrap(values, [1.0] * len(values), [str(i) for i in range(len(values))], 0)
    say(score=what, value=round(float(np.mean(values)), 4), n=len(values),
        interval=[round(low.low, 4), round(low.high, 4)], **facts)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union; 1 where both are empty."""
    return float((a & b).sum() / max(1, (a | b).sum())) if (a | b).any() else 1.0


def shadow_runs(a: argparse.Namespace) -> None:
    """B22: a scene is edited by a sentence; is the shadow where rays say that it must then be, and the ground kept?

    Beside it the picture that nobody edited, judged in the same way, and the true picture after the edit. The ground
    is what neither a thing nor a shadow covers before or after; where they were, its pattern must be painted anew.
    """
    corpus = shadows.make(a.out / "shadows", {"documents": 40 if a.tiny else 6000, "side": SIDE})
    words = fit("clip", corpus, a, "shadow-words", **{**CLIP, "train.steps": 100})
    run = fit("instruct", corpus, a, "shadow-instruct", **{"objective.text": str(words), "data.codec.name": "saved",
                                                           "data.codec.folder": str(words), "train.steps": 900})
    painter, kind = open_painter(run), shadows.Shadows(side=SIDE)
    found, grid = dict[tuple[str, str, str], list[float]](), []
    for i in range(2 if a.tiny else 240):
        before, after, said, what = kind.edit("test", i)
        old, new = (render(scene, SIDE) for scene in (before, after))
        image = torch.from_numpy(old.picture.copy()).float() / 127.5 - 1
        made = as_bytes(paint(painter, Wish((said,), how="edit", image=image, seed=seed_of(a.seed, i))))[0].numpy()
        covered = [one.things.any(0) | one.dark for one in (old, new)]
        for who, picture in (("edited", made), ("unedited", old.picture), ("true", new.picture)):
            dark = shadow_found(picture, after)
            error = (picture.astype(float) / 127.5 - new.picture.astype(float) / 127.5) ** 2
            for name, value in (("shadow_iou", overlap(dark, new.dark) if what != "remove" else None),
                                ("shadow_left", float(dark[old.dark].mean()) if what == "remove" else None),
                                ("ground", 10 * np.log10(4 / error[:, ~covered[0] & ~covered[1]].mean())
                                 if who == "edited" else None),
                                ("uncovered", 10 * np.log10(4 / error[:, covered[0] & ~covered[1]].mean())
                                 if who != "true" and (covered[0] & ~covered[1]).any() else None)):
                if value is not None:
                    found.setdefault((name, what, who), []).append(float(value))
        grid += [torch.from_numpy(one.copy()).float() / 127.5 - 1 for one in (old.picture, made, new.picture)]
    for (name, what, who), values in sorted(found.items()):
        average(name, values, edit=what, picture=who)
    shown(a.out / "shadows.png", torch.stack(grid[:48]), 12)


PARTS = {"scenes": scene_runs, "captions": caption_runs, "looks": look_runs, "edits": edit_runs, "shadows": shadow_runs}


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("--out", type=Path, default=Path("runs/text-to-image"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    PARTS[a.part](a)


if __name__ == "__main__":
    main()
