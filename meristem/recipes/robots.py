"""Policies that read an instruction and see: RT-2's way, actions as words of a language model's own vocabulary.

    meristem curate toy:gridworld documents=400 --out runs/grid
    meristem pretrain rt2 data.corpus=runs/grid --out runs/rt2
    meristem evaluate runs/rt2 --corpus runs/grid --tasks closed_loop=runs/grid.rows/world.json

Rows have a picture, an instruction and an action (data/worlds.py records them, data/demonstrations.py reads those of
real robots; docs/robots.md). The same recipe trains on any of them: an action may have any number of dimensions.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

WORDS = Part("action", {"vocab": 640})
LANGUAGE = {"name": "llama", "fields": {"dim": 96, "layers": 3, "heads": 4, "hidden": 256, "qk_norm": True}}


def _seeing(side: int, patch: int) -> Part:
    tower = {"image": side, "patch": patch, "vision": {"dim": 96, "layers": 2, "heads": 4}}
    return Part("llava", {"language": LANGUAGE, "vision": {"name": "clip", "fields": tower}, "image_token": 1,
                          "layer": -1})


def rt2() -> Run:
    """Demonstrations of a gridworld and questions about its frames, in one model.

    Command: `meristem pretrain rt2 data.corpus=CORPUS --out runs/rt2` on the corpus `toy:gridworld documents=3000`.
    CPU time: 2.1 minutes. Expected: 95.5 % of instructions carried out, 35 % of those that name a pair of colour and
    shape that no demonstration has, none where the instruction is taken away; with worldly=1 train.steps=2000 (4.1
    minutes) 94.5 % of those, too (docs/results.md).
    """
    return Run(
        name="rt2", model=_seeing(40, 8), objective=Part("joined", {}), data=Data(codec=WORDS, examples="interleaved"),
        train=Train(steps=1000, batch=64, context=48, optimizer="muon", lr=5e-3, warmup=50, compile=False, guard=False))


def decision_transformer() -> Run:
    """The same, told what the rest of an episode should earn; demonstrations that wander show what earns less.

    Command: `meristem pretrain decision_transformer data.corpus=CORPUS --out runs/dt` on the corpus `toy:gridworld
    returns=true wander=0.5`. CPU time: not measured yet. Expected: no score was measured yet.
    """
    run = rt2()
    return Run(name="decision_transformer", model=run.model, objective=run.objective, data=run.data, train=run.train)


def behaviour_cloning() -> Run:
    """Demonstrations of real robots: frames of 64 x 64 with seven numbers, or a state of 39 with 28.

    Command: `meristem pretrain behaviour_cloning data.corpus=CORPUS --out runs/cloned` on what `meristem curate
    robot:FOLDER` wrote. CPU time: not measured yet. Expected: no score was measured yet.
    """
    return Run(
        name="behaviour_cloning", model=_seeing(64, 16), objective=Part("joined", {}),
        data=Data(codec=WORDS, examples="interleaved"),
        train=Train(steps=300, batch=32, context=96, optimizer="muon", lr=3e-3, warmup=30, compile=False, guard=False))
