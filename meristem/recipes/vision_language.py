"""Models that read pictures among words: LLaVA's layout, and Flamingo's around a frozen language model.

    meristem curate toy:looks documents=8000 --out runs/looks
    meristem pretrain llava data.corpus=runs/looks --out runs/llava
    meristem evaluate runs/llava --corpus runs/looks --tasks visual_answers
    meristem generate runs/llava "what colour is the circle?" --image scene.png

Rows have pictures, an input and a target, or are conversations with pictures (data/interleaved.py, docs/
vision_language.md). The tokenizer has a token of its own for a picture, id 1.
"""
from meristem.codecs.chat import IMAGE
from meristem.core.config import Part
from meristem.core.run import Data, Group, Run, Train

WORDS = Part("bpe", {"vocab": 512, "special": [IMAGE]})
TOWER = Part("clip", {"image": 32, "patch": 8, "vision": {"dim": 96, "layers": 3, "heads": 4}})
VIT = Part("vit", {"image": 32, "patch": 8, "dim": 96, "layers": 3, "heads": 4})
LANGUAGE = Part("llama", {"dim": 96, "layers": 3, "heads": 4, "hidden": 256, "qk_norm": True})


def llava() -> Run:
    """A vision tower, a projector and a decoder that answers questions about pictures; all trained together.

    Command: `meristem pretrain llava data.corpus=CORPUS --out runs/llava` on the corpus `toy:looks`. CPU time: half
    a minute for 300 steps of 32 rows. Expected: 40.3 % of questions about unseen pairs after these, 56.8 % about unseen
    scenes of known pairs after 1,000 steps (docs/results.md, A5); of the whole recipe no score was measured yet.
    """
    return Run(
        name="llava",
        model=Part("llava", {"language": {"name": LANGUAGE.name, "fields": LANGUAGE.fields},
                             "vision": {"name": TOWER.name, "fields": TOWER.fields}, "image_token": 1, "layer": -1}),
        objective=Part("joined", {}), data=Data(codec=WORDS, examples="interleaved"),
        train=Train(steps=1200, batch=64, context=40, optimizer="muon", lr=5e-3, warmup=50, compile=False,
                    guard=False))


def senses() -> Run:
    """Words, pictures, sounds and series of numbers in one decoder: eight small tasks, told apart by their question.

    Command: `meristem pretrain senses data.corpus=CORPUS --out runs/one` on the corpus `toy:senses`. CPU time: 0.8
    minutes for 400 steps. Expected of these: 95.8 % of 1,599 questions, seven tasks nearly without a mistake and 67.5 %
    of the shapes (docs/results.md, C16).
    """
    return Run(
        name="senses", model=llava().model, objective=Part("joined", {}),
        data=Data(codec=Part("action", {"vocab": 640}), examples="interleaved"),
        train=Train(steps=800, batch=64, context=40, optimizer="muon", lr=5e-3, warmup=50, compile=False,
                    guard=False))


def shown_words() -> Run:
    """The language model of recipe flamingo: it learns from text which new word means which colour.

    Command: `meristem pretrain shown_words data.corpus=CORPUS --out runs/words` on the corpus `toy:looks kind=words`.
    CPU time: 0.7 minutes. Expected: after eight worked examples the ninth is named right in 93.5 % of 200 unseen rows.
    """
    return Run(
        name="shown_words",
        model=Part("llama", {"dim": 96, "layers": 4, "heads": 4, "hidden": 256, "qk_norm": True}),
        data=Data(codec=WORDS, examples="answers"),
        train=Train(steps=500, batch=32, context=64, optimizer="muon", lr=1e-2, warmup=20, compile=False, guard=False))


def flamingo() -> Run:
    """A frozen language model learns to see: new words for colours, from worked examples of pictures.

    Command: `meristem pretrain flamingo data.corpus=CORPUS objective.language=runs/words objective.vision=runs/vit
    data.codec.name=saved data.codec.folder=runs/words --out runs/flamingo` on the corpus `toy:looks kind=names`.
    CPU time: 1.7 minutes. Expected: 22 % after eight examples, as many on noise: at this budget it learns which words
    may come, and not to see (docs/results.md, A29).
    """
    return Run(
        name="flamingo",
        model=Part("flamingo", {"language": {"name": "llama", "fields": {
            "dim": 96, "layers": 4, "heads": 4, "hidden": 256, "qk_norm": True}},
            "vision": {"name": VIT.name, "fields": {**VIT.fields, "labels": []}}, "image_token": 1, "latents": 4,
            "resampler": 1, "every": 1, "heads": 4}),
        objective=Part("joined", {}), data=Data(codec=WORDS, examples="interleaved"),
        train=Train(steps=600, batch=32, context=64, lr=2e-3, warmup=50, compile=False, guard=False,
                    groups=(Group(r"^model\.language\.", freeze=True), Group(r"^model\.vision\.", freeze=True))))
