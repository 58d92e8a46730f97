"""From a base model to an assistant: instruction tuning, reward models, preferences, reinforcement learning.

    meristem adapt MODEL sft data.corpus=CHATS.jsonl --out runs/sft
    meristem adapt runs/sft dpo data.corpus=PAIRS.jsonl --out runs/dpo

docs/alignment.md walks through them, with the forms of a row; docs/results.md has what was measured. Any of them trains
added tensors only with `adapt.name=lora`.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

SHAPE = Part("llama", {"dim": 128, "layers": 4, "heads": 4, "groups": 2, "hidden": 320, "tied": True, "qk_norm": True})
WORDS = Part("bpe", {"vocab": 4096, "special": ["<|im_start|>", "<|im_end|>"]})


def sft() -> Run:
    """Instruction tuning: conversations, several in a row, loss on the assistant's tokens alone.

    Command: `meristem adapt MODEL sft data.corpus=CHATS.jsonl --out runs/sft`. CPU time: below 5 minutes with
    500 steps (`python -m benchmarks.assistant`). Expected there, on a base that copies: 65.3 % (61.4 to 69.0) of 600
    held-out instructions followed, 99.3 % in phrasings of training; the base none (docs/results.md, A4).
    """
    return Run(
        name="sft", model=SHAPE, data=Data(codec=WORDS, examples="conversations"),
        train=Train(steps=300, batch=16, context=256, lr=1e-3, warmup=20, weight_decay=0.0, validate_every=100))


def reward() -> Run:
    """A reward model from pairs of answers (Bradley-Terry); its head lies in RUN/head.

    Command: `meristem adapt MODEL reward data.corpus=PAIRS.jsonl --out runs/reward`. CPU time: 7.2 minutes for it, its
    base of 400 steps and `dpo`. Expected: a first loss of ln 2 = 0.693147; 58.2 % (51.1 to 65.0) of 189 held-out pairs
    of hh-harmless after 120 steps (docs/results.md, D-10).
    """
    return Run(
        name="reward", model=SHAPE, objective=Part("reward", {"centre": 0.01}),
        data=Data(codec=WORDS, examples="preferences"),
        train=Train(steps=200, batch=16, context=512, lr=3e-4, warmup=20, weight_decay=0.0, validate_every=50,
                    guard=False))


def dpo() -> Run:
    """Preferences without a reward model: objective.loss = dpo, ipo, orpo or simpo; kto with data.examples=judged.

    Command: `meristem adapt MODEL dpo data.corpus=PAIRS.jsonl --out runs/dpo`. CPU time: see `reward`. Expected: a
    first loss of ln 2 = 0.693147; after 120 steps a small model knows its pairs by heart (loss 0.099) and prefers
    55.0 % (47.9 to 62.2) of 189 held-out ones: no more than chance (docs/results.md, D-11).
    """
    return Run(
        name="dpo", model=SHAPE, objective=Part("preference", {"loss": "dpo", "beta": 0.1}),
        data=Data(codec=WORDS, examples="preferences"),
        train=Train(steps=200, batch=16, context=512, lr=1e-4, warmup=20, weight_decay=0.0, validate_every=50,
                    guard=False))


def ppo() -> Run:
    """PPO against a reward that can be checked (objective.reward=exact) or a reward model (objective.reward=RUN).

    Command: `meristem adapt MODEL ppo data.corpus=QUESTIONS.jsonl objective.reward=RUN --out runs/ppo`. CPU time:
    not measured yet. Expected: a first ratio of exactly 1; how far the reward rises is not measured yet.
    """
    return Run(
        name="ppo", model=SHAPE, objective=Part("ppo", {"length": 32, "epochs": 2, "minibatches": 2}),
        data=Data(codec=WORDS, examples="questions"),
        train=Train(steps=200, batch=64, context=128, lr=3e-4, warmup=10, weight_decay=0.0, dtype="float32",
                    schedule="wsd", validate_every=50, guard=False))


def grpo() -> Run:
    """GRPO against a reward that can be checked: eight answers to each prompt, compared with each other.

    Command: `meristem adapt MODEL grpo data.corpus=QUESTIONS.jsonl objective.reward=last_number --out runs/grpo`.
    CPU time: 229 s of steps for 60 of them (sums, 96 x 3). Expected: a first ratio of exactly 1; there, 66 % of sampled
    answers right before and 97 % after 120 steps (docs/results.md, D-9 to D-12).
    """
    return Run(
        name="grpo", model=SHAPE, objective=Part("grpo", {"length": 64, "group": 8}),
        data=Data(codec=WORDS, examples="questions"),
        train=Train(steps=200, batch=16, context=128, lr=3e-4, warmup=10, weight_decay=0.0, dtype="float32",
                    schedule="wsd", validate_every=50, guard=False))
