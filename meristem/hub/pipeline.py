"""A folder in Stable Diffusion's layout <-> the networks and settings of one painter.

    made = read(Path("stable-diffusion-v1-5"))                 # model_index.json with unet/ vae/ text_encoder/ ...
    write(Path("mine"), made)                                  # diffusers' DiffusionPipeline.from_pretrained reads it

The parts are folders of their own, read by `hub.hf`: unet/ or transformer/, vae/ (or vqvae/), text_encoder/, and beside
them tokenizer/ and scheduler/. No code of a folder is run; a safety checker is left out with a warning. A scheduler's
steps are ours (`generate.denoise`): of the file the betas, the target and the kind of sampler count.
"""
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn

from meristem import codecs
from meristem.codecs.base import CONFIG, TOKENIZER, Codec
from meristem.codecs.bpe import Bpe
from meristem.core import registry
from meristem.core.config import to_dict
from meristem.core.errors import RequestError
from meristem.core.files import committed, read_json, write_json
from meristem.hub import hf
from meristem.nn.noise import Schedule, Target

INDEX = "model_index.json"
NETWORKS, AUTOENCODERS = ("unet", "transformer"), ("vae", "vqvae")
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
SCHEDULE = "scheduler/scheduler_config.json"
TARGETS: dict[str, Target] = {"epsilon": "noise", "sample": "start", "v_prediction": "velocity"}
KINDS: dict[str, Any] = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
SAMPLERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim", "HeunDiscreteScheduler": "heun",
            "DPMSolverMultistepScheduler": "dpm_solver"}                # any other one of theirs: dpm_solver
OURS = {ours: theirs for theirs, ours in SAMPLERS.items()}
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"    # CLIP's tokenizer


@dataclass(frozen=True)
class Pipeline:
    """What paints. Modules are in evaluation mode; `limit` keeps the clean image within it, 0 = not."""

    family: str
    network: Any
    schedule: Schedule
    target: Target
    sampler: str = "dpm_solver"
    limit: float = 0.0
    autoencoder: Any = None
    text: Any = None                    # the text tower
    codec: Codec | None = None
    labels: tuple[str, ...] = ()        # names of classes, where the model is told one


def read(folder: Path) -> Pipeline:
    """RequestError for a part that is missing or that no family here computes."""
    index = read_json(folder / INDEX)
    if not isinstance(index, dict):
        raise RequestError(f"{folder / INDEX} is not a mapping of parts")
    parts = {name: value for name, value in index.items() if isinstance(value, list) and any(value)}
    known = (*NETWORKS, *AUTOENCODERS, *LEFT_OUT, "text_encoder", "tokenizer", "scheduler")
    if unknown := [name for name in parts if name not in known]:
        raise RequestError(f"{folder / INDEX} has a {unknown[0]}, which is not computed; known: {', '.join(known)}")
    if dropped := [name for name in LEFT_OUT if name in parts]:
        warnings.warn(f"{folder}: {' and '.join(dropped)} are left out", stacklevel=2)
    network = _part(folder, parts, NETWORKS)
    if network is None:
        raise RequestError(f"{folder / INDEX} names no unet and no transformer")
    autoencoder, text = _part(folder, parts, AUTOENCODERS), _part(folder, parts, ("text_encoder",))
    tree = read_json(folder / SCHEDULE)
    schedule, target = _schedule(tree, folder / SCHEDULE)
    offset = 1 if text else tree.get("steps_offset", 0)        # diffusers' pipeline sets 1, whatever the file says
    schedule = replace(schedule, offset=offset)
    clipped = tree.get("clip_sample", autoencoder is None and tree.get("_class_name") in ("DDPMScheduler",
                                                                                        "DDIMScheduler"))
    names = index.get("id2label") or {}
    labels = tuple(names[key] for key in sorted(names, key=int)) or vars(network.config).get("labels", ())
    return Pipeline(network.family, network.module, schedule, target,
                    SAMPLERS.get(str(tree.get("_class_name")), "dpm_solver"),
                    float(tree.get("clip_sample_range", 1.0)) if clipped else 0.0,
                    autoencoder and autoencoder.module, text and text.module,
                    tokenizer(folder / "tokenizer") if text else None, labels)


def write(folder: Path, made: Pipeline) -> None:
    """The folder, whole or not at all; RequestError for a schedule or a condition that diffusers does not have."""
    tree = {**_scheduler(made), "_diffusers_version": "0.30.0"}
    latent, told = made.autoencoder is not None, made.text is not None
    network = "transformer" if made.family == "dit" else "unet"
    kinds = {("unet", True, True): "StableDiffusionPipeline", ("unet", False, False): "DDPMPipeline",
             ("transformer", True, False): "DiTPipeline"}
    kind = kinds.get((network, latent, told))
    if kind is None or (network == "unet" and vars(made.network.config)["classes"]):
        raise RequestError("diffusers has a pipeline for a U-Net in pixels that is told nothing, one in latents that "
                           "is told captions, and a DiT in latents; this model is none of them")
    if told and made.sampler in ("ddpm", "ddim") and made.schedule.offset != 1:
        raise RequestError("diffusers' Stable Diffusion counts its steps from 1: give Schedule(offset=1), or a sampler "
                           "that does not count so, such as dpm_solver")
    entry = registry.load("models", made.family)
    parts = {network: ["diffusers", entry.HF_CONFIG.export(made.network.config)["_class_name"]],
             "scheduler": ["diffusers", tree["_class_name"]]}
    with committed(folder) as tmp:
        hf.save(tmp / network, made.family, made.network.config, made.network)
        if latent:
            parts["vae"] = ["diffusers", "AutoencoderKL"]
            hf.save(tmp / "vae", "autoencoder", made.autoencoder.config, made.autoencoder)
        if told and made.codec is not None:
            parts |= {"text_encoder": ["transformers", "CLIPTextModel"],
                      "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
                      **dict.fromkeys(LEFT_OUT, [None, None])}
            config, tower = _tower(made.text)
            hf.save(tmp / "text_encoder", "clip", config, tower)
            (tmp / "tokenizer").mkdir()
            _save_tokenizer(tmp / "tokenizer", made.codec, config.context)
        (tmp / "scheduler").mkdir()
        write_json(tmp / SCHEDULE, tree)
        named = {"id2label": {str(i): name for i, name in enumerate(made.labels)}} if network == "transformer" else {}
        checks = {"requires_safety_checker": False} if told else {}
        write_json(tmp / INDEX, {"_class_name": kind, "_diffusers_version": "0.30.0", **parts, **named, **checks})


def tokenizer(folder: Path) -> Codec:
    """A tokenizer/ folder: tokenizer.json, or vocab.json and merges.txt as CLIP's was kept until 2023."""
    if (folder / TOKENIZER).is_file() or not (folder / "vocab.json").is_file():
        return codecs.load(folder)
    try:
        bpe = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token="<|endoftext|>",
                                   end_of_word_suffix="</w>", fuse_unk=False)
    except Exception as error:                                 # the library raises bare Exception for any bad file
        raise RequestError(f"{folder} is not a tokenizer: {error}") from None
    made = Tokenizer(bpe)
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "),
                                            normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "removed", invert=True),
                                                  pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    roles = {"begin": "<|startoftext|>", "end": "<|endoftext|>", "pad": "<|endoftext|>"}
    if missing := [token for token in roles.values() if made.token_to_id(token) is None]:
        raise RequestError(f"{folder / 'vocab.json'} has no token {missing[0]}, so it is no tokenizer of CLIP")
    codec: Any = Bpe(made, roles)
    return codec


def _save_tokenizer(folder: Path, codec: Codec, context: int) -> None:
    """The codec's files, told to put begin and end tokens around a text, pad it and stop at the context."""
    codec.save(folder)
    made = Tokenizer.from_file(str(folder / TOKENIZER))
    named = {role: codec.marks[role] for role in ("begin", "end") if role in codec.marks}
    names = {role: str(made.id_to_token(number)) for role, number in named.items()}
    single = " ".join([*([names["begin"]] if "begin" in names else []), "$A", names["end"]])
    made.post_processor = processors.TemplateProcessing(single=single, pair=single + " $B:1",
                                                        special_tokens=[(names[role], named[role]) for role in named])
    (folder / TOKENIZER).write_text(made.to_str(pretty=False), encoding="utf-8")
    tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    write_json(folder / CONFIG, {**tree, "model_max_length": context, "padding_side": "right"})


def _part(folder: Path, parts: Mapping[str, Any], names: tuple[str, ...]) -> hf.Loaded | None:
    """The first of some parts that the index names, loaded."""
    return next((hf.load(folder / name) for name in names if name in parts), None)


def _tower(text: nn.Module) -> tuple[Any, nn.Module]:
    """The text half of a CLIP model as a model of its own."""
    entry, old = registry.load("models", "clip"), text.state_dict()
    whole: Any = text.config
    config = replace(whole, part="text")
    tower = entry.Model(config)
    tower.load_state_dict({name: old[name] for name in tower.state_dict()})
    return config, tower.eval()


def _schedule(tree: Mapping[str, Any], source: Path) -> tuple[Schedule, Target]:
    """What a scheduler_config.json says of noise and target; RequestError for what is not computed."""
    kind, target = tree.get("beta_schedule", "linear"), tree.get("prediction_type", "epsilon")
    if tree.get("trained_betas") or kind not in KINDS or target not in TARGETS:
        raise RequestError(f"{source}: beta_schedule {kind!r} with prediction_type {target!r} is not computed; known: "
                           f"{', '.join(KINDS)}; {', '.join(TARGETS)}")
    betas = {} if kind == "squaredcos_cap_v2" else {"start": tree.get("beta_start", 1e-4),
                                                   "end": tree.get("beta_end", 0.02)}
    return Schedule(KINDS[kind], tree.get("num_train_timesteps", 1000), **betas,
                    zero_snr=bool(tree.get("rescale_betas_zero_snr", False))), TARGETS[target]


def _scheduler(made: Pipeline) -> dict[str, Any]:
    """scheduler_config.json of a schedule, a target and a sampler."""
    s = to_dict(made.schedule)
    kind = {ours: theirs for theirs, ours in KINDS.items()}.get(s["kind"])
    target = {ours: theirs for theirs, ours in TARGETS.items()}.get(made.target)
    name = OURS.get(made.sampler)
    if kind is None or target is None or name is None:
        raise RequestError(f"a {s['kind']} schedule with target {made.target} and sampler {made.sampler} has no "
                           "scheduler in diffusers that counts time as ours")
    first, last = float(made.schedule.betas[0]), float(made.schedule.betas[-1])
    counted: dict[str, dict[str, Any]] = {
        "ddpm": {"timestep_spacing": "leading"},
        "ddim": {"timestep_spacing": "leading", "set_alpha_to_one": False},
        "heun": {"timestep_spacing": "linspace"},
        "dpm_solver": {"timestep_spacing": "linspace", "algorithm_type": "dpmsolver++", "solver_order": 2,
                       "final_sigmas_type": "zero"}}
    more = dict(counted[made.sampler])
    if made.sampler in ("ddpm", "ddim"):
        more |= {"steps_offset": made.schedule.offset, "clip_sample": bool(made.limit),
                 **({"clip_sample_range": made.limit} if made.limit else {})}
    if made.sampler != "heun":
        more["rescale_betas_zero_snr"] = s["zero_snr"]
    elif s["zero_snr"]:
        raise RequestError("diffusers' Heun knows no zero_snr; write another sampler")
    betas = {} if kind == "squaredcos_cap_v2" else {"beta_start": first, "beta_end": last}
    return {"_class_name": name, "num_train_timesteps": s["steps"], "beta_schedule": kind, **betas,
            "prediction_type": target, **more}
