"""Other people's clients, unchanged: lm-evaluation-harness' API backend and a LangChain chat model."""
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from meristem.serve.server import Server

pytestmark = pytest.mark.slow


def test_lm_evaluation_harness_reads_log_probabilities(url: str, folder: Path, server: Server) -> None:
    """Its loglikelihood of a continuation is the trainer's, and its greedy flag is right."""
    pytest.importorskip("lm_eval")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval.api.instance import Instance
        from lm_eval.models.openai_completions import LocalCompletionsAPI
        logging.disable(logging.INFO)
        model: Any = LocalCompletionsAPI(base_url=f"{url}/v1/completions", model="tiny", tokenizer=str(folder),
                                         num_concurrent=1, max_retries=1, batch_size=2, max_length=512)
        pairs = [("the quick brown", " fox jumps"), ("a wise", " man"), ("def add", "(a, b)")]
        asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        found = model.loglikelihood(asked, disable_tqdm=True)
        written = model.generate_until([Instance("generate_until", {}, (
            "the quick", {"until": ["\n"], "max_gen_toks": 5, "temperature": 0}), 0)], disable_tqdm=True)
        logging.disable(logging.NOTSET)
    import numpy as np

    from meristem.generate.score import logprobs
    text = server.texts["tiny"]
    for (context, rest), (value, greedy) in zip(pairs, found, strict=True):
        ids = [text.codec.encode(part).tolist() for part in (context, context + rest)]
        want = logprobs(text.module, [np.array(ids[1])])[0][len(ids[0]) - 1:]
        assert value == pytest.approx(float(want.sum()), abs=1e-4) and not greedy
    assert len(written) == 1


def test_a_langchain_chat_model(url: str) -> None:
    """Invoked, streamed, with a tool and with a schema."""
    pytest.importorskip("langchain_openai")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_core.tools import tool
        from langchain_openai import ChatOpenAI
        from pydantic import BaseModel

        class Verdict(BaseModel):
            """Yes or no."""

            ok: bool

        @tool
        def weather(ok: bool) -> str:
            """The weather."""
            return "rain"

        chat = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="tiny", max_tokens=40, seed=1, temperature=0.5)
        whole = chat.invoke("the quick brown")
        assert "".join(str(piece.content) for piece in chat.stream("the quick brown")) == whole.content
        assert whole.usage_metadata["output_tokens"] <= 40
        chat = chat.model_copy(update={"max_tokens": 150, "temperature": 0.0})
        called = chat.bind_tools([weather], tool_choice="required").invoke("the quick brown")
        assert called.tool_calls[0]["name"] == "weather" and called.tool_calls[0]["args"]["ok"] in (True, False)
        assert chat.with_structured_output(Verdict, method="json_schema").invoke("a dog").ok in (True, False)
