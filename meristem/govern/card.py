"""The model card: `model/README.md` in the Hugging Face format, from the run folder's files and nothing else.

    write(Path("runs/quickstart/base"))     # returns the path of the card

Mitchell et al. 2019, "Model cards for model reporting", with the front matter that huggingface.co reads (licence, tags,
datasets, model-index). What the folder does not record is named as a gap, never left out. Text that a model or a corpus
wrote stands in fenced blocks that it cannot close.
"""
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from meristem.core.config import Part
from meristem.core.errors import RequestError
from meristem.core.files import write_bytes
from meristem.core.run import Train
from meristem.govern import risk
from meristem.govern.facts import Facts, RunFacts, Tree, gather
from meristem.govern.lineage import links
from meristem.govern.numbers import MISSING, count, duration, in_unit, p_value, percent, short
from meristem.govern.report import gaps

SAMPLES = 2
# Of each objective: what its model is, and the task huggingface.co files it under.
KINDS = {
    **dict.fromkeys(("next_token", "fill_in_the_middle", "preference", "grpo", "ppo", "distillation"),
                    ("decoder language model", "text-generation")),
    "masked": ("masked language model", "fill-mask"), "span_corruption": ("encoder-decoder", "text2text-generation"),
    "seq2seq": ("encoder-decoder", "text2text-generation"), "contrastive": ("pair of towers", "feature-extraction"),
    "next_sentence": ("encoder", "feature-extraction"), "reward": ("reward model", "text-classification"),
    "self_distillation": ("picture encoder", "image-feature-extraction"), "segment": ("segmenter", "mask-generation"),
    "diffusion": ("diffusion model", "unconditional-image-generation"), "reconstruct": ("autoencoder", ""),
    "image_tokens": ("picture generator", "text-to-image"), "unclip": ("picture generator", "text-to-image"),
    "classify": ("classifier", "")}
NOTHING = ("model", "")
SHAPE = (("layers", "num_hidden_layers"), ("layers", "n_layer"), ("width", "hidden_size"), ("width", "n_embd"),
         ("hidden width", "intermediate_size"), ("heads", "num_attention_heads"), ("heads", "n_head"),
         ("key and value heads", "num_key_value_heads"), ("experts", "num_local_experts"),
         ("context, tokens", "max_position_embeddings"), ("context, tokens", "n_positions"),
         ("picture side", "image_size"), ("patch side", "patch_size"), ("vocabulary", "vocab_size"))


def write(folder: Path) -> Path:
    """Write the card of one run folder; RequestError when it holds no run or no model yet."""
    facts = gather(folder)
    if len(facts.runs) != 1 or not facts.runs[0].config:
        raise RequestError(f"{folder} is not a run folder with a model/ in it; a card describes one model")
    path = folder / ("model" if (folder / "model").is_dir() else "adapter") / "README.md"
    write_bytes(path, render(facts).encode("utf-8", "replace"))
    return path


def render(facts: Facts) -> str:
    """The card as Markdown with YAML front matter."""
    run = facts.runs[0]
    head = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True, width=1000)
    parts = [f"---\n{head}---\n", f"# {_name(facts)}\n", _notice(run), _about(run), _use(run), _architecture(run),
             _data(facts), _training(run), _forecast(run), _evaluation(run), risk.section(run),
             _samples(run), _limits(facts), _lineage(run)]
    return "\n".join(part for part in parts if part) + "\n"


def front_matter(facts: Facts) -> dict[str, Any]:
    """What huggingface.co reads. The weights' licence is the owner's choice: "other" until someone states it."""
    run = facts.runs[0]
    head: dict[str, Any] = {
        "license": "other", "license_name": "not-stated",
        "library_name": "diffusers" if "_class_name" in run.config else "transformers",
        **({"pipeline_tag": tag} if (tag := KINDS.get(run.recipe.objective.name, NOTHING)[1]) else {}),
        "tags": ["meristem", str(run.manifest.get("family", "")), *(["lora"] if run.adapted else [])],
        "datasets": [_dataset(facts)]}
    if run.adapted:
        head["base_model"] = Path(run.recipe.base).parent.name
    if run.scores:
        tag = KINDS.get(run.recipe.objective.name, NOTHING)[1] or "other"
        task = {"type": tag, "name": tag.replace("-", " ")}
        data = {"name": "test split of the training corpus", "type": _dataset(facts), "split": "test",
                "revision": run.scores[0]["corpus_hash"]}
        metrics = [{"type": s["name"], "name": s["what"], "value": round(s["value"], 6), "verified": False}
                   for s in run.scores]
        head["model-index"] = [{"name": _name(facts), "results": [{"task": task, "dataset": data, "metrics": metrics}]}]
    return head


def _name(facts: Facts) -> str:
    folder = facts.folder.resolve()
    return f"{folder.parent.name}-{folder.name}" if folder.name in ("base", "fill") else folder.name


def _dataset(facts: Facts) -> str:
    return (facts.corpus_folder or Path(facts.runs[0].recipe.data.corpus)).name or "unnamed"


def _notice(run: RunFacts) -> str:
    """What the corpus asks everything made of it to say (`corpus.store.NOTICE`)."""
    notice = str(run.manifest.get("notice", ""))
    return f"> **{_cell(notice)}**\n" if notice else ""


def _about(run: RunFacts) -> str:
    made = "trained from scratch"
    if run.adapted:
        method = run.recipe.adapt.name.upper() if run.recipe.adapt else "training all of its weights"
        made = f"adapted from `{Path(run.recipe.base).parent.name}` by {method}"
    size = short(run.manifest.get("parameters"))
    kind = KINDS.get(run.recipe.objective.name, NOTHING)[0]
    return (f"A {kind} of the {run.manifest.get('family', 'unknown')} family with {size} parameters, "
            f"{made} with meristem. Every number below was read from the run's own files.\n")


def _use(run: RunFacts) -> str:
    if KINDS.get(run.recipe.objective.name, NOTHING)[1] != "text-generation":
        return ('## How to use it\n\n```python\nimport meristem\n\nmodel = meristem.load("path/to/this/folder")\n'
                "model.module                        # a plain torch.nn.Module\n```\n")
    prompt = "def area(self):\\n    \\\"\\\"\\\"Width times height.\\\"\\\"\\\"" if run.adapted else "def "
    return f'''## How to use it

```python
import meristem

model = meristem.load("path/to/this/folder")
print(model.generate("{prompt}", length=64))
```

With transformers, without meristem:

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer("def ").input_ids]])    # a text begins after the end of another
print(tokenizer.decode(model.generate(ids, max_new_tokens=64)[0], skip_special_tokens=True))
```
'''


def _architecture(run: RunFacts) -> str:
    c = run.config
    rows = [("parameters", count(run.manifest.get("parameters"))),
            ("of them trained", count(run.manifest.get("trainable"))),
            *((name, count(c[key])) for name, key in SHAPE if isinstance(c.get(key), int))]
    if run.adapted and run.recipe.adapt:
        fields = ", ".join(f"{key} {value}" for key, value in run.recipe.adapt.fields.items())
        rows.append(("adapter", f"{run.recipe.adapt.name}{': ' + fields if fields else ''}"))
    return "## Architecture\n\n" + table(("", ""), rows)


def _data(facts: Facts) -> str:
    corpus = facts.corpus
    if not corpus.get("splits"):
        return "## Training data\n\nThe corpus folder was not there when this card was written.\n"
    of = [("Split", "splits"), ("Kind", "kinds"), ("Licence", "licences")]
    kept = [(f"{title}: {name}", count(r["documents"]), short(r["bytes"], "B"))
            for title, key in of for name, r in corpus[key].items()]
    dropped = [(name.replace("_", " "), count(r["documents"]), short(r["bytes"], "B"))
               for name, r in corpus["dropped"].items()]
    head = ("", "documents", "bytes")
    return (f"## Training data\n\nInputs: {', '.join(f'`{Path(i).name}`' for i in corpus.get('inputs', []))}. "
            f"{count(corpus['seen']['documents'])} documents and files were read. Corpus hash `{corpus['hash']}`; its "
            f"ledger holds every decision with its witness.\n\n{table(head, kept)}\nDropped, by rule:\n\n"
            f"{table(head, dropped)}")


def _training(run: RunFacts) -> str:
    t, r, machine = run.recipe.train, run.result, run.manifest.get("machine", {})
    shares = sorted(row["share_of_peak"] for row in run.log if row.get("share_of_peak") is not None)
    skipped = sum(bool(row.get("skipped")) for row in run.log)
    rows = [("steps", count(r.get("step"))), ("tokens", count(r.get("tokens"))),
            ("batch", f"{t.batch} rows of {t.context} tokens" + (f", {t.micro} at a time" if t.micro else "")),
            ("objective", _part(run.recipe.objective)),
            ("optimiser", f"{t.optimizer}, betas {t.betas[0]:g} and {t.betas[1]:g}, weight decay {t.weight_decay:g}, "
                          f"gradient norm at most {t.clip:g}"),
            ("learning rate", _rates(t)), ("weights that are exported", _kept(t)),
            ("precision", t.dtype), ("seed", str(run.recipe.seed)),
            ("mesh of processes", str(run.manifest.get("mesh", t.mesh or "dp=1"))),
            ("steps refused (not finite, or a spike)", count(skipped)),
            ("last training loss, nats a token", in_unit(r.get("loss"), "")),
            ("validation loss, nats a token", in_unit(r.get("validation"), "")),
            ("time", duration(r.get("train_seconds"))), ("compute", short(r.get("flops"), "FLOP")),
            ("share of the machine's peak", percent(shares[len(shares) // 2] if shares else None, 0)),
            ("peak memory", short(r.get("peak_rss"), "B")),
            ("machine", ", ".join(f"{key} {machine.get(key, MISSING)}" for key in ("cpu", "threads", "torch"))),
            ("energy", _energy(run.energy))]
    return "## Training\n\n" + table(("", ""), rows)


def _rates(t: Train) -> str:
    """The learning rate over the steps, as `train.optim.schedule` computes it."""
    rise = f"{t.lr:g} after a rise of {t.warmup} steps"
    if t.optimizer == "schedule_free":
        fall = "never falling: an average of the iterates stands in for a schedule (schedule-free)"
    elif t.schedule == "wsd":
        fall = f"constant, then falling linearly to {t.floor:g} of it over the last {t.decay:.0%} of the steps (wsd)"
    else:
        fall = f"falling to {t.floor:g} of it along a cosine"
    more = [f"a block's rate {t.layer_decay:g} of the block's above it"] if t.layer_decay != 1 else []
    more += [f"scaled from width {t.base_width} (muP)"] if t.base_width else []
    more += [f"other rates for {', '.join(group.match for group in t.groups)}"] if t.groups else []
    return "; ".join([f"{rise}, {fall}", *more])


def _kept(t: Train) -> str:
    """Which weights are validated and exported."""
    if t.optimizer == "schedule_free" and t.weights == "average":
        return "the average that schedule-free keeps"
    if t.ema and t.weights == "average":
        return f"an exponential average of all steps (decay {t.ema:g})"
    return "those of the last step" + (f"; an average (decay {t.ema:g}) was kept too" if t.ema else "")


def _part(part: Part) -> str:
    fields = ", ".join(f"{key} {value}" for key, value in part.fields.items())
    return part.name.replace("_", " ") + (f": {fields}" if fields else "")


def _forecast(run: RunFacts) -> str:
    """What the plan promised beside what came of it (plan.history)."""
    told = run.outcome
    if not told:
        return ""
    loss = told["loss"]
    rows = [("loss, nats a token", f"{loss['forecast']:.3f} ({loss['low']:.3f} to {loss['high']:.3f} with 80 %)",
             in_unit(loss["measured"], "") + (", inside" if loss["inside"] else ", outside")),
            ("seconds of steps", duration(told["seconds"]["forecast"]), duration(told["seconds"]["measured"])),
            ("peak memory", short(told["memory"]["forecast"], "B"), short(told["memory"]["measured"], "B")),
            ("energy, Wh", f"{told['watt_hours']['forecast']:.3g}", in_unit(told["watt_hours"]["measured"], ""))]
    return "## Forecast and outcome\n\n" + table(("", "planned", "came out"), rows)


def _energy(e: Tree) -> str:
    if "joules" not in e:
        return "not recorded for this run"
    return f"{e['joules'] / 3600:.3g} Wh ({e['low'] / 3600:.2g} to {e['high'] / 3600:.2g}); {e['method']}"


def _evaluation(run: RunFacts) -> str:
    if not run.scores:
        return "## Evaluation\n\nNot run.\n"
    head = ("score", "value", "95 % interval", "n", "baseline", "clean value (n)", "in training: whole, 13 words",
            "energy")
    rows = []
    for s in (score for score in run.scores if not risk.is_risk(run, score)):
        unit, dirt = s["unit"], s["contamination"]
        low, high = (in_unit(s["interval"][key], unit) for key in ("low", "high"))
        base = f"{in_unit(s['baseline']['value'], unit)}: {s['baseline']['what']}" if s["baseline"] else MISSING
        clean = f"{in_unit(dirt['clean_value'], unit)} ({dirt['clean_n']})" if dirt else "not checked"
        n = count(s["n"]) + (f", {s['cut']} without the beginning of the prompt" if s.get("cut") else "")
        better = "more is better" if s["higher_is_better"] else "less is better"
        rows.append((f"{s['what']} (`{s['name']}`, {better})", in_unit(s["value"], unit),
                     f"{low} to {high}, {s['interval']['method']}", n, base, clean,
                     f"{dirt['exact']}, {dirt['gram13']}" if dirt else MISSING,
                     short(s["energy"]["joules"], "J") if s.get("energy") else MISSING))
    pairs = [f"- `{s['name']}` against {p['against']}: {p['difference']:+.4f}, {p_value(p['p'])} ({p['test']})"
             for s in run.scores if (p := s["paired"])]
    tail = "\nPaired with the other model on the same items:\n\n" + "\n".join(pairs) + "\n" if pairs else ""
    return ("## Evaluation\n\nOn the test split, which no training step saw. `evals/*.json` in the run folder hold the "
            f"full certificates: prompts, seeds, hashes and every item's result.\n\n{table(head, rows)}{tail}")


def _samples(run: RunFacts) -> str:
    if not run.samples:
        return ""
    texts = [f"After step {count(row['step'])}:\n\n{fenced(row['text'])}" for row in run.samples[-SAMPLES:]]
    return "## What it writes\n\nNot chosen; the last samples of training.\n\n" + "\n".join(texts)


def _limits(facts: Facts) -> str:
    known = ["It continues text in the manner of its training data; it is no assistant; nothing it says is checked.",
             "It may repeat training text, licences and names included.",
             "The licence of the weights is not stated; the training documents keep theirs (see the table)."]
    return "## Limitations and gaps\n\n" + "".join(f"- {line}\n" for line in (*known, *gaps(facts)))


def _lineage(run: RunFacts) -> str:
    word = {True: "holds", False: "broken", None: "not checked"}
    rows = [(link.what, f"`{link.hash or MISSING}`", word[link.ok] + (f": {link.why}" if link.why else ""))
            for link in links(run)]
    return ("## Lineage\n\n" + table(("link", "hash", "check"), rows) + "\n`bom.json` in the run folder is the bill of "
            "materials (CycloneDX); `datasheet.md` in the corpus folder says what was collected and dropped.\n")


def fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text.rstrip()}\n{fence}\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    """One line that cannot end its cell or become HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
