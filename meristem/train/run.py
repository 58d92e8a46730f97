"""Execute a `Run`: from a corpus folder and a recipe to a run folder with checkpoints, a log and a model.

    from meristem.train.run import pretrain
    pretrain(run, Path("runs/mine"))            # the same call again goes on from the newest checkpoint

The run folder holds recipe.json (the resolved Run), manifest.json (what the numbers depend on), log.jsonl,
samples.jsonl, checkpoints/, model/ (Hugging Face layout), adapter/ (PEFT layout), energy.json and, at the end,
result.json.
"""
import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from meristem.adapt import files
from meristem.codecs import load as load_codec
from meristem.codecs.base import Codec
from meristem.codecs.chat import Chat, usual
from meristem.core import machine, registry
from meristem.core.config import Part, build, flat, from_dict, known, to_dict
from meristem.core.errors import MachineError, RequestError
from meristem.core.files import claim, committed, digest_bytes, read_json, verify, write_json
from meristem.core.mesh import Mesh
from meristem.core.progress import SILENT, Progress
from meristem.core.random import seed_of
from meristem.core.run import Run
from meristem.core.types import DENSE, Batch
from meristem.corpus.labelled import is_labelled, labelled
from meristem.corpus.store import Corpus
from meristem.data.shards import Shards, tokenise
from meristem.generate.autoregressive import generate
from meristem.generate.seq2seq import EncoderDecoder
from meristem.hub import hf
from meristem.hub.cache import lasting
from meristem.nn.attention import two_way
from meristem.nn.linear import compute_in
from meristem.objectives.base import Objective, make
from meristem.objectives.reward import HEAD, WEIGHTS
from meristem.plan.cost import Cost, flops_of
from meristem.plan.energy import Meter
from meristem.train import adapted, devices, groups, hooks, mixed, painting, preflight
from meristem.train.checkpoint import Checkpoints
from meristem.train.goodput import Goodput
from meristem.train.guard import Detours, Lost
from meristem.train.memory import explained
from meristem.train.mesh import ALONE, World, connect
from meristem.train.pieces import Share
from meristem.train.processes import One
from meristem.train.sources import DIALOGUES, Source, apart, held_out_of, source_of
from meristem.train.trainer import Trainer, compile_regions, recompute_blocks
from meristem.train.watch import FAILURES, Watch, crashes

if TYPE_CHECKING:
    from meristem.train.forgetting import Forgetting

RECIPE, MANIFEST, RESULT, LOG, SAMPLES = "recipe.json", "manifest.json", "result.json", "log.jsonl", "samples.jsonl"
ENERGY, SKIPS, GOODPUT, HEARTBEATS = "energy.json", "skips.jsonl", "goodput.json", "heartbeats"
PINNED = ("corpus", "codec", "base")    # facts that must not change between the parts of one run
HOW = ("train.mesh", "train.shard", "train.pipeline", "train.recompute")       # these may: what is computed is the same
SAMPLE_TOKENS = 64


@dataclasses.dataclass
class Parts:
    """Everything a run is made of, built but not started."""

    run: Run
    corpus: Corpus
    codec: Codec
    shards: Shards
    family: str
    config: Any
    objective: Objective
    source: Source
    held_out: list[Batch]
    base_hash: str
    chat: Chat | None = None            # the base model's template
    processes: One = dataclasses.field(default_factory=One)
    forgetting: "Forgetting | None" = None                     # of the base, while it is adapted

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs a token of `train.context` with the whole attention square (PaLM, appendix B).

        So a row costs this times the context, whatever its objective makes of it: a source and a target, places at
        which the vocabulary is asked, answers of its own, or what a teacher says of it (`Objective.flops`).
        """
        context = self.run.train.context
        first = {key: value[:1] for key, value in self.held_out[0].items()}
        with torch.no_grad(), torch.random.fork_rng():
            prepared = self.objective.prepare(first)
            given = self.objective.inputs(prepared)
        length, source, asked = (some[key].shape[1] if key in some else 0 for some, key in (
            (given, "tokens"), (given, "source"), (prepared, "places")))

        def forward(network: torch.nn.Module) -> float:
            if network is self.objective.model and self.processes.plain is not None:
                network = self.processes.plain
            if not first.keys().isdisjoint(DENSE):             # convolutions and patches: counted while they run
                with torch.random.fork_rng():
                    return flops_of(network, given)
            cost = Cost.of(network, length or context, source, asked)
            return (cost.linear_flops + cost.attention_flops) * ((length or context) + source)
        return self.objective.flops(forward) / context


def pretrain(run: Run, folder: Path, *, progress: Progress = SILENT, fresh: bool = False,
             skips: Path | None = None, allow_drift: bool = False) -> Path:
    """Train `run` in `folder` (also adaptation: `run.base` and `run.adapt` set) and return the folder.

    `skips`: the skips.jsonl of a run that is repeated, which tells what batches it left out. `allow_drift`: go on
    although the machine, its threads or a version is not what it was; the manifest records it.

    Goes on from the newest good checkpoint, or returns at once when the run is finished. RequestError when the folder
    holds another run; `fresh` discards what is there; `Interrupted` after a signal, with everything saved.
    """
    with connect(run.train) as world:
        place = folder / "checkpoints"
        checkpoints = Checkpoints(place, run.train.keep, progress, run.train.permanent, world.mesh.world) \
            if world.first else Share(place, world.rank)
        with contextlib.closing(checkpoints):
            if world.lead(lambda: begin(run, folder, checkpoints, progress, fresh, skips)):
                train(run, folder, checkpoints, world, progress, allow_drift)
    return folder


def begin(run: Run, folder: Path, checkpoints: Checkpoints | Share, progress: Progress, fresh: bool,
          skips: Path | None) -> bool:
    """Make the folder this run's and lock it; False when the run is finished. For the first process only."""
    assert isinstance(checkpoints, Checkpoints)
    if fresh or not (folder / RESULT).exists():
        corpus_of(run)                                         # refused before the run folder is begun
        if run.train.dtype == "float16":
            machine.refuse_float16()
    claim_run(run, folder)
    checkpoints.lock()
    if fresh:
        checkpoints.discard()
        for name in (RESULT, LOG, SAMPLES, MANIFEST, ENERGY, SKIPS, GOODPUT, FAILURES):
            (folder / name).unlink(missing_ok=True)
    if (folder / RESULT).exists():
        progress.say(f"{folder} is finished; --fresh trains it again")
        return False
    crashes(folder / HEARTBEATS, progress)
    write_json(folder / RECIPE, to_dict(run))
    if skips and skips.exists() and not (folder / SKIPS).exists():
        shutil.copyfile(skips, folder / SKIPS)
    return True


def train(run: Run, folder: Path, checkpoints: Checkpoints | Share, world: World, progress: Progress,
          allow_drift: bool) -> None:
    """Train a run whose folder is claimed, on every process of `world`; the first one writes and shows."""
    goodput = Goodput(folder) if world.first else None
    with (metered(folder / ENERGY, progress) if world.first else contextlib.nullcontext() as meter,
          Watch(folder / HEARTBEATS, world.rank, world.mesh.world, limit=run.train.hang_seconds,
                progress=progress) as watch, explained(run) as known):
        parts = world.in_turn(lambda: assemble(run, progress))
        known.append(parts)
        new = world.mesh.world > 1 and world.lead(lambda: log_manifest(folder, parts, progress, allow_drift))
        if new:                                                # later only all processes together can ask the model
            world.lead(lambda: preflight.quick(parts, Trainer(parts.objective, parts.source, run.train), folder,
                                               progress))
        trainer = trainer_of(parts, checkpoints, Detours.told(world, folder / SKIPS), world)
        if world.mesh.world == 1:
            log_manifest(folder, parts, progress, allow_drift)
        if trainer.resume():
            progress.say(f"going on from step {trainer.step} of {run.train.steps}")
        elif world.mesh.world == 1:
            preflight.quick(parts, trainer, folder, progress)
        beside: list[hooks.Hook] = [*run_hooks(parts, folder, progress)]
        if meter and goodput:
            beside += [lambda trainer, facts: meter.tick(), goodput]
        progress.stage("adapt" if run.adapt else "pretrain", run.train.steps)
        started = time.perf_counter()
        watch.beat(trainer.step)
        facts = fit(trainer, folder / LOG, [*beside, watch], progress if world.first else SILENT, goodput)
        with trainer.optim.averaged():
            finish(parts, folder, facts, time.perf_counter() - started, progress)


def check(run: Run, folder: Path, progress: Progress = SILENT) -> list[preflight.Check]:
    """What is known of `run` before its first step, in seconds; of `folder` only the disk matters, nothing is kept."""
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, compile=False))
    parts = assemble(run, progress)
    return preflight.thorough(parts, trainer_of(parts), folder)


def fit(trainer: Trainer, path: Path, watch: list[hooks.Hook], progress: Progress,
        goodput: Goodput | None = None) -> dict[str, Any]:
    """Train to the end, logging to `path`, however often a blow-up sends the run back; the facts of the last step.

    What only watches cannot end the run: its failures are warnings. `goodput` is said at the end, also of a signal.
    """
    try:
        return _fit(trainer, path, watch, progress, goodput)
    finally:
        if goodput:
            progress.say(goodput.report().line())


def _fit(trainer: Trainer, path: Path, watch: list[hooks.Hook], progress: Progress,
         goodput: Goodput | None) -> dict[str, Any]:
    cause = "repeated"
    while True:
        if goodput:
            goodput.back(trainer.step, cause)
        log = hooks.Log(path, trainer.step) if trainer.processes.world.first else None
        each: list[hooks.Hook] = [*watch, log] if log else watch
        trainer.hooks = [hooks.careful(hook, progress) for hook in each]
        try:
            facts = trainer.fit()
            return facts | {"goodput": goodput.report().facts()} if goodput else facts
        except Lost as lost:
            cause = "rewound"
            detour = trainer.go_back(lost)
            progress.warn(f"step {detour.at}: {detour.why}; back to step {detour.to}, and batches {detour.first} to "
                          f"{detour.stop - 1} are left out from now on ({SKIPS})")
        finally:
            if log:
                log.close()


@contextmanager
def metered(path: Path, progress: Progress = SILENT) -> Iterator[Meter]:
    """Add the energy of the block to what `path` says of earlier parts of the run, also when it is interrupted."""
    meter = Meter()
    try:
        yield meter
    finally:
        spent = meter.stop()
        before = read_json(path) if path.is_file() else {}
        sums = {key: before.get(key, 0.0) + getattr(spent, key) for key in ("joules", "low", "high", "grams")}
        try:
            write_json(path, {**sums, "method": spent.method, "grid": spent.grid})
        except MachineError as error:                          # an account of a run must not end it
            progress.warn(str(error))


def corpus_of(run: Run) -> Corpus:
    """The corpus that a run names, opened and checked; RequestError when it names none or there is none."""
    if not run.data.corpus:
        raise RequestError("no corpus; make one: meristem curate INPUT... --out CORPUS; then add data.corpus=CORPUS")
    path = Path(run.data.corpus).expanduser()
    return labelled(path) if is_labelled(path) else Corpus.open(path)


def claim_run(run: Run, folder: Path) -> None:
    """Make `folder` this run's; RequestError names the fields in which the run already there differs."""
    claim(folder, "run", lambda f: (f / RECIPE).is_file())
    if (folder / RECIPE).is_file():
        old, new = flat(to_dict(from_dict(Run, read_json(folder / RECIPE)))), flat(to_dict(run))
        other = [f"{key} is {old.get(key)!r} there, {new.get(key)!r} here" for key in sorted({*old, *new})
                 if old.get(key) != new.get(key) and key not in HOW]
        if other:
            raise RequestError(f"{folder} holds another run ({'; '.join(other[:3])}); choose another --out, "
                               f"or repeat that one with: meristem pretrain --from {folder}")


def assemble(run: Run, progress: Progress = SILENT) -> Parts:
    """Build codec, shards, model, objective and sources of a run; deterministic in (run, corpus, base)."""
    machine.tune_allocator()
    machine.set_threads()
    corpus = corpus_of(run)
    torch.manual_seed(seed_of(run.seed, "weights"))
    loaded, kept, new = hf.load(run.base) if run.base else None, None, ""
    if loaded:
        family, config = loaded.family, loaded.config
        base_hash, module = hf.identity(family, loaded.module), loaded.module.float()      # as the folder has it
        if loaded.codec is None and reads(config):
            raise RequestError(f"{run.base} has no tokenizer.json, so nothing can be encoded for it")
        codec = loaded.codec or codec_of(run.data.codec, corpus, progress)
        from meristem.train import forgetting  # it asks this file for the base's own run

        kept = forgetting.of(run, loaded, codec, progress)
        if run.train.context > vars(config).get("context", run.train.context):
            raise RequestError(f"train.context={run.train.context} exceeds the base model's {config.context}")
        if "head" in run.model.fields:
            before = {*module.state_dict()}
            config, module = other_head(family, config, module, {**run.model.fields, **classes(run, corpus)})
            new = adapted.fresh(module, before)
    else:
        codec, family, base_hash = codec_of(run.data.codec, corpus, progress), run.model.name, ""
        entry = registry.load("models", family)
        told = known(entry.Config, context=run.train.context, vocab=codec.vocab, end=codec.end)
        config = build(entry.Config, run.model, **{**told, **run.model.fields, **classes(run, corpus),
                                                   **known(entry.Config, vocab=codec.vocab)})
        module = entry.Model(config)
        groups.widen(module, run.train)
    if run.adapt:
        module = adapted.attach(run.adapt, module, seed_of(run.seed, "adapter"), codec, new)
        if run.base and "head" not in run.model.fields:
            adapted.lean(module, getattr(torch, run.train.dtype))
    shards = tokenise(corpus, codec, progress)
    compute_in(module, getattr(torch, run.train.dtype))
    chat = (loaded.chat if loaded else None) or (usual(codec) if run.data.examples in DIALOGUES else None)
    objective = objective_of(run.objective, module, codec, chat)
    source = source_of(run, corpus, codec, shards, "train", objective, chat)
    held_out = apart(run, held_out_of(run, corpus, codec, shards, objective, chat), codec.end)
    return Parts(run, corpus, codec, shards, family, config, objective,
                 lambda step: apart(run, source(step), codec.end), held_out, base_hash, chat,
                 forgetting=kept)


def classes(run: Run, corpus: Corpus) -> dict[str, Any]:
    """The names of a labelled corpus's classes as fields of a model that tells them apart; {} for other runs."""
    asked = run.model.fields.get("head") in ("sequence", "token", "image", "audio") or run.model.fields.get("classes")
    names = corpus.summary.get("labels") if asked else None
    return {"labels": names} if names else {}


def other_head(family: str, config: Any, module: torch.nn.Module,
               fields: dict[str, Any]) -> tuple[Any, torch.nn.Module]:
    """The base model with another head (new weights, seeded) on its own body: its shape stays the base's.

    RequestError for a family without heads.
    """
    entry = registry.load("models", family)
    kept: dict[str, Any] = {key: fields[key] for key in ("head", "labels", "dropout") if key in fields}
    wanted = from_dict(entry.Config, {**to_dict(config), **kept})
    if wanted == config:
        return config, module
    config, old = wanted, module.state_dict()
    made = entry.Model(config)
    made.load_state_dict({n: old[n] for n in made.state_dict() if n in old and not n.startswith("head.")}, strict=False)
    return config, made


def objective_of(part: Part, module: torch.nn.Module, codec: Codec, chat: Chat | None = None) -> Objective:
    """The objective class of `objectives/<name>.py` around `module`, which is told what it asks of codec and chat."""
    return make(part.name, module, part.fields, codec, chat)


def reads(config: Any) -> bool:
    """Whether a model has a vocabulary, and so a tokenizer of its own."""
    return "vocab" in vars(config)


def codec_of(part: Part, corpus: Corpus, progress: Progress = SILENT) -> Codec:
    """The codec `part` names, fitted once on the splits of the corpus that it may see, and kept beside them."""
    folder = corpus.folder / "codecs" / f"{part.name}-{digest_bytes(repr(sorted(part.fields.items())))[:12]}"
    if not folder.is_dir():
        progress.stage("tokenizer")
        entry = registry.load("codecs", part.name)
        codec = entry.fit((d.text for split in entry.SPLITS for d in corpus.documents(split)), **part.fields)
        with committed(folder) as tmp:
            codec.save(tmp)
    if trouble := verify(folder):
        raise MachineError(f"the tokenizer in {folder} cannot be trusted: {trouble}; remove that folder, it is made "
                           "again")
    return load_codec(folder)


def trainer_of(parts: Parts, checkpoints: Checkpoints | Share | None = None, detours: Detours | None = None,
               world: World = ALONE) -> Trainer:
    """The trainer of assembled parts, divided over the processes of `world`.

    In one process its regions are compiled when the recipe asks and this machine can; many compute eagerly.
    """
    t = parts.run.train
    devices.settle(parts.objective)
    if t.recompute:
        recompute_blocks(parts.objective)
    if world.mesh.world > 1:
        from meristem.train.many import spread  # 0.9 s of imports that one process does not pay
        parts.processes = spread(parts.objective, t, world)
    elif t.compile and machine.has_compiler():
        compile_regions(parts.objective)
    return Trainer(parts.objective, parts.source, t, seed=parts.run.seed, checkpoints=checkpoints, detours=detours,
                   processes=parts.processes)


def run_hooks(parts: Parts, folder: Path, progress: Progress) -> list[hooks.Hook]:
    """Rates, validation, samples and the progress display of a run."""
    t, held_out, processes = parts.run.train, parts.held_out, parts.processes

    def text() -> str:
        model, prompt = processes.model(parts.objective), first_prompt(held_out[0])
        if model is None:
            return ""
        with torch.random.fork_rng(), torch.compiler.set_stance("force_eager"), devices.resting(model):
            if isinstance(model, EncoderDecoder):
                return first_answer(parts, model)
            made = generate(model, [prompt], length=SAMPLE_TOKENS, temperature=0.8, top_p=0.95,
                            seed=parts.run.seed, stop={parts.codec.end})
        return parts.codec.decode([*prompt.tolist(), *made[0].tokens])

    # an encoder shows nothing
    writes = not two_way(parts.objective.model) and held_out[0].keys().isdisjoint(DENSE)
    together = [*mixed.hooks_of(parts, folder), hooks.every(
                    t.validate_every, "validation",
                    lambda asked: hooks.validate(parts.objective, held_out, processes, asked)),
                hooks.samples(folder / SAMPLES if processes.world.first else None, t.sample_every if writes else 0,
                              text, progress)]
    if t.sample_every and processes.world.mesh.world == 1 and not writes:
        paints = painting.sampler(parts.objective, held_out[0], parts.codec, folder, parts.run.seed)
        together += [hooks.grids(paints, t.sample_every, progress)] if paints else []
    if not processes.world.first:
        return together
    count = processes.world.mesh.world                         # each has as many cores as this one
    return [hooks.rates(parts.flops_per_token, lambda fresh: machine.measured(fresh).peak * count), *together,
            hooks.draw(progress)]


def first_answer(parts: Parts, model: torch.nn.Module) -> str:
    """What an encoder-decoder makes of the first source of the held-out data: "source -> answer"."""
    torch.manual_seed(seed_of(parts.run.seed, "sample"))
    batch = parts.objective.prepare(parts.held_out[0])
    row = batch["source"][0]
    row = row[batch["source_segments"][0] == 0] if "source_segments" in batch else row
    made = generate(model, [batch["tokens"][0, :1].numpy()], length=SAMPLE_TOKENS,
                    stop={parts.codec.end}, source=[row.numpy()])
    return f"{parts.codec.decode(row.numpy())} -> {parts.codec.decode(made[0].tokens)}"


def first_prompt(batch: Batch) -> np.ndarray:
    """What a sample continues: the first row up to its first trained target, or a quarter of it when all are."""
    tokens, weight = batch["tokens"][0], batch["weight"][0]
    first = int(weight.argmax()) if weight.min() == 0 else len(weight) // 4
    return tokens[: max(1, first + 1)].numpy()


def log_manifest(folder: Path, parts: Parts, progress: Progress, allow_drift: bool = False) -> bool:
    """Write manifest.json, or compare with it: other data is refused, and another machine unless drift is allowed.

    Another mesh may come any time: it sums in another order, which is recorded. True for a new run.
    """
    model = parts.objective.model
    facts: dict[str, Any] = {"corpus": parts.corpus.hash, "codec": parts.codec.hash, "shards": parts.shards.hash,
             "mesh": str(Mesh.of(parts.run.train.mesh)),
             "base": parts.base_hash, "seed": parts.run.seed, "dtype": parts.run.train.dtype, "family": parts.family,
             "parameters": sum(p.numel() for p in model.parameters()),
             "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
             "machine": {**machine.identity(), **machine.accelerator()},
             **{key: value for key, value in parts.corpus.summary.items() if key == "notice"}}
    path = folder / MANIFEST
    if not path.exists():
        write_json(path, {**facts, "drift": []})
        return True
    old = read_json(path)
    for key in PINNED:
        if old[key] != facts[key]:
            raise RequestError(f"the {key} of {folder} has changed since its first step ({old[key][:12]} -> "
                               f"{facts[key][:12]}); bring the old one back, or choose another --out")
    before, now = ({**flat(tree["machine"]), "mesh": tree.get("mesh", "dp=1")} for tree in (old, facts))
    drift = {key: [before.get(key), now.get(key)] for key in sorted({*before, *now}) if before.get(key) != now.get(key)}
    if drift:
        changed = ", ".join(f"{key} {a} -> {b}" for key, (a, b) in drift.items())
        if not allow_drift and drift.keys() - ({"mesh", "threads"} if "mesh" in drift else set()):
            raise RequestError(f"{folder} was begun elsewhere or otherwise ({changed}), so it cannot go on bit for "
                               "bit; restore that, or go on all the same with --allow-drift")
        progress.warn(f"going on, but no longer bit for bit: {changed} (recorded in {path.name})")
        write_json(path, {**old, "drift": [*old["drift"], drift], "machine": facts["machine"], "mesh": facts["mesh"]})
    return False


def finish(parts: Parts, folder: Path, facts: dict[str, Any], seconds: float, progress: Progress = SILENT) -> None:
    """Write the model (merged, and the adapter beside it) and result.json, which marks the run as finished."""
    model, t = parts.processes.model(parts.objective), parts.run.train
    if model is None:
        return
    parts.objective.to("cpu")
    compute_in(model.to("cpu"), None)
    parts.config = model.config = parts.objective.settled(parts.config, parts.held_out)
    whole: torch.nn.Module | None = model
    if parts.run.adapt:
        base = lasting(parts.run.base, folder / "adapter")
        other = {key: value for key in ("head", "labels") if "head" in parts.run.model.fields
                 and (value := to_dict(parts.config).get(key)) is not None}
        files.save(folder / "adapter", model, parts.family, parts.base_hash, base, other)
        if parts.run.base and "head" not in parts.run.model.fields:
            model = adapted.again(parts.run.base, folder / "adapter")          # the base's whole numbers (`lean`)
        whole = adapted.merged(model)
    kept = parts.forgetting.told(whole or model) if parts.forgetting else None
    if kept:
        progress.say(f"the base's loss: {kept['before']:.4f} before, {kept['after']:.4f} after ({kept['rise']:+.4f}), "
                     f"on {kept['on']}")
    lineage = {"corpus": parts.corpus.hash, "codec": parts.codec.hash, "base": parts.base_hash}
    codec = parts.codec if reads(parts.config) else None
    if whole is not None:
        hf.save(folder / "model", parts.family, parts.config, whole, codec, lineage, parts.chat)
    if head := parts.objective.kept():
        with committed(folder / HEAD) as tmp:
            save_file(head, tmp / WEIGHTS)
    read = facts["step"] * t.batch * t.context                 # "tokens" counts those that were trained on
    write_json(folder / RESULT, {**{k: facts.get(k) for k in ("step", "tokens", "loss", "validation", "goodput")},
                                 "fit_seconds": seconds, "train_seconds": facts["seconds"],
                                 "flops": parts.flops_per_token * read, "peak_rss": machine.peak_rss(),
                                 "model": hf.identity(parts.family, whole) if whole else adapted.of_adapter(
                                     folder / "adapter"), "forgetting": kept})
