"""From a base to an assistant (rows A4, D-9, B33): are instructions followed, is what was said before remembered?

    python -m benchmarks.assistant DATA --out FOLDER [--part instructions|recall] [--seed 0] [--tiny]

DATA holds p3-open. The base is that of `benchmarks.copying`: it copies, and has read p3-open as plain text.
`instructions` tunes it on instructions whose form is checked (`benchmarks.instructions`), then by DPO on its own
answers to training instructions, of which the check calls one right and one wrong; base, tuned and preferred model are
asked held-out instructions with words, and half of them with phrasings, that no training instruction has. The base is
asked in the chat template and with four worked examples; the better counts. `recall` tunes the base on conversations in
which the user tells three things, other requests between them, and asks for one told k turns before. Every model is a
run folder that `meristem chat FOLDER` and `meristem serve FOLDER` open. Interrupted, the same command goes on.
"""
import argparse
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation import write
from benchmarks.common import kept, record
from benchmarks.copying import base_of, questions
from benchmarks.instructions import KINDS, Asked, is_test, made
from meristem.codecs.chat import usual
from meristem.core.config import edit
from meristem.core.random import seed_of
from meristem.data.conversations import Reader
from meristem.evals.statistics import mcnemar, wilson
from meristem.generate.sampling import Sampling
from meristem.generate.text import complete
from meristem.hub import hf
from meristem.recipes import recipes
from meristem.train.run import pretrain

TURNS = (1, 2, 3, 4)
LENGTH = 64                             # bytes of an answer, at most
THINGS = ("dog's name", "favourite word", "secret word", "cat's name", "boat's name", "password")
TOLD = ("My {thing} is {value}.", "Remember that my {thing} is {value}.", "By the way, my {thing} is {value}.",
        "You should know: my {thing} is {value}.")
WANTED = ("What is my {thing}?", "Tell me my {thing}.", "Do you know my {thing}?", "Which is my {thing}?")
Messages = list[dict[str, str]]


def words_of(texts: Sequence[str], count: int) -> list[str]:
    """The most common words of four to eight small letters."""
    found = Counter(word for text in texts for word in re.findall(r"\b[a-z]{4,8}\b", text))
    return [word for word, _ in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:count]]


def tuned(base: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]], out: Path, recipe: str, seed: int,
          edits: Mapping[str, Any]) -> Path:
    """A recipe of recipes/alignment.py on the base."""
    folder = write(out.with_name(f"{out.name}.rows"), rows)
    return pretrain(edit(recipes()[recipe](), {
        "base": str(base), "seed": seed, "data.corpus": str(folder), "train.validate_every": 0, "train.compile": False,
        "train.guard": False, **edits}), out)


def said(model: Path, what: str, conversations: Sequence[Messages], temperature: float = 0.0,
         seed: int = 0) -> list[str]:
    """The assistant's next words after each conversation; `what` names them among the model's answers."""
    return kept(model.parent / "answers" / f"{model.name}-{what}.json",
                lambda: _said(model, conversations, temperature, seed))


def _said(model: Path, conversations: Sequence[Messages], temperature: float, seed: int) -> list[str]:
    loaded = hf.load(model)
    assert loaded.codec is not None
    reader = Reader(loaded.codec, loaded.chat or usual(loaded.codec))
    sampling = Sampling(length=LENGTH, temperature=temperature, seed=seed)
    rows, out = [reader.prompt({"messages": messages}) for messages in conversations], list[str]()
    for start in range(0, len(rows), 100):
        done = complete(loaded.module, loaded.codec, rows[start:start + 100], sampling, also=reader.ends)
        out += [one.text for one in done]
    return out


def continued(model: Path, asked: Sequence[Asked], shown: Sequence[Asked]) -> list[str]:
    """What a plain model writes after worked examples and the instruction, up to an empty line."""
    loaded = hf.load(model)
    assert loaded.codec is not None
    before, reader = "".join(f"{a.asked}\n{a.answer}\n\n" for a in shown), Reader(loaded.codec)
    rows = [reader.prompt({"prompt": f"{before}{a.asked}\n"}) for a in asked]
    return [one.text for start in range(0, len(rows), 50) for one in
            complete(loaded.module, loaded.codec, rows[start:start + 50], Sampling(length=LENGTH, stop=("\n\n",)))]


def user(text: str) -> Messages:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def share(right: Sequence[float]) -> dict[str, Any]:
    """A share with its interval."""
    interval = wilson(int(sum(right)), len(right))
    return {"share": round(sum(right) / len(right), 4), "low": round(interval.low, 4), "high": round(interval.high, 4),
            "n": len(right)}


def instructions(base: Path, words: Sequence[str], out: Path, seed: int, tiny: bool) -> dict[str, Any]:
    """Followed instructions of the base, after tuning, after preferences."""
    train, more = made("train", 60 if tiny else 9000, 0, words), {"train.batch": 2} if tiny else {}
    chats = [{"messages": [*user(a.asked), {"role": "assistant", "content": a.answer}]} for a in train]
    held = 24 if tiny else 100
    sft = tuned(base, {"train": chats[held:], "validation": chats[:held // 2], "test": chats[held // 2:held]},
                out / f"sft-{seed}", "sft", seed,
                {"train.steps": 2 if tiny else 500, "train.batch": 16, "train.optimizer": "muon", "train.lr": 1e-2,
                 **more})
    own = train[-(24 if tiny else 1200):]
    drawn = [said(sft, f"drawn-{n}", [user(a.asked) for a in own], 1.0, n) for n in (1, 2)]
    pairs = [{"prompt": user(a.asked), "chosen": x.strip(), "rejected": y.strip()} for a, *both in
             zip(own, *drawn, strict=True) for x, y in (both, both[::-1])
             if a.right(x) and not a.right(y) and x.strip() and y.strip()]
    models, found = {"tuned": sft}, {"pairs for preferences": len(pairs)}
    if len(pairs) >= 50:
        models["preferred"] = tuned(sft, {"train": pairs[20:], "validation": pairs[:10], "test": pairs[10:20]},
                                    out / f"dpo-{seed}", "dpo", seed,
                                    {"train.steps": 40, "train.lr": 3e-5, "train.context": 320})
    asked = made("test", 48 if tiny else 600, 0, words)
    shown = [next(a for a in train if a.kind == kind) for kind in ("repeat", "json", "dashes", "ends")]
    texts = {"base, chat template": said(base, "asked", [user(a.asked) for a in asked]),
             "base, four examples": kept(out / "answers" / "base-shown.json", lambda: continued(base, asked, shown)),
             **{name: said(model, "asked", [user(a.asked) for a in asked]) for name, model in models.items()}}
    right = {name: [float(a.right(t)) for a, t in zip(asked, some, strict=True)] for name, some in texts.items()}
    best = max(("base, chat template", "base, four examples"), key=lambda name: sum(right[name]))
    for name, values in right.items():
        judged = list(zip(values, asked, strict=True))
        found[name] = {**share(values), "phrasings of training": share([v for v, a in judged if not a.new]),
                       "phrasings never seen": share([v for v, a in judged if a.new]),
                       "by kind": {kind: round(float(np.mean([v for v, a in judged if a.kind == kind])), 3)
                                   for kind in KINDS}}
    for name in models:
        gain = mcnemar(right[name], right[best])
        found[f"{name} over {best}, points"] = [round(100 * x, 1) for x in (
            gain.value, gain.interval.low, gain.interval.high)]
    found["first answers of the tuned model"] = [[a.asked, t.strip()] for a, t in
                                                 zip(asked[:12], texts["tuned"], strict=False)]
    return found


def conversation(rng: np.random.Generator, words: Sequence[str], between: Sequence[Asked],
                 back: int) -> tuple[Messages, str, list[str]]:
    """Three things told, one of them `back` turns before it is asked for: messages, its value, all values in order."""
    turns = max(TURNS)
    things = [THINGS[i] for i in rng.choice(len(THINGS), 3, replace=False)]
    values = [words[i] for i in rng.choice(len(words), 3, replace=False)]
    place = turns - back
    others = rng.choice([i for i in range(turns) if i != place], 2, replace=False).tolist()
    told = dict(zip([place, *others], zip(things, values, strict=True), strict=True))
    messages: Messages = []
    for turn in range(turns):
        if turn in told:
            thing, value = told[turn]
            text = TOLD[rng.integers(len(TOLD))].format(thing=thing, value=value)
            messages += [*user(text), {"role": "assistant", "content": "I will remember it."}]
        else:
            one = between[rng.integers(len(between))]
            messages += [*user(one.asked), {"role": "assistant", "content": one.answer}]
    messages += user(WANTED[rng.integers(len(WANTED))].format(thing=things[0]))
    return messages, values[0], [told[turn][1] for turn in sorted(told)]


def recall(base: Path, words: Sequence[str], out: Path, seed: int, tiny: bool) -> dict[str, Any]:
    """Things told one to four turns before, by values that training has not."""
    between = {split: made(split, 24 if tiny else 600, 1, words) for split in ("train", "test")}
    own = {split: [w for w in words if is_test(w) == (split == "test")] for split in ("train", "test")}
    rng, rows = np.random.default_rng(seed_of(0, "recall", "train")), list[dict[str, Messages]]()
    for number in range(60 if tiny else 6000):
        messages, value, _ = conversation(rng, own["train"], between["train"], TURNS[number % len(TURNS)])
        rows.append({"messages": [*messages, {"role": "assistant", "content": f"It is {value}."}]})
    held = 20 if tiny else 100
    model = tuned(base, {"train": rows[held:], "validation": rows[:held // 2], "test": rows[held // 2:held]},
                  out / f"recall-{seed}", "sft", seed,
                  {"train.steps": 2 if tiny else 500, "train.optimizer": "muon", "train.lr": 1e-2,
                   "train.context": 448, "train.batch": 2 if tiny else 16})
    found: dict[str, Any] = {}
    for back in TURNS:
        rng = np.random.default_rng(seed_of(0, "recall", "test", back))
        asked = [conversation(rng, own["test"], between["test"], back) for _ in range(10 if tiny else 200)]
        answers = said(model, f"{back}-back", [messages for messages, _, _ in asked])
        found[f"{back} turns back"] = share([float(text.strip() == f"It is {value}.")
                                             for text, (_, value, _) in zip(answers, asked, strict=True)])
        found[f"{back} turns back, the thing told last"] = share([float(every[-1] == value)
                                                                  for _, value, every in asked])
        print(back, found[f"{back} turns back"], flush=True)
    return found


def main() -> None:
    """Parse the command line and run the asked parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("instructions", "recall"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a few rows and steps, to see that it runs")
    given = parser.parse_args()
    texts = questions(given.data)
    words, base = words_of(texts, 2000), base_of(texts, given.out, 0, given.tiny)
    spent = time.process_time() / 60
    for name, part in (("instructions", instructions), ("recall", recall)):
        if given.part in (None, name):
            start = time.process_time()
            found = part(base, words, given.out, given.seed, given.tiny)
            record(f"assistant-{name}-{given.seed}{'-tiny' * given.tiny}", {
                **found, "cpu_minutes": {"base": round(spent, 2), name: round((time.process_time() - start) / 60, 2)}})


if __name__ == "__main__":
    main()
