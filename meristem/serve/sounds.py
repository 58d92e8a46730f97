"""POST /v1/audio/transcriptions: what was said in a sound, by models that hear (Whisper, wav2vec 2.0 and HuBERT).

https://platform.openai.com/docs/api-reference/audio. A form with `file` (WAV; other formats with the extra `media`),
`model`, `language` and `response_format`: json, text, or verbose_json with times where the tokenizer has them.
"""
from typing import Any

from meristem.codecs.audio import decode
from meristem.codecs.base import Fast
from meristem.core.errors import RequestError
from meristem.generate.listen import TIME, segments, transcribe
from meristem.serve.errors import Refused
from meristem.serve.hear import call
from meristem.serve.server import Server

FORMATS = ("json", "text", "verbose_json")
LONGEST = 600                           # seconds of a sound
COST = 50                               # tokens that a second of it costs its client


def hears(config: Any, codec: Any) -> bool:
    """Whether a model writes what was said."""
    fields = vars(config)
    return codec is not None and "rate" in fields and fields.get("head") in ("lm", "ctc")


async def transcribed(server: Server, request: Any, fields: dict[str, Any], raw: bytes) -> dict[str, Any] | str:
    """The words of a sound; `Refused` for a format that is not offered."""
    known = {n: m for n, m in server.pictures.items() if m.kind == "sounds"}
    name, form = str(fields.get("model", "")), str(fields.get("response_format", "json"))
    model = known.get(name) if name else next(iter(known.values()), None)
    if model is None:
        raise Refused(404, f"there is no model {name[:200]!r} that hears; known: {', '.join(known) or 'none'}",
                      "model_not_found", "model")
    if form not in FORMATS:
        raise Refused(400, f"response_format is one of {', '.join(FORMATS)}", "invalid_value", "response_format")
    if unknown := sorted(set(fields) - {"model", "response_format", "language", "temperature", "prompt"}):
        raise Refused(400, f"unknown field {unknown[0][:100]!r}", "invalid_value", unknown[0][:100])
    server.identify(request, model)
    config, codec, language = model.module.config, model.codec, str(fields.get("language", ""))
    sound = decode(raw, config.rate, "file")
    seconds = len(sound) / config.rate
    if seconds > LONGEST:
        raise RequestError(f"the sound has {seconds:.0f} s; at most {LONGEST} are heard, send it in pieces")
    timed = isinstance(codec, Fast) and any(TIME.fullmatch(text) for text in codec.special)

    def work(module: Any) -> tuple[str, list[Any]]:
        if timed:
            parts = segments(module, codec, sound, language=language)
            return " ".join(part.text for part in parts), parts
        most = config.samples
        pieces = [sound[at:at + most] for at in range(0, max(1, len(sound)), most)]
        return " ".join(text for text in transcribe(module, codec, pieces, language=language) if text), []

    text, parts = await call(model.engine, work, request.state.client, cost=round(COST * seconds),
                             deadline=server.until())
    server.spent(request, round(COST * seconds), len(text.split()))
    if form == "text":
        return text + "\n"
    if form == "json":
        return {"text": text}
    return {"task": "transcribe", "language": language, "duration": seconds, "text": text,
            "segments": [{"id": i, "start": p.start, "end": p.end, "text": p.text} for i, p in enumerate(parts)]}
