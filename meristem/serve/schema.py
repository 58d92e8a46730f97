"""What requests may say: OpenAI's fields with their types and limits, a few of ours, and nothing else.

Every number has a range and every text a length, so that no request can ask for more than the server gives anyone
(llama.cpp's CVE-2026-21869 was a negative number). A chat template is never taken from a request: an unknown field is
an error that names the nearest known one. Fields that OpenAI's clients send and that change nothing here are listed
and ignored.
"""
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MESSAGES, TEXT, COPIES, STOPS, STOP, TOPS, PROMPTS = 100, 2_000_000, 8, 16, 256, 20, 128
TOOLS, SCHEMA, DEPTH, REGEX, BIASES, LENGTH, DIMENSION = 128, 65_536, 32, 4_096, 1_024, 1_000_000, 65_536
IGNORED = ("user", "store", "metadata", "service_tier", "parallel_tool_calls", "reasoning_effort", "verbosity",
           "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "modalities", "include", "reasoning",
           "background", "truncation", "max_tool_calls")

Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=TEXT)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def depth_of(value: Any) -> int:
    """How deep mappings and lists lie in each other."""
    deep, level = 0, [value]
    while level:
        level = [inner for one in level if isinstance(one, Mapping | list)
                 for inner in (one.values() if isinstance(one, Mapping) else one)]
        deep += 1
    return deep


def _schema(value: Any) -> Any:
    if isinstance(value, Mapping):
        if depth_of(value) > DEPTH:
            raise ValueError(f"a schema may be {DEPTH} deep")
        if len(json.dumps(value)) > SCHEMA:
            raise ValueError(f"a schema may have {SCHEMA} characters")
    return value


Schema = Annotated[dict[str, Any], BeforeValidator(_schema)]


class Strict(BaseModel):
    """Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Request(Strict):
    """The root of each request: what OpenAI's clients send and nothing here depends on is dropped."""

    model: Annotated[str, Field(max_length=512)] = ""

    @model_validator(mode="before")
    @classmethod
    def _drop(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if key not in IGNORED or key in cls.model_fields}


class StreamOptions(Strict):
    """What a stream says beside its text."""

    include_usage: bool = False
    include_obfuscation: bool = False


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stops = Annotated[list[Annotated[str, Field(min_length=1, max_length=STOP)]] | None, Field(max_length=STOPS),
                  BeforeValidator(_stops)]


class Sampled(Request):
    """The settings of a text."""

    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=LENGTH)] = 0
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[Number, Field(ge=0.01, le=10)] = 1.0
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[Annotated[int, Field(ge=0, lt=2**31)], Annotated[Number, Field(ge=-100, le=100)]] | None,
                          Field(max_length=BIASES)] = None
    seed: Seed | None = None
    n: Annotated[int, Field(ge=1, le=COPIES)] | None = None
    stop: Stops = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    regex: Annotated[str, Field(min_length=1, max_length=REGEX)] | None = None


class Completion(Sampled):
    """POST /v1/completions. `suffix`: what stands behind the gap, for models that fill one (`spm`: it comes first)."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)] | \
        Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=LENGTH)] | \
        Annotated[list[Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=LENGTH)]],
                  Field(min_length=1, max_length=PROMPTS)]
    max_tokens: Annotated[int, Field(ge=0, le=LENGTH)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=TOPS)] | None = None
    echo: bool | None = None
    suffix: Text | None = None
    spm: bool = False
    best_of: Annotated[int, Field(ge=1, le=COPIES)] | None = None
    response_format: "ResponseFormat | None" = None


class Url(Strict):
    """A picture: a data URL; others are never fetched."""

    url: Annotated[str, Field(max_length=32_000_000)]
    detail: str | None = None


class ContentPart(Strict):
    """A piece of a message."""

    type: Literal["text", "image_url", "input_text", "output_text", "input_image", "refusal"]
    text: Text | None = None
    image_url: Url | str | None = None
    refusal: Text | None = None
    detail: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class CalledFunction(Strict):
    """A function that the assistant called."""

    name: Annotated[str, Field(max_length=256)]
    arguments: Text = ""


class ToolCall(Strict):
    """A call in a message of the assistant."""

    id: Annotated[str, Field(max_length=256)] = ""
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[ContentPart], Field(max_length=64)] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    refusal: Text | None = None
    reasoning_content: Text | None = None
    audio: None = None
    annotations: list[Any] | None = None
    function_call: None = None


class Function(Strict):
    """A function that may be called."""

    name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_.-]+$")]
    description: Annotated[str, Field(max_length=SCHEMA)] | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool of a chat request."""

    type: Literal["function"]
    function: Function


class Named(Strict):
    """The name of a function."""

    name: Annotated[str, Field(max_length=256)]


class ToolChoice(Strict):
    """One tool must be called."""

    type: Literal["function"]
    function: Named


class JsonSchema(Strict):
    """A schema of the answer."""

    name: Annotated[str, Field(max_length=256)] = "answer"
    description: Annotated[str, Field(max_length=SCHEMA)] | None = None
    schema_: Annotated[Schema, Field(alias="schema")] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """What the whole answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Chat(Sampled):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=LENGTH)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=LENGTH)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOPS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    response_format: ResponseFormat | None = None


class Embedding(Request):
    """POST /v1/embeddings."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)] | \
        Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=LENGTH)] | \
        Annotated[list[Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=LENGTH)]],
                  Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=DIMENSION)] | None = None


class Score(Request):
    """POST /score: how likely the model finds each text."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)]


class Classify(Request):
    """POST /classify: the probability of each class of a text."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)]


Completion.model_rebuild()
