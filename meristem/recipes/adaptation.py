"""Adaptation recipes: one base, any task of questions with short answers, every method beside the others.

Rows of the corpus are {"input", "target", "shots": [], "text"} (`corpus.labelled`); the loss is on the answers alone.
`benchmarks/adaptation.py` runs these settings on intents and film reviews; docs/results.md has the table. Rates are for
bases of about a million parameters; larger ones want lower ones. Times: one core.
"""
from typing import Any

from meristem.core.config import Part
from meristem.core.run import Data, Group, Run, Train

LORA = Part("lora", {"rank": 8, "alpha": 32.0})


def _task(name: str, adapt: Part | None, lr: float, examples: str = "answers", **train: Any) -> Run:
    given: dict[str, Any] = {"steps": 120, "batch": 16, "context": 64, "warmup": 5, "weight_decay": 0.0, "guard": False}
    return Run(name=name, data=Data(examples=examples), adapt=adapt, train=Train(lr=lr, **{**given, **train}))


def full() -> Run:
    """Full fine-tuning: all weights, but those that `train.groups` freezes.

    Command: `meristem adapt MODEL full data.corpus=ROWS --out runs/full`. CPU time: 11 s
    for 1.26 M parameters. Expected: 86.9 % of 15 of CLINC's intents, 65.4 % of film reviews (docs/results.md, D-1).
    """
    return _task("full", None, 1e-3)


def lora() -> Run:
    """LoRA on every matrix of a block; `adapt.rslora=true` and `adapt.dora=true` are its variants.

    Command: `meristem adapt MODEL lora data.corpus=ROWS --out runs/lora`. CPU time: 4 to 13 s
    for 1.26 M parameters. Expected: with rank 2 15.6 and 44.0 % of 15 of CLINC's intents (seeds 0 and 1; full: 86.9
    and 79.1), 53.0 % of film reviews (docs/results.md, D-1).
    """
    return _task("lora", LORA, 1e-2)


def lora_plus() -> Run:
    """LoRA+: B learns 16 times as fast as A (Hayou et al. 2024).

    Command: `meristem adapt MODEL lora_plus data.corpus=ROWS --out runs/plus`. CPU time: 4 to 13 s
    for 1.26 M parameters. Expected: with rank 2 21.3 and 35.3 % of 15 of CLINC's intents (seeds 0 and 1),
    53.0 % of film reviews (docs/results.md, D-1).
    """
    return _task("lora_plus", LORA, 2e-3, groups=(Group(r"\.b$", 16.0),))


def qlora() -> Run:
    """QLoRA: the frozen base in four bits, LoRA around it.

    Command: `meristem adapt MODEL qlora data.corpus=ROWS --out runs/qlora`. CPU time: 4 to 13 s
    for 1.26 M parameters. Expected: with rank 2 20.4 and 40.2 % of 15 of CLINC's intents (seeds 0 and 1), a loss
    0.011 nats above LoRA's in the mean (docs/results.md, D-1).
    """
    return _task("qlora", Part("qlora", {"rank": 8, "alpha": 32.0}), 1e-2)


def ia3() -> Run:
    """IA3: factors of keys, values and inner features.

    Command: `meristem adapt MODEL ia3 data.corpus=ROWS --out runs/ia3`. CPU time: 4 to 13 s
    for 1.26 M parameters. Expected: none of 15 of CLINC's intents, 26.0 and 40.0 % of film reviews (seeds 0 and 1;
    docs/results.md, D-1): 1,920 numbers move so weak a base little in 120 steps.
    """
    return _task("ia3", Part("ia3"), 3e-2)


def bottleneck() -> Run:
    """Bottleneck adapters after attention and MLP.

    Command: `meristem adapt MODEL bottleneck data.corpus=ROWS --out runs/bottleneck`. CPU time: 4 to 13 s
    for 1.26 M parameters. Expected: with size 8 6.7 and 16.2 % of 15 of CLINC's intents (seeds 0 and 1), 53.0 %
    of film reviews (docs/results.md, D-1).
    """
    return _task("bottleneck", Part("bottleneck", {"size": 16}), 1e-2)


def prefix() -> Run:
    """Prefix tuning: keys and values before the text.

    Command: `meristem adapt MODEL prefix data.corpus=ROWS --out runs/prefix`. CPU time: 4 to 13 s
    for 1.26 M parameters. Expected: none of 15 of CLINC's intents: 120 steps do not move it (docs/results.md, D-1).
    """
    return _task("prefix", Part("prefix", {"length": 36}), 2e-2)


def prompt() -> Run:
    """Prompt tuning: embeddings before the text.

    Command: `meristem adapt MODEL prompt data.corpus=ROWS --out runs/prompt`. CPU time: 4 to 13 s
    for 1.26 M parameters. Expected: none of 15 of CLINC's intents: 120 steps do not move it (docs/results.md, D-1).
    """
    return _task("prompt", Part("prompt", {"length": 36}), 3e-2)


def gated_prefix() -> Run:
    """LLaMA-Adapter: vectors beside the text, times a gate that starts at zero.

    Command: `meristem adapt MODEL gated_prefix data.corpus=ROWS --out runs/gated`. CPU time: 4 to 13 s
    for 1.26 M parameters. Expected: none of 15 of CLINC's intents: 120 steps do not move it (docs/results.md, D-1).
    """
    return _task("gated_prefix", Part("gated_prefix", {"length": 36}), 2e-2)


def domain() -> Run:
    """LoRA on the text of a domain: its loss falls, the base's own is measured before and after.

    Command: `meristem adapt MODEL domain data.corpus=CORPUS --out runs/domain`. CPU time: 12 s for
    1.26 M parameters. Expected: with rank 2 on PubMedQA's contexts from 5.97 to 5.01 nats a token, the base's own texts
    from 4.20 to 5.06 (docs/results.md, D-14).
    """
    return _task("domain", LORA, 1e-2, "", validate_every=30, guard=True)
