"""A model of ours inside EleutherAI's lm_eval: `lm_eval --model meristem`, by this entry, which makes it known there.

    python -m meristem.evals.harness --model meristem --model_args path=runs/x --tasks piqa,arc_easy --num_fewshot 0

takes every argument that `lm_eval` takes (it has no plugins of its own); from Python, `register()` before
`lm_eval.simple_evaluate(model="meristem", model_args="path=runs/x", ...)`. Nothing else of meristem imports lm_eval.
Prompts are encoded by lm_eval's own rules (`TemplateLM`), so the numbers are those of its Hugging Face backend on the
exported model (benchmarks/harness_agreement.py). Gao et al., https://github.com/EleutherAI/lm-evaluation-harness.
"""
from pathlib import Path
from typing import Any

import numpy as np

from meristem.core.errors import RequestError
from meristem.evals.benchmark import until

LENGTH = 256                            # tokens of an answer where a task does not say


def register() -> type:
    """Make "meristem" a model of lm_eval's registry and return its class; RequestError without lm_eval."""
    try:
        from lm_eval.api.model import TemplateLM
        from lm_eval.api.registry import register_model
    except ImportError:
        raise RequestError("lm_eval is not installed: pip install lm_eval") from None

    from meristem.evals.subject import Subject
    from meristem.generate.answers import answers

    class Meristem(TemplateLM):
        """path: a run or model folder; what else lm_eval passes (batch_size, device) changes nothing here."""

        backend = "causal"
        tokenizer_name = "meristem"

        def __init__(self, path: str = "", **given: Any) -> None:
            super().__init__()
            if not path:
                raise RequestError("which model? --model_args path=RUN")
            self.subject = Subject.open(Path(path))
            self.tokenizer = None
            self.max_length, self.max_gen_toks = self.subject.context, LENGTH

        @property
        def eot_token_id(self) -> int:
            """The end-of-document token."""
            return self.subject.codec.end

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **given: Any) -> list[int]:
            """Ids without special tokens."""
            return [int(i) for i in self.subject.codec.encode(string)]

        def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False,
                                  **given: Any) -> list[tuple[float, bool]]:
            pairs = []
            for _, context, answer in requests:
                kept = (context + answer)[-(self.max_length + 1):]     # too long: it loses its beginning
                pairs.append((np.array(kept[:len(kept) - len(answer)]), np.array(answer)))
            return [(float(a.logprobs.sum(dtype=np.float64)), bool(a.likeliest.all()))
                    for a in answers(self.subject.module, pairs)]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            """log p of whole texts, each token with at least half a context before it."""
            rows = [self.tok_encode(request.args[0]) for request in requests]
            found = self.subject.score([(np.array([self.eot_token_id]), np.array(row)) for row in rows])
            return [float(p.sum(dtype=np.float64)) for p in found]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            """Greedy, or at the temperature that a task asks for, up to the first stop text."""
            out = []
            for request in requests:
                prompt, how = request.args
                stops = how.get("until") or []
                length = int(how.get("max_gen_toks", self.max_gen_toks))
                warm = float(how.get("temperature", 0.0)) if how.get("do_sample") else 0.0
                row = np.array(self.tok_encode(prompt) or [self.eot_token_id])
                [ids] = self.subject.complete([row], length, warm, 0)
                text = self.subject.codec.decode(ids[ids != self.subject.codec.end])
                out.append(until(text, [stops] if isinstance(stops, str) else stops))
            return out

    register_model("meristem")(Meristem)
    return Meristem


if __name__ == "__main__":
    register()
    from lm_eval.__main__ import cli_evaluate
    cli_evaluate()
