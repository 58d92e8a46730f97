"""From a request's fields to what the engine is asked: prompts as ids, sampling, grammars, log-probabilities."""
import asyncio
import base64
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from meristem.codecs.base import begin
from meristem.core.errors import RequestError
from meristem.generate import infill
from meristem.generate.agents.policy import calls
from meristem.generate.base import Read, likeliest
from meristem.generate.constrain import Grammar, grammar
from meristem.generate.sampling import Sampling
from meristem.generate.score import LOGITS
from meristem.serve.alone import alone
from meristem.serve.errors import Refused
from meristem.serve.jobs import Ask, Job, Token
from meristem.serve.loading import TextModel
from meristem.serve.schema import Chat, Completion, Message, Sampled
from meristem.serve.settings import TooLong

COMPLETION = 16                         # tokens of a completion that says no length, as OpenAI has it
PATIENCE = 5.0                          # seconds that compiling a grammar may take
COMPILING = 8                           # grammars that may wait for it
LETTERS = 1024                          # characters that a token has at most
KEPT = 64                               # compiled grammars
SEEN = ("image_url", "input_image")     # parts of a message that are pictures
LIMITS = {"initial_lexer_fuel": 1_000_000, "step_lexer_fuel": 200_000, "step_max_items": 50_000,
          "max_lexer_states": 50_000, "max_grammar_size": 100_000}      # of llguidance: seconds and megabytes

Scored = list[tuple[float, list[tuple[int, float]]] | None]


class Grammars:
    """Compiled grammars of strangers: limited in time, in number, and in how many wait."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(2, "grammar")
        self.kept: OrderedDict[tuple[str, str], Grammar] = OrderedDict()
        self.compiling = 0

    async def of(self, model: TextModel, sampling: Sampling) -> Grammar | None:
        """The grammar that `sampling` demands, at its beginning; None for none. `Refused` where it takes too long."""
        if not sampling.demands:
            return None
        key = (model.codec.hash, f"{sampling.regex!r} {sampling.schema!r} {sampling.lark!r} {sorted(model.stops)}")
        if key not in self.kept:
            if self.compiling >= COMPILING:
                raise Refused(429, "too many grammars are being compiled; ask again", "queue_full", after=1)
            self.compiling += 1
            work = asyncio.get_running_loop().run_in_executor(self.pool, grammar, sampling, model.codec,
                                                              model.engine.vocab, LIMITS, model.stops)
            work.add_done_callback(lambda _: self._done())
            try:
                made = await asyncio.wait_for(asyncio.shield(work), PATIENCE)
            except TimeoutError:
                raise Refused(400, f"the {sampling.demands} takes more than {PATIENCE:g} s to compile; simplify it",
                              "grammar_too_complex") from None
            assert made is not None
            self.kept[key] = made
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key].copy()

    def _done(self) -> None:
        self.compiling -= 1


def sampling_of(body: Sampled, length: int, top: int = 0, rules: Mapping[str, Any] | None = None) -> Sampling:
    """The settings of a request; one without a seed gets one of its own."""
    seed = secrets.randbits(48) if body.seed is None else body.seed
    return Sampling(
        length=length, temperature=1.0 if body.temperature is None else body.temperature, top_k=body.top_k,
        top_p=1.0 if body.top_p is None else body.top_p, min_p=body.min_p, repetition_penalty=body.repetition_penalty,
        frequency_penalty=body.frequency_penalty or 0.0, presence_penalty=body.presence_penalty or 0.0,
        logit_bias=body.logit_bias or {}, seed=seed, top_logprobs=top, stop=tuple(body.stop or ()),
        **{"regex": body.regex, **(rules or {})})


def asked(model: TextModel, prompt: Sequence[int], sampling: Sampling, rules: Grammar | None, client: str,
          adapter: str, copies: int, deadline: float, source: Read | None = None) -> Job:
    """The job of one prompt; `source` is what is shown beside it."""
    if model.writes and not model.paged:
        return alone(model, prompt, sampling, copies, client, deadline, source)
    return Ask(client=client, prompt=prompt, sampling=sampling, copies=copies, ends=model.stops, grammar=rules,
               adapter=adapter, deadline=deadline)


def prompts_of(model: TextModel, body: Completion) -> tuple[list[list[int]], list[str]]:
    """Ids and text of each prompt of a completion: a text begins a document, ids are taken as they are."""
    given = body.prompt
    several: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
    ids, texts = [], []
    for one in several:
        if isinstance(one, str):
            short_enough(model, one)
            if model.reads and body.suffix is None:
                row = np.append(model.codec.encode(one), model.codec.end)
            elif body.suffix is None:
                row = np.concatenate([[begin(model.codec)], model.codec.encode(one)])
            else:
                room = max(1, model.engine.context - length_of(body))
                row = infill.prompt(model.codec, one, body.suffix, body.spm, room)
            ids.append(row.tolist())
            texts.append(one)
        else:
            check_ids(model, one)
            ids.append(list(one))
            texts.append(model.codec.decode(one))
    return ids, texts


def short_enough(model: TextModel, text: str) -> None:
    """`TooLong` for a text that no tokens could make fit, before anybody spends time on tokenising it."""
    if len(text) > LETTERS * model.engine.context:
        raise TooLong(f"the text has {len(text):,} characters, which cannot fit the model's context of "
                      f"{model.engine.context} tokens; shorten it")


def check_ids(model: TextModel, ids: Sequence[int]) -> None:
    """RequestError for an id outside the vocabulary."""
    if max(ids) >= model.engine.vocab:
        raise RequestError(f"the prompt holds an id outside the model's vocabulary of {model.engine.vocab} tokens")


def length_of(body: Completion) -> int:
    """How many tokens a completion may have."""
    return COMPLETION if body.max_tokens is None else body.max_tokens


def room_of(model: TextModel, prompt: int, wanted: int | None) -> int:
    """How many tokens an answer may have: what is asked for, else what the context holds. `TooLong` if none fits."""
    room = model.engine.context - prompt
    if room < 1 or (wanted or 1) > room:
        raise TooLong(f"a prompt of {prompt} tokens and {wanted or 1} new ones exceed the model's context of "
                      f"{model.engine.context}; shorten the conversation or ask for fewer tokens")
    return wanted or room


def rules_of(body: Chat | Completion) -> dict[str, Any]:
    """What the whole answer must satisfy, as fields of `Sampling`."""
    tools = body.tools if isinstance(body, Chat) else None
    choice = body.tool_choice if isinstance(body, Chat) else None
    wanted = body.response_format
    demands = [name for name, given in (("regex", body.regex), ("tools", tools and choice != "none"),
                                        ("response_format", wanted and wanted.type != "text")) if given]
    if len(demands) > 1:
        raise Refused(400, f"{' and '.join(demands)} exclude each other", "invalid_value", demands[0])
    if tools and choice != "none":
        names = [tool.function.name for tool in tools]
        if not isinstance(choice, str | None):
            if choice.function.name not in names:
                raise Refused(400, f"tool_choice names {choice.function.name!r}, which is not among the tools",
                              "invalid_value", "tool_choice")
            tools = [tool for tool in tools if tool.function.name == choice.function.name]
        trees = [{"function": {"name": t.function.name, "parameters": t.function.parameters or {"type": "object"}}}
                 for t in tools]
        return {"lark": calls(trees, must=choice not in (None, "auto"))}
    if wanted and wanted.type == "json_object":
        return {"schema": {"type": "object"}}
    if wanted and wanted.type == "json_schema":
        if wanted.json_schema is None:
            raise Refused(400, "response_format json_schema needs a json_schema", "invalid_value", "response_format")
        return {"schema": wanted.json_schema.schema_}
    return {}


def rendered(model: TextModel, body: Chat) -> list[int]:
    """A conversation as the ids that the model was trained on; RequestError for a model without a template."""
    if model.template is None:
        raise Refused(400, f"{model.name} has no chat template: it completes text and does not converse; "
                      "use /v1/completions", "no_chat_template", "model")
    short_enough(model, "".join(m.content for m in body.messages if isinstance(m.content, str)))
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()] if body.tool_choice != "none" else []
    ids, _ = model.template.encode([plain(message) for message in body.messages], tools=tools, generation_prompt=True)
    return [int(i) for i in ids]


def plain(message: Message, sees: bool = False) -> dict[str, Any]:
    """A message as templates read it; `Refused` for a picture where the model sees none."""
    content: Any = message.content
    if isinstance(content, list):
        pictures = any(part.type in SEEN for part in content)
        if pictures and not sees:
            raise Refused(400, "this model sees no pictures", "invalid_value", "messages")
        content = [{"type": "image"} if part.type in SEEN else {"type": "text", "text": part.text or ""}
                   for part in content] if pictures else "".join(part.text or "" for part in content)
    tree: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": content or ""}
    if message.name:
        tree["name"] = message.name
    if message.tool_calls:
        import json
        made = []
        for one in message.tool_calls:
            try:
                arguments = json.loads(one.function.arguments or "{}")
            except (ValueError, RecursionError):
                arguments = one.function.arguments
            made.append({"function": {"name": one.function.name, "arguments": arguments}})
        tree["tool_calls"] = made
    return tree


@torch.no_grad()
def scored(module: Any, ids: Sequence[int], top: int = 0) -> Scored:
    """log p of each token given those before, with the likeliest there: the trainer's forward; None for the first."""
    tokens = torch.tensor([list(ids)])
    if tokens.shape[1] < 2:
        return [None] * tokens.shape[1]
    features, out = module.features(tokens[:, :-1])[0], Scored([None])
    step = max(1, LOGITS // module.config.vocab)
    for start in range(0, len(features), step):
        logits = module.head(features[start:start + step]).float()
        total = logits.logsumexp(-1)
        target = tokens[0, 1 + start:1 + start + step, None]
        values = (logits.gather(1, target)[:, 0] - total).tolist()
        tops = likeliest(logits, total, top) if top else [[]] * len(values)
        out += list(zip(values, tops, strict=True))
    return out


def spelled(model: TextModel, token: int) -> str:
    """A token as text."""
    return model.codec.decode([token])


def chat_logprobs(model: TextModel, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Log-probabilities as chat completions have them."""
    def one(token: int, logprob: float) -> dict[str, Any]:
        text = spelled(model, token)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}
    return [{**one(t.id, t.logprob), "top_logprobs": [one(i, p) for i, p in t.top]} for t in tokens]


def text_logprobs(model: TextModel, tokens: Sequence[tuple[int, float | None, Sequence[tuple[int, float]]]],
                  offset: int) -> dict[str, Any]:
    """Log-probabilities as completions have them; `offset` is where the first token begins in the text."""
    texts = [spelled(model, i) for i, _, _ in tokens]
    offsets = [offset + n for n in np.cumsum([0, *map(len, texts)])[:-1].tolist()] if texts else []
    return {"tokens": texts, "token_logprobs": [p for _, p, _ in tokens],
            "top_logprobs": [{spelled(model, i): p for i, p in reversed(top)} if top else None
                             for _, _, top in tokens],
            "text_offset": offsets}


def packed(vector: np.ndarray, form: str) -> list[float] | str:
    """A vector as JSON numbers, or as base64 of little-endian fp32, which OpenAI's client asks for."""
    if form == "float":
        numbers: list[float] = vector.tolist()
        return numbers
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())
