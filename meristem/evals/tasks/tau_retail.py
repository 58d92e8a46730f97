"""tau-bench, retail: of four replies the one with which the shop's agent went on.

Yao et al. 2024, https://arxiv.org/abs/2406.12045. File: few_shot.jsonl (MockRetailDomainEnv-few_shot.jsonl), whose
dialogues with users, tools' results among them, were led by an agent. The other three choices are replies from
elsewhere in the same collection. The benchmark's own environment needs a second model that plays the user; this is what
can be judged without.

    meristem evaluate RUN --tasks tau_retail --data FOLDER
"""
import re

import numpy as np

from meristem.core.random import seed_of
from meristem.evals.base import Item
from meristem.evals.benchmark import Choice

ON_REQUEST = True
TURN = re.compile(r"^(user|assistant|tool): ", re.MULTILINE)
BEFORE = 1500                           # characters of the dialogue before a reply


class TauRetail(Choice):
    """Items of one dialogue are a group."""

    name, count = "tau_retail", 200
    url = "https://github.com/sierra-research/tau-bench"
    folders = ("tau-retail", "few_shot_data")
    templates = ("{}\nassistant:", "{}\nagent:", "A shop's support desk.\n{}\nassistant:", "{}\nReply:",
                 "{}\nThe agent:", "Dialogue:\n{}\nassistant:", "{}\nsupport:", "{}\n")

    def read(self) -> list[Item]:
        """Every written reply of every dialogue but the first."""
        rows = self.rows("few_shot.jsonl", "MockRetailDomainEnv-few_shot.jsonl", fields=("messages_display",))
        turns = [(n, text[:m.start()].rstrip(), reply) for n, text in enumerate(row["messages_display"] for row in rows)
                 for m in TURN.finditer(text) if m[1] == "assistant" and m.start()
                 for reply in [TURN.split(text[m.end():])[0].strip()] if reply != "None"]
        out = []
        for place, (dialogue, before, reply) in enumerate(turns):
            rng = np.random.default_rng(seed_of("tau_retail", place))
            others = [turns[i][2] for i in rng.permutation(len(turns)) if turns[i][0] != dialogue
                      and turns[i][2] != reply][:3]
            right = int(rng.integers(4))
            choices = (*others[:right], reply, *others[right:])
            stem = before[-BEFORE:]
            out.append(Item(f"dialogue {dialogue}", self.templates[0].replace("{}", stem), reply, choices=choices,
                            right=right, stem=stem, evidence=f"{stem} {reply}"))
        return out


TASK = TauRetail()
