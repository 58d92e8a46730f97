"""A model folder in the Hugging Face layout <-> (family, config, module, codec).

    save(folder, "llama", config, module, codec)        # AutoModelForCausalLM.from_pretrained(folder) reads it
    loaded = load(folder)                               # this folder, a run folder, or one that transformers wrote
    loaded = load("org/name")                           # a Hub id (hub.cache)

The folder: config.json, model.safetensors (shards above 5 GB), tokenizer.json, tokenizer_config.json, a chat model's
chat_template.jinja, generation_config.json, and MANIFEST.json with the size and checksum of each. The family is found
by asking each file of `models/` whether its HF_CONFIG knows the architecture that config.json names; no code that a
folder carries is run.
"""
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from meristem.core import registry
from meristem.core.config import from_dict, to_dict
from meristem.core.errors import RequestError, nearest
from meristem.core.files import committed, read_json, write_json
from meristem.hub import pixels, quantised
from meristem.hub.cache import locate
from meristem.hub.tensors import STEMS, Tensors, check, content_hash, write

if TYPE_CHECKING:
    from meristem.codecs.base import Codec
    from meristem.codecs.chat import Chat


@dataclass(frozen=True)
class Loaded:
    """What a model folder holds; `module` is in evaluation mode, its weights in the types of the file."""

    family: str
    config: Any
    module: nn.Module
    codec: "Codec | None"
    folder: Path
    chat: "Chat | None" = None          # the chat template, where the model has one
    ends: frozenset[int] = frozenset()  # further tokens at which generation stops (generation_config.json)


def save(folder: Path, family: str, config: Any, module: nn.Module, codec: "Codec | None" = None,
         extra: dict[str, Any] | None = None, chat: "Chat | None" = None) -> None:
    """Write a model folder, whole or not at all; an older one there is replaced. `extra` is kept in MANIFEST.json."""
    entry = registry.load("models", family)
    tensors, packed = quantised.split(entry, config, module)
    end = codec.end if codec else None
    ends = {"bos_token_id": end, "eos_token_id": end}          # one token separates documents, as in GPT-2
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    with committed(folder, {"weights": content_hash(tensors), **(extra or {})}) as tmp:
        tree = {**entry.HF_CONFIG.export(config), **packed}
        if "_class_name" in tree:                              # diffusers' layout
            write_json(tmp / "config.json", tree)
            write(tmp, tensors, stem=STEMS[1])
            return
        write_json(tmp / "config.json", {**ends, **tree, "dtype": dtype})
        # pad only here: in config.json it would stop the end token's embedding from being trained by transformers
        write_json(tmp / "generation_config.json", {**ends, "pad_token_id": end})
        write(tmp, tensors)
        pixels.write(tmp, module)
        if codec:
            codec.save(tmp)
        if codec and chat:
            from meristem.codecs import chat as chats
            chats.save(tmp, chat.template)


def load(folder: str | Path, near: Path | None = None) -> Loaded:
    """Read a model folder, the `model/` inside a run folder, or a Hub id. One RequestError line for whatever is wrong.

    `near` is the folder whose file names the model (`cache.locate`). Memory peaks at about the model's size: the module
    is built on the meta device and tensors are read one by one. Of a model that also sees, the text part is read, with
    a warning that names what is left out.
    """
    where = locate(folder, near)
    check(where)
    tree = read_json(where / "config.json")
    if not isinstance(tree, dict):
        raise RequestError(f"{where / 'config.json'} is not a mapping of settings")
    family, entry = family_of(tree, where / "config.json")
    tree, tensors = _part(entry, tree, Tensors.open(where), where)
    said = tree.pop(quantised.KEY, None)
    config, module = _empty(entry, tree, where / "config.json")
    if said is None:
        state = entry.HF.restore(tensors, module, tensors.where)
    else:
        packed = quantised.Packed(tensors, said, entry, module, where / "config.json")
        state = packed.fill(entry.HF.restore(packed, module, tensors.where))
    _fill(module, state)
    pixels.read(where, module)
    codec = _codec(where)
    if codec and codec.vocab > config.vocab:
        raise RequestError(f"{where}: the tokenizer has {codec.vocab} tokens, "
                           f"the model's embedding only {config.vocab}")
    return Loaded(family, config, module.eval(), codec, where, _chat(where), _ends(where))


def stretched(loaded: Loaded, kind: str, factor: float, amplitude: float = 0.0) -> Loaded:
    """The same weights, told to read `factor` times their context: rotary positions scaled from it on (nn.position).

    `amplitude` is YaRN's, of cos and sin; 0 = by the paper, 0.1 ln(factor) + 1.
    RequestError for a kind of scaling that there is not, a family without one, or a model that has one already.
    """
    entry, old = registry.load("models", loaded.family), to_dict(loaded.config)
    if "scaling" not in old:
        raise RequestError(f"a {loaded.family} has no rotary positions to scale; a llama, mixtral or llama4 has")
    if old["scaling"]["kind"] != "default":
        raise RequestError(f"this model's positions are scaled already ({old['scaling']['kind']})")
    config = from_dict(entry.Config, {**old, "context": int(factor * old["context"]),
                                      "scaling": {"kind": kind, "factor": factor, "original": old["context"],
                                                  "amplitude": amplitude}})
    module = entry.Model(config)
    module.load_state_dict(loaded.module.state_dict())
    return replace(loaded, config=config, module=module.eval())


def family_of(tree: dict[str, Any], source: Path) -> tuple[str, ModuleType]:
    """The family whose HF_CONFIG knows a config.json, and its file; RequestError lists what is close."""
    known = []
    for name in registry.names("models"):
        entry = registry.load("models", name)
        if entry.HF_CONFIG.kind(tree):
            return name, entry
        known += [kind.architecture for kind in entry.HF_CONFIG.kinds]
    architectures = tree.get("architectures", [tree["_class_name"]] if "_class_name" in tree else None)
    named = architectures[0] if isinstance(architectures, list) and architectures else tree.get("model_type")
    if not isinstance(named, str):
        raise RequestError(f"{source} names no architecture; known: {', '.join(sorted(known))}")
    raise RequestError(f"{source}: no family here is a {named}; {nearest(named, known)}")


def identity(family: str, module: nn.Module) -> str:
    """A hash of the weights under their Hugging Face names: equal before saving and after loading anywhere."""
    return content_hash(quantised.split(registry.load("models", family), module.config, module)[0])


def _part(entry: ModuleType, tree: dict[str, Any], tensors: Tensors, where: Path) -> tuple[dict[str, Any], Tensors]:
    """Settings and tensors of the family inside a larger architecture (`Kind.part`); the same where it is the whole."""
    kind = entry.HF_CONFIG.kind(tree)
    key, begin = kind.part
    if not key:
        return tree, tensors
    inner, own = tree.get(key), tensors.part(begin)
    if not isinstance(inner, dict) or not len(own):
        raise RequestError(f"{where} is a {kind.architecture} without {key} in its config.json or tensors {begin}*")
    others = sorted({name.partition(".")[0] for name in tensors if not name.startswith(begin)})
    warnings.warn(f"{where} is a {kind.architecture}: its text part is loaded, the weights of "
                  f"{', '.join(others) or 'nothing'} are left out, so it cannot see", stacklevel=3)
    return {**inner, "architectures": [entry.HF_CONFIG.kinds[0].architecture]}, own


def _codec(folder: Path) -> "Codec | None":
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.txt")):
        return None
    from meristem import codecs  # 0.1 s that a model without text does not pay
    return codecs.load(folder) if codecs.is_here(folder) else None


def _chat(folder: Path) -> "Chat | None":
    if not (folder / "tokenizer.json").exists():
        return None
    from meristem.codecs import chat
    return chat.load(folder)


def _ends(folder: Path) -> frozenset[int]:
    """The eos_token_id of generation_config.json: a number or several (Llama 3 ends a turn with another token)."""
    path = folder / "generation_config.json"
    tree = read_json(path) if path.exists() else {}
    found = tree.get("eos_token_id") if isinstance(tree, dict) else None
    several = found if isinstance(found, list) else [found]
    return frozenset(i for i in several if isinstance(i, int) and not isinstance(i, bool))


def _empty(entry: ModuleType, tree: dict[str, Any], source: Path) -> tuple[Any, nn.Module]:
    """The config that config.json describes, and its module without numbers (on the meta device)."""
    fields = entry.HF_CONFIG.restore(tree, str(source))
    try:
        config = from_dict(entry.Config, fields)
        with torch.device("meta"):
            return config, entry.Model(config)
    except (ValueError, ArithmeticError, RuntimeError) as error:       # a head count of 0, a negative width
        raise RequestError(f"{source} describes no {entry.__name__.rpartition('.')[2]}: {error}") from None


def _fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Assign tensors to a module built on the meta device; tied names share one tensor and so one Parameter."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    made = {id(t): nn.Parameter(t, requires_grad=parameters[n].requires_grad and t.is_floating_point())
            for n, t in state.items() if n in parameters}
    module.load_state_dict({name: made[id(t)] if name in parameters else t for name, t in state.items()}, assign=True)
    empty = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not empty, f"buffers must be saved with the state or computed in forward: {empty}"
