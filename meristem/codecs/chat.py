"""Chat templates: messages to the ids a chat model was trained on, and which of them its assistant wrote.

    chat = load(folder)                                        # None where the folder has no template
    chat.render([{"role": "user", "content": "Hello"}], generation_prompt=True)
    ids, mask = chat.encode(messages, tools=tools)             # mask: the assistant's own tokens, to train on

A template is a Jinja program in chat_template.jinja or tokenizer_config.json. It is run in a locked child process
(`codecs.render`) and the text is that of `transformers`' apply_chat_template. Special tokens count only where the
template itself writes them: spelled out in a message, a tool or a document they are ordinary text, also when they are
put together from two strings, so nobody can end his turn and speak as the system. (Those of a single character cannot
be told from text.) `CHATML` is a template of ours for codecs fitted with `special=CHATML_TOKENS`.
"""
import atexit
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from tokenizers import Tokenizer

from meristem.codecs import base
from meristem.core import files
from meristem.core.errors import MachineError, RequestError

FILE = "chat_template.jinja"
FOLDER = "additional_chat_templates"    # NAME.jinja, where a model has several
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
IMAGE = "<|image|>"                     # where a picture stands, in templates of models that see
CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\nTools:\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
        {%- if message['content'] %}
            {{- message['content'] + '' }}
        {%- endif %}
        {%- for call in message['tool_calls'] or [] %}
            {{- '<tool_call>' + call['function'] | tojson + '</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {%- if message['content'] is string %}
            {{- message['content'] + '<|im_end|>' }}
        {%- else %}
            {%- for part in message['content'] %}
                {{- part if part is string else part['text'] if part['type'] == 'text' else '<|image|>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endif %}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""                         # the format of OpenAI's chat markup, as Qwen and others use it

BREAK, OPEN, CLOSE = "\ufdd0", "\ufdd1", "\ufdd2"      # noncharacters; the last two as in codecs.render
MARKS = re.compile(f"[{BREAK}{OPEN}{CLOSE}]")
REASONING = ("reasoning_content", "thinking", "reasoning")     # names of one field
PATIENCE = 10.0                         # seconds until a child that does not answer is killed
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")  # all that the child may know of it
PROBE = "meristem-answer"

Message = Mapping[str, Any]             # {"role": ..., "content": ..., ...}


@dataclass(frozen=True)
class Chat:
    """A template with the tokenizer whose special tokens it writes; `variables` are bos_token and its like."""

    template: str
    tokenizer: Tokenizer
    variables: dict[str, str]

    def render(self, messages: Sequence[Message], *, tools: Sequence[Message] = (), generation_prompt: bool = False,
               variables: Mapping[str, Any] | None = None) -> str:
        """The messages as one text; `variables` are further names that the template reads (enable_thinking, ...).

        RequestError when the template is broken, reaches outside its sandbox, does not end, or refuses the messages.
        """
        return MARKS.sub("", self._marked(messages, tools, generation_prompt, variables or {}))

    def encode(self, messages: Sequence[Message], *, tools: Sequence[Message] = (), generation_prompt: bool = False,
               variables: Mapping[str, Any] | None = None) -> tuple[Int32[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
        """Ids of the rendered text, and whether the assistant wrote each (all False without `{% generation %}`)."""
        ids: list[int] = []
        mask: list[bool] = []
        inside = False
        for number, piece in enumerate(self._marked(messages, tools, generation_prompt, variables or {}).split(BREAK)):
            text, flags = "", bytearray()
            for part in re.split(f"([{OPEN}{CLOSE}])", piece):
                if part in (OPEN, CLOSE):
                    inside = part == OPEN
                else:
                    text, flags = text + part, flags + bytes([inside]) * len(part)
            for token, (start, stop) in self._tokens(text, number > 0):
                ids.append(token)
                mask.append(any(flags[start:max(stop, start + 1)]))
        return np.array(ids, dtype=np.int32), np.array(mask, dtype=bool)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The special token that the template writes after an assistant's words, if it does."""
        try:
            text = self.render([{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}])
        except RequestError:                                   # a template that wants other messages
            return frozenset()
        tail = text.rpartition(PROBE)[2].lstrip()
        return frozenset(token for name, token in self.special.items() if tail.startswith(name))

    @cached_property
    def special(self) -> dict[str, int]:
        """Special tokens, as spelled -> id."""
        return {token.content: number for number, token in self.tokenizer.get_added_tokens_decoder().items()
                if token.special and len(token.content) > 1}

    def _marked(self, messages: Sequence[Message], tools: Sequence[Message], generation_prompt: bool,
                variables: Mapping[str, Any]) -> str:
        """The rendered text with BREAK inside the special tokens of others and OPEN, CLOSE around the assistant."""
        if not messages or not all(isinstance(m, Mapping) for m in messages):
            raise RequestError('messages are a list of {"role": ..., "content": ...}, at least one')
        request = {"messages": [self._plain(_message(m)) for m in messages],
                   "tools": [self._plain(tool) for tool in tools] or None, "documents": None,
                   "add_generation_prompt": generation_prompt,
                   **self.variables, **{key: self._plain(value) for key, value in variables.items()}}
        reply = _CHILD.ask({"template": self.template, "variables": request})
        if "text" not in reply:
            raise RequestError(f"the chat template {' '.join(reply['error'].split())[:300]}")
        return reply["text"]

    def _plain(self, value: Any) -> Any:
        """A JSON value whose strings cannot spell, or help to spell, a special token."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self._harmless(value)
        if isinstance(value, Mapping):
            return {self._plain(str(key)): self._plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in value]
        raise RequestError(f"a message holds a {type(value).__name__}; it can hold text, numbers, lists, mappings")

    def _harmless(self, text: str) -> str:
        text = self._spelled.sub(rf"\g<1>{BREAK}", MARKS.sub("", text))
        stop = len(text.rstrip())
        return text[:stop] + BREAK + text[stop:] if text.endswith(self._beginnings, 0, stop) else text

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        """The first character of a special token, wherever one begins (they may overlap)."""
        return re.compile(f"(?=(?:{'|'.join(map(re.escape, self.special)) or '(?!)'}))(.)", re.DOTALL)

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        return tuple({name[:n] for name in self.special for n in range(1, len(name))})

    def _tokens(self, text: str, later: bool) -> list[tuple[int, tuple[int, int]]]:
        """(id, characters) of each token; a `later` piece gets no space before it that a first one would get."""
        with base.ENCODING:
            return self._encoded(text, later)

    def _encoded(self, text: str, later: bool) -> list[tuple[int, tuple[int, int]]]:
        if later and text:
            lead = self.tokenizer.encode("\n", add_special_tokens=False).ids
            found = self.tokenizer.encode(f"\n{text}", add_special_tokens=False)
            if found.ids[:len(lead)] == lead:
                return [(token, (start - 1, stop - 1))
                        for token, (start, stop) in zip(found.ids[len(lead):], found.offsets[len(lead):], strict=True)]
        found = self.tokenizer.encode(text, add_special_tokens=False)
        return list(zip(found.ids, found.offsets, strict=True))


def load(folder: Path) -> Chat | None:
    """The chat template of a model folder, None where it has none; RequestError when its files are damaged."""
    config = files.read_json(folder / base.CONFIG) if (folder / base.CONFIG).is_file() else {}
    if not isinstance(config, dict):
        raise RequestError(f"{folder / base.CONFIG} is not a mapping of settings")
    template = read(folder, config)
    if not template:
        return None
    base.read_tokenizer(folder)
    try:
        tokenizer = Tokenizer.from_file(str(folder / base.TOKENIZER))
    except Exception as error:                                 # the library raises bare Exception for any bad file
        raise RequestError(f"{folder / base.TOKENIZER} is not a tokenizer: {error}") from None
    named = {key: value["content"] if isinstance(value, dict) and "content" in value else value
             for key, value in config.items() if key.endswith("_token")}
    return Chat(template, tokenizer, {key: value for key, value in named.items() if isinstance(value, str)})


def usual(codec: base.Codec) -> Chat | None:
    """CHATML for a codec that has its special tokens, else None."""
    if not isinstance(codec, base.Fast) or any(token not in codec.special for token in CHATML_TOKENS):
        return None
    return Chat(CHATML, Tokenizer.from_str(codec.tokenizer.to_str()), {})


def read(folder: Path, config: Mapping[str, Any]) -> str:
    """A folder's template: its own file before tokenizer_config.json, the one named default where there are several."""
    if (folder / FILE).is_file():
        try:
            return (folder / FILE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"{folder / FILE}: {error}") from None
    found = config.get("chat_template")
    if isinstance(found, list):
        several = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = several.get("default") or next(iter(several.values()), "")
    return found if isinstance(found, str) else ""


def save(folder: Path, template: str) -> None:
    """Put a template beside the tokenizer in `folder`, for `load` and for transformers.

    RequestError when the template is CHATML and the tokenizer lacks its special tokens.
    """
    tree = base.read_tokenizer(folder)
    special = {entry.get("content") for entry in tree.get("added_tokens") or [] if entry.get("special")}
    if template == CHATML and (missing := [token for token in CHATML_TOKENS if token not in special]):
        raise RequestError(f"the tokenizer in {folder} has no special token {missing[0]}, which the template writes; "
                           f"fit it with special={list(CHATML_TOKENS)}")
    files.write_bytes(folder / FILE, template.encode())
    config = files.read_json(folder / base.CONFIG)             # transformers must parse what the template writes
    files.write_json(folder / base.CONFIG, {**config, "split_special_tokens": False})


def _message(message: Message) -> dict[str, Any]:
    """Without the fields that are None; reasoning under each of the names that templates read."""
    kept = {key: value for key, value in message.items() if value is not None}
    reasoning = next((kept[key] for key in REASONING if key in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


class _Child:
    """The process that renders: started at the first request (60 ms), asked again (0.2 ms), replaced when it dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()
        self.owner = os.getpid()

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        """The child's reply; what it cannot survive is an error in words."""
        line = json.dumps(request).encode() + b"\n"
        with self.lock:
            process = self._alive()
            assert process.stdin and process.stdout
            timer = threading.Timer(PATIENCE, process.kill)
            timer.start()
            try:
                process.stdin.write(line)
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                reply = b""
            finally:
                timer.cancel()
            if not reply.endswith(b"\n"):
                self.close()
                return {"error": f"takes more than {PATIENCE:g} s, or more memory than it may"}
        return json.loads(reply)

    def close(self) -> None:
        """End the child, if there is one."""
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _alive(self) -> "subprocess.Popen[bytes]":
        if self.owner != os.getpid():                          # a fork must not share the pipes
            self.process, self.owner = None, os.getpid()
        if self.process is None or self.process.poll() is not None:
            self.close()
            kept = {key: os.environ[key] for key in ENVIRONMENT if key in os.environ}
            command = [sys.executable, "-I", str(Path(__file__).with_name("render.py"))]
            try:
                self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                stderr=subprocess.DEVNULL, env=kept)
            except OSError as error:
                raise MachineError(f"could not start {sys.executable} to render a chat template: {error}") from error
        return self.process


_CHILD = _Child()
atexit.register(_CHILD.close)
