"""The official client, unchanged, against the server: what ENGINEERING calls the contract, endpoint by endpoint."""
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pydantic
import pytest

from meristem.api import Model
from meristem.generate.sampling import Sampling
from meristem.serve.server import Server
from meristem.serve.settings import Busy

HELLO: list[Any] = [{"role": "user", "content": "the quick brown"}]
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}}}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client, told the address of the server and nothing else."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def local(server: Server) -> Model:
    """The same model in this process, without a server."""
    m = server.texts["tiny"]
    return Model(m.module, m.codec, "llama", m.module.config, m.folder, m.template, m.ends)


def test_models_say_what_they_are(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").model_extra["corpus"] == "c0ffee"
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.models.retrieve("nope")
    with pytest.raises(openai.NotFoundError) as wrong:
        client.completions.create(model="tinny", prompt="x")
    assert wrong.value.code == "model_not_found" and "tiny" in str(wrong.value)


def test_a_completion_is_what_the_model_writes_without_a_server(client: openai.OpenAI, local: Model) -> None:
    made = client.completions.create(model="tiny", prompt=["the quick", "a wise"], max_tokens=9, seed=5, n=2,
                                     temperature=0.8, logprobs=3)
    assert [c.index for c in made.choices] == [0, 1, 2, 3] and made.usage.completion_tokens == 36
    assert made.choices[2].logprobs.top_logprobs[0] and len(made.choices[2].logprobs.tokens) == 9
    want = local.complete(["the quick"], Sampling(length=9, temperature=0.8, seed=5))[0]
    assert made.choices[0].text == want.text
    assert made.choices[0].logprobs.token_logprobs == pytest.approx(want.logprobs, abs=1e-4)
    pieces = client.completions.create(model="tiny", prompt="the quick", max_tokens=9, seed=5, temperature=0.8,
                                       stream=True)
    assert "".join(p.choices[0].text for p in pieces) == want.text


def test_echo_with_logprobs_scores_the_prompt_as_the_trainer_does(client: openai.OpenAI, local: Model) -> None:
    """As lm-evaluation-harness asks: ids, echo, logprobs=1, max_tokens=1."""
    ids = [0, *local.codec.encode("the quick brown fox").tolist()]
    made = client.completions.create(model="tiny", prompt=ids, max_tokens=1, echo=True, logprobs=1, temperature=0,
                                     seed=1)
    marks = made.choices[0].logprobs
    assert len(marks.token_logprobs) == len(ids) + 1 and marks.token_logprobs[0] is None
    want = local.score("the quick brown fox")
    assert marks.token_logprobs[1:-1] == pytest.approx(want.logprobs.tolist(), abs=1e-6)
    assert max(marks.top_logprobs[-1].values()) == marks.token_logprobs[-1]        # greedy: the likeliest was taken
    only = client.completions.create(model="tiny", prompt="a dog", max_tokens=0, echo=True)
    assert only.choices[0].text == "a dog" and only.usage.completion_tokens == 0


def test_stop_bias_and_penalties_reach_the_sampler(client: openai.OpenAI, local: Model) -> None:
    token = int(local.codec.encode("d")[0])
    made = client.completions.create(model="tiny", prompt="x", max_tokens=8, logit_bias={str(token): 100},
                                     temperature=0, stop=["ddd"], extra_body={"top_k": 3})
    assert made.choices[0].text == "" and made.choices[0].finish_reason == "stop"
    free = client.completions.create(model="tiny", prompt="x", max_tokens=6, temperature=0, extra_body={
        "regex": "(yes|no)"})
    assert free.choices[0].text in ("yes", "no") and free.choices[0].finish_reason == "stop"


def test_a_chat_streams_what_it_answers_whole(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 10, "seed": 3, "n": 2}
    made = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    assert len(made.choices[1].logprobs.content) <= 10 and len(made.choices[1].logprobs.content[0].top_logprobs) == 2
    texts, usage = {0: "", 1: ""}, None
    for part in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in part.choices:
            texts[choice.index] += choice.delta.content or ""
        usage = part.usage or usage
    assert texts == {c.index: c.message.content for c in made.choices}
    assert usage.completion_tokens == made.usage.completion_tokens


def test_tools_are_called_as_their_schema_says(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": HELLO, "tools": [WEATHER], "temperature": 0, "max_tokens": 60}
    made = client.chat.completions.create(**asked, tool_choice="required").choices[0]
    call = made.message.tool_calls[0]
    assert made.finish_reason == "tool_calls" and call.function.name == "weather"
    assert json.loads(call.function.arguments)["n"] in (1, 2)
    one: Any = {"type": "function", "function": {"name": "weather"}}
    with client.chat.completions.stream(**asked, tool_choice=one) as s:
        streamed = s.get_final_completion().choices[0].message.tool_calls[0].function
    assert json.loads(streamed.arguments) == json.loads(call.function.arguments)
    again = [*HELLO, {"role": "assistant", "tool_calls": [call.model_dump()]},
             {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert client.chat.completions.create(**{**asked, "messages": again, "max_tokens": 3}, tool_choice="none").choices
    with pytest.raises(openai.BadRequestError, match="not among"):
        client.chat.completions.create(**asked, tool_choice={"type": "function", "function": {"name": "other"}})


def test_an_answer_of_a_schema_parses(client: openai.OpenAI) -> None:
    class Verdict(pydantic.BaseModel):
        ok: bool

    made = client.chat.completions.parse(model="tiny", messages=HELLO, max_tokens=40, response_format=Verdict)
    assert made.choices[0].message.parsed.ok in (True, False)


def test_responses_whole_and_streamed(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "name": "x", "schema": {"enum": ["yes", "no"]}}
    asked: Any = {"model": "tiny", "input": "the quick brown", "instructions": "a wise man", "max_output_tokens": 30,
                  "temperature": 0, "text": {"format": form}}
    made = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == made.output_text and final.usage.output_tokens == made.usage.output_tokens
    assert made.output_text in ('"yes"', '"no"') and made.status == "completed"
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]
    tool = {"type": "function", **WEATHER["function"], "strict": True}
    del asked["text"]
    called = client.responses.create(**{**asked, "max_output_tokens": 60}, tools=[tool], tool_choice="required")
    assert called.output[0].name == "weather" and json.loads(called.output[0].arguments)["n"] in (1, 2)
    with pytest.raises(openai.BadRequestError, match="not stored"):
        client.responses.create(**asked, previous_response_id="resp_1")


def test_vectors_scores_and_gaps(client: openai.OpenAI, local: Model, url: str) -> None:
    made = client.embeddings.create(model="tiny", input=["a wise dog", "the fox"])
    assert made.data[1].embedding == pytest.approx(local.embed("the fox").tolist(), abs=1e-6)
    short = client.embeddings.create(model="tiny", input="the fox", dimensions=4).data[0].embedding
    assert sum(x * x for x in short) == pytest.approx(1, abs=1e-5)
    score = httpx2.post(f"{url}/score", json={"input": "the fox"}).json()["data"][0]
    assert score["bits_per_byte"] == pytest.approx(local.score("the fox").bits_per_byte, rel=1e-6)
    gap = client.completions.create(model="tiny", prompt="def add(", suffix="):\n", max_tokens=4, temperature=0)
    assert gap.choices[0].text == local.infill("def add(", "):\n", length=4, temperature=0.0)


def test_errors_are_openais_and_long_prompts_are_never_cut(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(model="tiny", prompt="the " * 600, max_tokens=2)
    assert wrong.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match=r"temperature.*less than or equal to 2"):
        client.completions.create(model="tiny", prompt="x", temperature=3)
    with pytest.raises(openai.BadRequestError, match="cannot do that"):
        client.images.generate(model="tiny", prompt="x")


def test_every_answer_says_where_it_comes_from_and_a_stream_ends_as_clients_expect(url: str, server: Server) -> None:
    want = {"x-meristem-run": "tiny", "x-meristem-corpus": "c0ffee",
            "x-meristem-checkpoint": server.texts["tiny"].identity.checkpoint}
    short = {"prompt": "the", "max_tokens": 2}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", short), ("/v1/completions", {**short, "stream": True}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 2}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 2, "stream": True}),
        ("/v1/responses", {"input": "the", "max_output_tokens": 2}), ("/v1/embeddings", {"input": "the"}),
        ("/score", {"input": "the fox"})]
    for path, body in asked:
        answer = httpx2.post(f"{url}{path}", json=body)
        assert answer.status_code == 200 and want.items() <= dict(answer.headers).items(), path
        if body.get("stream"):
            assert answer.headers["cache-control"] == "no-cache" and answer.text.endswith("data: [DONE]\n\n")
            assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_client_comes_back_when_a_full_queue_says_so(url: str, server: Server,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    engine, slept = server.texts["tiny"].engine, list[float]()
    submit, busy = engine.submit, [Busy(7.0), Busy(7.0)]

    def full(job: Any) -> None:
        if busy:
            raise busy.pop()
        submit(job)
    monkeypatch.setattr(engine, "submit", full)
    monkeypatch.setattr("time.sleep", slept.append)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2) as client:
        assert client.completions.create(model="tiny", prompt="x", max_tokens=1).usage.completion_tokens <= 1
    assert slept == [7.0, 7.0] and not busy
