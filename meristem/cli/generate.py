"""`meristem generate`: a model goes on from a prompt, or paints pictures of it."""
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from meristem.cli.common import Answer, model_folder
from meristem.core.errors import RequestError

GUESSES = 4                             # tokens guessed ahead when a draft model is named
MASKS = {"segment", "out", "click", "away", "box"}
SOUNDS = {"prompt", "out", "count", "seed", "temperature", "top_k"}
PICTURES = SOUNDS | {"edit", "mask", "extend", "variations", "enlarge", "strength", "steps", "guidance", "sampler",
                     "avoid", "best_of", "image", "watermark"}
TEXTS = {"prompt", "suffix", "spm", "length", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
         "frequency_penalty", "presence_penalty", "no_repeat_ngram", "beams", "length_penalty", "stop", "regex",
         "schema", "draft", "ahead", "logprobs", "seed", "image", "watermark"}


def generate(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model, run or adapter folder.", show_default=False)],
    prompt: Annotated[str, typer.Argument(help="The text to go on from, - reads standard input; or what pictures "
                                               "should show.", show_default=False)] = "",
    suffix: Annotated[str | None, typer.Option(help="Write what belongs between the prompt and this text; for models "
                                                    "trained with objective fill_in_the_middle.")] = None,
    spm: Annotated[bool, typer.Option("--spm", help="With --suffix: the suffix before the prompt, as recipe fim has "
                                                    "it.")] = False,
    length: Annotated[int, typer.Option(help="At most so many new tokens.", min=1)] = 128,
    temperature: Annotated[float | None, typer.Option(help="0 = always the likeliest token. Default 0.8, 0 with beams.",
                                                      min=0.0, show_default=False)] = None,
    top_k: Annotated[int, typer.Option(help="Sample among the k likeliest; 0 = all.", min=0)] = 0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest that hold this much probability.",
                                         min=0.0, max=1.0)] = 0.95,
    min_p: Annotated[float, typer.Option(help="Sample among those with this share of the likeliest one's probability.",
                                         min=0.0, max=1.0)] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: tokens of prompt and output become rarer.")] = 1.0,
    frequency_penalty: Annotated[float, typer.Option(help="Taken off a token's logit each time it was written.")] = 0.0,
    presence_penalty: Annotated[float, typer.Option(help="Taken off a token's logit once it was written.")] = 0.0,
    no_repeat_ngram: Annotated[int, typer.Option(help="No run of so many tokens twice; 0 = any.", min=0)] = 0,
    beams: Annotated[int, typer.Option(help="Beam search of this width.", min=1)] = 1,
    length_penalty: Annotated[float, typer.Option(help="Beams: score = log-probability / tokens^this.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    regex: Annotated[str | None, typer.Option(help="The whole output must match this regular expression.")] = None,
    schema: Annotated[Path | None, typer.Option(help="The output must be JSON of the schema in this file.")] = None,
    draft: Annotated[Path | None, typer.Option(help="A smaller model of the same tokenizer guesses ahead.")] = None,
    ahead: Annotated[int, typer.Option(help="Tokens guessed at once: by --draft, else looked up in the text.",
                                       min=0)] = 0,
    logprobs: Annotated[int, typer.Option(help="With --json: the likeliest so many tokens of each place.", min=0)] = 0,
    watermark: Annotated[str, typer.Option(metavar="KEY", help="A secret word: text and pictures carry a mark that "
                                           "nobody sees and who has the word finds.")] = "",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal text, equal pictures.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Pictures: the PNG to write, a grid; sounds: the WAV.")] = None,
    count: Annotated[int, typer.Option(help="Pictures: how many.", min=1, max=4096)] = 16,
    edit: Annotated[Path | None, typer.Option(help="Pictures: paint this one anew.")] = None,
    mask: Annotated[Path | None, typer.Option(help="With --edit: only where this picture is white.")] = None,
    extend: Annotated[int, typer.Option(help="With --edit: make it smaller and paint so many pixels around it.",
                                        min=0)] = 0,
    variations: Annotated[Path | None, typer.Option(help="Pictures: others like this one.")] = None,
    enlarge: Annotated[Path | None, typer.Option(help="Pictures: this one with more pixels.")] = None,
    strength: Annotated[float, typer.Option(help="With --edit without --mask, and --variations: how much may change.",
                                            min=0.0, max=1.0)] = 0.6,
    steps: Annotated[int, typer.Option(help="Pictures: steps of a diffusion model.", min=1)] = 20,
    guidance: Annotated[float, typer.Option(help="Pictures: how closely they follow the prompt; 1 = plainly.")] = 3.0,
    sampler: Annotated[str, typer.Option(help="Pictures: ddpm, ddim, heun, dpm_solver or euler.")] = "",
    avoid: Annotated[str, typer.Option(help="Pictures: what they should not show.")] = "",
    best_of: Annotated[int, typer.Option(help="Pictures: show the best of so many, where the model can judge.",
                                         min=1)] = 1,
    image: Annotated[list[Path] | None, typer.Option(help="A picture that the prompt is about, may be repeated; or "
                                                          "that a film begins with.")] = None,
    segment: Annotated[Path | None, typer.Option(help="Masks of this picture: of everything, or of what --click and "
                                                      "--box say.", show_default=False)] = None,
    click: Annotated[list[str] | None, typer.Option(help="With --segment: x,y on the object; may be repeated.")] = None,
    away: Annotated[list[str] | None, typer.Option(help="With --segment: x,y not on the object.")] = None,
    box: Annotated[str, typer.Option(help="With --segment: left,top,right,bottom around the object.")] = "",
) -> Answer:
    """Let a model go on from a prompt, fill the gap before --suffix, or paint; the same seed gives the same output.

    Example: meristem generate runs/llama "def read_lines(path):" --temperature 0.5

    Example: meristem generate runs/diffusion "a red circle" --out grid.png

    Example: meristem generate runs/llava "what colour is the circle?" --image scene.png --temperature 0

    Example: meristem generate runs/speak seven --count 4 --out seven.wav

    Example: meristem generate runs/llama "Once" --temperature 1 --watermark "my secret"

    Example: meristem generate runs/sam --segment photo.png --click 30,40 --out masks.png

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong (no model there, a prompt longer than the context).
    """
    from meristem.cli import painting, segmenting, sounding
    if segment:
        _only(context, MASKS, "makes masks")
        asked_for = segmenting.Prompted(segment, out, tuple(click or ()), tuple(away or ()), box)
        return segmenting.answer(model, asked_for)
    if sounding.is_wave(out):
        assert out is not None
        _only(context, SOUNDS, "writes sounds")
        return sounding.answer(model, prompt, out, count, seed, 1.0 if temperature is None else temperature, top_k)
    if out or painting.paints(model):
        _only(context, PICTURES, "paints")
        asked = painting.Asked(prompt, out, count, edit, mask, extend, variations, enlarge, strength,
                               image[0] if image else None, watermark)
        return painting.answer(model, asked, steps=steps, guidance=guidance, sampler=sampler, avoid=avoid, seed=seed,
                               temperature=1.0 if temperature is None else temperature, top_k=top_k, best_of=best_of)
    _only(context, TEXTS, f"writes text ({model} is no model that paints)")
    adapter = (model.expanduser() / "adapter_config.json").is_file()           # api.load finds its base
    folder = model if adapter else model_folder(model)
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        raise RequestError("the prompt is empty; give some text to go on from")
    wanted = _schema(schema) if schema else None
    guide = model_folder(draft) if draft else None
    from meristem.api import load
    from meristem.generate.sampling import Sampling
    from meristem.generate.text import whole
    from meristem.generate.watermark import Key
    sampling = Sampling(
        length=length, temperature=(0.8 if beams == 1 else 0.0) if temperature is None else temperature, top_k=top_k,
        top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty, no_repeat_ngram=no_repeat_ngram, beams=beams, length_penalty=length_penalty,
        stop=tuple(stop or ()), regex=regex, schema=wanted, ahead=ahead or (GUESSES if guide else 0),
        top_logprobs=logprobs, seed=seed, watermark=watermark)
    loaded = load(folder)
    done = loaded.complete([text], sampling, draft=load(guide) if guide else None, suffix=suffix,
                           spm=spm, images=[_bytes(path) for path in image or ()])
    made = whole(done[0], sampling)
    facts: dict[str, Any] = {"model": str(folder), "prompt": text, "text": made.text, "seed": seed,
                             "tokens": len(made.tokens), "reason": made.reason}
    if watermark:
        last = loaded.codec.encode(text)[-1]
        found = Key(watermark, loaded.config.vocab).found([last, *made.tokens])
        facts["watermark"] = {"z": found.z, "pairs": found.tokens}
    if logprobs:
        decode = loaded.codec.decode
        facts["logprobs"] = [{"token": decode([token]), "logprob": p, "top": [[decode([t]), q] for t, q in top]}
                             for token, p, top in zip(made.tokens, made.logprobs, made.top, strict=True)]
    return Answer(facts, text + ("\n" if image else "") + made.text + (suffix or ""))


def _only(context: typer.Context, used: set[str], does: str) -> None:
    """RequestError for an option that was given and would be ignored."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in used | {"model", "as_json"} and source is not None and source.name == "COMMANDLINE":
            shown = "the prompt" if name == "prompt" else f"--{name.replace('_', '-')}"
            raise RequestError(f"this call {does}, where {shown} has no meaning; leave it out (see meristem generate "
                               "--help)")


def _bytes(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}") from None


def _schema(path: Path) -> dict[str, Any]:
    from meristem.core.files import read_json
    tree = read_json(path.expanduser())
    if not isinstance(tree, dict):
        raise RequestError(f"{path} is not a JSON schema: it is no mapping")
    return tree
