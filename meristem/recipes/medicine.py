"""A generalist in medicine, NOT FOR CLINICAL USE: one checkpoint for questions, cells and reports, adapters on it.

    meristem curate medicine:FOLDER --out runs/medicine
    meristem pretrain medicine data.corpus=runs/medicine --out runs/generalist
    meristem evaluate runs/generalist --corpus runs/medicine --tasks visual_answers
    meristem adapt runs/generalist lora data.corpus=runs/medicine data.examples=interleaved --out runs/specialist
    meristem curate medicine:FOLDER/nuclei-seg --out runs/nuclei
    meristem pretrain sam data.corpus=runs/nuclei --out runs/segmenter

The corpora say what they are for, and the card and the report of every run on them repeat it.
"""
from meristem.codecs.chat import IMAGE
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def medicine() -> Run:
    """Questions of patients and researchers, photographs of cells and smears, answered by one small model.

    Command: `meristem pretrain medicine data.corpus=CORPUS --out runs/generalist` on what `meristem curate
    medicine:FOLDER` wrote. CPU time: not measured yet. Expected: no score was measured yet. NOT FOR CLINICAL USE.
    """
    tower = {"image": 64, "patch": 16, "vision": {"dim": 96, "layers": 2, "heads": 4}}
    return Run(
        name="medicine",
        model=Part("llava", {"language": {"name": "llama", "fields": {"dim": 96, "layers": 3, "heads": 4, "hidden": 256,
                                                                      "qk_norm": True}},
                             "vision": {"name": "clip", "fields": tower}, "image_token": 1, "layer": -1}),
        objective=Part("joined", {}),
        data=Data(codec=Part("bpe", {"vocab": 1024, "special": [IMAGE]}), examples="interleaved"),
        train=Train(steps=500, batch=32, context=128, optimizer="muon", lr=3e-3, warmup=30, compile=False, guard=False))
