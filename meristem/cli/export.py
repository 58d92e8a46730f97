"""`meristem export`: a model for other programs, refused unless it computes the same after reloading."""
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from meristem.cli.common import Answer, model_folder
from meristem.core.errors import MachineError, RequestError, nearest

FORMATS = {"hf": "Hugging Face folder: config.json, model.safetensors, tokenizer.json",
           "diffusers": "Stable Diffusion's layout, of a diffusion run: unet/, vae/, text_encoder/ ..."}


def export(
    model: Annotated[Path, typer.Argument(help="A model folder or run folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    to: Annotated[str, typer.Option(help=f"The format: {', '.join(FORMATS)}.")] = "hf",
    bits: Annotated[int, typer.Option(help="8 or 4: quantise the weights, for meristem alone; 0 = as they are.")] = 0,
    group: Annotated[int, typer.Option(help="With --bits: columns that share a scale; 0 = a whole row.", min=0)] = 32,
    licences: Annotated[str, typer.Option(help="Of the training documents, all of them: permissive, SPDX identifiers, "
                                               "unknown. Without it only those that allow no derived work are "
                                               "refused.", show_default=False)] = "",
    release: Annotated[Path | None, typer.Option(help="Only if every point of the release checklist is met; a JSON "
                                                      "file with a person's answers.", show_default=False)] = None,
) -> Answer:
    """Write a model for other programs; what was written is loaded again and must give equal logits, or it is removed.

    The folder loads with transformers: AutoModelForCausalLM.from_pretrained(OUT). With --bits meristem alone reads it.
    An adapter without plain weights (prefix, prompt, bottleneck) is written as PEFT's two files, which name the base.
    A run folder's model leaves only when no training document's licence forbids it; the documents are named. With
    --release the checklist of docs/governance.md is asked too, and RELEASE.json goes with the model.

    Example: meristem export runs/fill --to hf --out ~/models/fill
             meristem export runs/fill --out ~/models/fill --release release.json

    Exit status: 0 ok; 1 the machine failed or the reloaded model differs; 2 the request was wrong.
    """
    if to not in FORMATS:
        raise RequestError(f"no format {to!r}; {nearest(to, FORMATS)}")
    run, says = _gate(model, licences)
    points = _released(run, release, licences) if release else []
    if to == "diffusers":
        if bits:
            raise RequestError("--bits quantises one model for meristem; leave it out with --to diffusers")
        facts, equal = _pipeline(model, out.expanduser()), "pictures"
    else:
        facts, equal = _write(model_folder(model), out.expanduser(), bits, group), "logits"
    if points:
        from meristem.govern.checklist import write
        write(points, out.expanduser())
    if run:
        from meristem.govern.lineage import exported
        exported(run, out.expanduser(), to)
    return Answer({**facts, "licences": says}, f"{out}: {facts['parameters']:,} parameters; reloaded, {equal} equal\n"
                  f"{says}")


def _gate(model: Path, licences: str) -> tuple[Path | None, str]:
    """The run folder that a model lies in and what its licences say; RequestError where one forbids release."""
    place = model.expanduser()
    run = next((p for p in (place, place.parent) if (p / "recipe.json").is_file()), None)
    if run is None:
        return None, "licences not checked: this model lies in no run folder, so its documents are not known"
    from meristem.govern import gate
    return run, gate.refuse(run, licences).line()


def _released(run: Path | None, answers: Path, licences: str) -> list[Any]:
    """The points of the release checklist, all met; RequestError where one is open or there is no run folder."""
    from meristem.govern import checklist
    if run is None:
        raise RequestError("only a run folder can be released: this model lies in none, so nothing is known of it")
    points = checklist.check(run, checklist.answers(answers.expanduser()), licences)
    checklist.refuse(points)
    return points


def _pipeline(source: Path, out: Path) -> dict[str, Any]:
    """Write, read again, compare one picture; MachineError (and nothing left behind) when they differ."""
    import shutil

    from meristem.core.files import claim
    from meristem.generate.pictures import Wish, paint
    from meristem.hub import pipeline
    from meristem.train.painting import open_painter, painter_of, pipeline_of
    made = pipeline_of(source)
    claim(out, "export", lambda folder: (folder / pipeline.INDEX).is_file())
    pipeline.write(out, made)
    wish = Wish(steps=2)
    gap = float((paint(painter_of(made), wish) - paint(open_painter(out), wish)).abs().max())
    if gap > 1e-5:                                             # betas are written as decimals: 1e-7 at most
        shutil.rmtree(out)
        raise MachineError(f"the reloaded picture differs by {gap:.3g}, so {out} was removed; {source} may be damaged")
    return {"model": str(source), "out": str(out), "format": "diffusers", "max_difference": gap,
            "parameters": sum(p.numel() for p in made.network.parameters())}


def _adapter(source: Path, out: Path, bits: int) -> dict[str, Any]:
    """An adapter that no plain weights can stand for, as PEFT's two files; as `_write`, on its base."""
    import shutil

    import torch

    from meristem.adapt import files
    from meristem.core.files import claim, read_json
    from meristem.hub.cache import lasting, locate
    from meristem.train.adapted import opened
    if bits:
        raise RequestError("--bits quantises a whole model, and this adapter has no plain weights; leave it out")
    loaded = opened(source)
    base = lasting(str(locate(files.base_of(source), source).absolute()), out)
    claim(out, "export", lambda folder: False)
    files.save(out, loaded.module, loaded.family, read_json(source / files.NOTE)["base"], base, files.differs(source))
    again = opened(out)
    ids = torch.randint(0, loaded.config.vocab, (2, min(64, loaded.config.context)),
                        generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gap = float((loaded.module(ids).float() - again.module(ids).float()).abs().max())
    if gap != 0.0:
        shutil.rmtree(out)
        raise MachineError(f"the reloaded logits differ by {gap:.3g}, so {out} was removed; {source} may be damaged")
    return {"model": str(source), "out": str(out), "format": "peft", "max_difference": gap, "bits": 0,
            "parameters": sum(p.numel() for p in again.module.parameters() if p.requires_grad)}


def _write(source: Path, out: Path, bits: int, group: int) -> dict[str, Any]:
    """Save, load again, compare logits on random ids; MachineError (and nothing left behind) when they differ."""
    import shutil

    import torch

    from meristem.core.files import claim
    from meristem.hub import hf
    from meristem.nn.quantise import quantise
    from meristem.train.adapted import merged, opened
    adapter = (source / "adapter_config.json").is_file()
    loaded = opened(source) if adapter else hf.load(source)
    if adapter:
        whole = merged(loaded.module)
        if whole is None:
            return _adapter(source, out, bits)
        loaded = replace(loaded, module=whole)
    if bits:
        quantise(loaded.module, bits, group)
    claim(out, "export", lambda folder: False)
    hf.save(out, loaded.family, loaded.config, loaded.module, loaded.codec, chat=loaded.chat)
    again = hf.load(out)
    length, generator = min(64, loaded.config.context), torch.Generator().manual_seed(0)
    ids = torch.randint(0, loaded.config.vocab, (2, length), generator=generator)
    with torch.no_grad():
        gap = float((loaded.module(ids).float() - again.module(ids).float()).abs().max())
    if gap != 0.0:
        shutil.rmtree(out)
        raise MachineError(f"the reloaded logits differ by {gap:.3g}, so {out} was removed; {source} may be damaged")
    return {"model": str(source), "out": str(out), "format": "hf", "max_difference": gap, "bits": bits,
            "parameters": sum(p.numel() for p in again.module.parameters())}
