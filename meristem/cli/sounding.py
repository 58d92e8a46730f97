"""The half of `meristem generate` that speaks: from a text to a WAV file."""
from pathlib import Path

from meristem.cli.common import Answer
from meristem.core.errors import RequestError

GAP = 0.2                               # seconds of silence between sounds


def is_wave(out: Path | None) -> bool:
    """Whether a sound is asked for."""
    return out is not None and out.suffix.lower() == ".wav"


def answer(folder: Path, text: str, out: Path, count: int, seed: int, temperature: float, top_k: int) -> Answer:
    """Write `count` sounds of a text one behind the other; RequestError for a run that speaks nothing."""
    import numpy as np

    from meristem.codecs.audio import encode
    from meristem.core.files import write_bytes
    from meristem.objectives.sound_tokens import SoundTokens
    from meristem.train.painting import open_run
    if not out.expanduser().absolute().parent.is_dir():
        raise RequestError(f"--out {out} is in no folder that is there")
    if not (folder.expanduser() / "recipe.json").is_file():
        raise RequestError(f"{folder} is no run folder; sounds are made by a run of recipe speak")
    objective, codec = open_run(folder)
    if not isinstance(objective, SoundTokens) or codec is None:
        raise RequestError(f"{folder} makes no sounds; name a run of recipe speak")
    speaker = objective.speaker(codec)
    made = speaker.speak([text] * count, seed, temperature, top_k).numpy()
    gap = np.zeros(int(GAP * speaker.rate), dtype=np.float32)
    samples = np.concatenate([part for sound in made for part in (sound, gap)])
    write_bytes(out.expanduser(), encode(samples, speaker.rate))
    facts = {"model": str(folder), "prompt": text, "out": str(out), "count": count, "rate": speaker.rate,
             "seconds": len(samples) / speaker.rate, "seed": seed}
    return Answer(facts, f"{out}: {count} sounds, {len(samples) / speaker.rate:.1f} seconds")
