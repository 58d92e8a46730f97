"""Models that read pictures among words go through the same run, evaluation and shell as text."""
from pathlib import Path

import pytest
import torch

import meristem
from meristem.cli.main import main
from meristem.core.errors import RequestError
from meristem.corpus.store import Corpus
from meristem.data import looks
from meristem.evals.run import evaluate
from meristem.evals.subject import Subject
from meristem.generate.sampling import Sampling
from meristem.hub import hf
from meristem.recipes import resolve
from meristem.train.run import assemble, pretrain

SMALL = {"train.steps": 3, "train.batch": 4, "train.warmup": 1, "data.codec.vocab": 300, "train.dtype": "float32"}
LANGUAGE = {"name": "llama", "fields": {"dim": 32, "layers": 2, "heads": 2, "hidden": 64}}
LLAVA = {**SMALL, "model.language": LANGUAGE, "train.context": 32, "model.vision": {"name": "clip", "fields": {
    "image": 16, "patch": 8, "vision": {"dim": 32, "layers": 1, "heads": 2}}}}
FLAMINGO = {**SMALL, "model.language": LANGUAGE, "model.latents": 2, "model.heads": 2, "train.context": 40,
            "model.vision": {"name": "vit", "fields": {"image": 16, "patch": 8, "dim": 32, "layers": 1, "heads": 2}}}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return looks.make(tmp_path_factory.mktemp("looks") / "corpus", {"documents": 24, "side": 16})


@pytest.fixture(scope="module")
def llava(questions: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, _ = resolve("llava", {**LLAVA, "data.corpus": str(questions.folder)})
    return pretrain(run, tmp_path_factory.mktemp("llava") / "run")


def test_a_run_is_judged_on_pictures_and_on_noise(llava: Path, questions: Corpus) -> None:
    scores = evaluate(Subject.open(llava), questions, ["visual_answers"])
    assert [s.name for s in scores][:2] == ["visual_answers", "visual_answers_of_noise"]
    assert scores[0].baseline and scores[0].baseline.what.startswith("the most common training answer")


def test_the_shell_asks_about_a_picture(llava: Path, questions: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    picture = next(questions.folder.with_name("corpus.rows").glob("*.png"))
    asked = ["generate", str(llava), "what colour is the circle?", "--image", str(picture), "--length", "3"]
    assert main(asked) == 0 and capsys.readouterr().out.startswith("what colour is the circle?\n")
    assert main([*asked[:3], "--image", "nowhere.png"]) == 2
    model = meristem.load(llava)
    raw = picture.read_bytes()
    one, two = (model.complete(["what colour?"], Sampling(length=3), images=[raw] * n)[0] for n in (1, 2))
    assert len(one.logprobs) and one.logprobs != two.logprobs


def test_a_frozen_language_model_is_its_own_to_the_bit(questions: Corpus, tmp_path: Path) -> None:
    text, _ = resolve("llama", {**SMALL, "model": {"name": "llama", "fields": LANGUAGE["fields"]}, "train.context": 40,
                                "data.corpus": str(questions.folder), "data.codec.special": ["<|image|>"],
                                "train.compile": False})
    words = pretrain(text, tmp_path / "words")
    edits = {**FLAMINGO, "data.corpus": str(questions.folder), "objective.language": str(words),
             "data.codec.name": "saved", "data.codec.folder": str(words)}
    edits.pop("data.codec.vocab")
    run, _ = resolve("flamingo", edits)
    before, base = assemble(run), hf.load(words).module.float()
    batch = before.objective.prepare(before.held_out[0])
    with torch.no_grad():
        tokens = batch["tokens"][:, :-1]
        assert torch.equal(before.objective.model(tokens, images=batch["images"]), before.objective.model(tokens))
    made = hf.load(pretrain(run, tmp_path / "flamingo")).module.float()
    for name, value in base.state_dict().items():
        assert torch.equal(made.language.state_dict()[name], value), name
    drawn = before.objective.model.state_dict()
    moved = {name.split(".")[0] for name, value in made.state_dict().items() if not torch.equal(value, drawn[name])}
    assert moved == {"looks"} or moved == {"looks", "resampler"}
    with pytest.raises(RequestError, match="does not fit model.language"):
        assemble(resolve("flamingo", {**edits, "model.language": {**LANGUAGE, "fields": {"dim": 32, "layers": 1,
                                                                                        "heads": 2}}})[0])
