"""Pictures in a conversation: OpenAI's `image_url` parts, for models that read pictures among words (LLaVA, Flamingo).

    {"role": "user", "content": [{"type": "text", "text": "What is it?"},
                                 {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}]}

Data URLs only: an address is refused, nothing is ever fetched. What a picture may hold is `codecs.image`'s matter
(formats, 50 million pixels). A model without a chat template is asked one thing at a time, as its recipe trains it.
"""
from typing import Any

from meristem.data.conversations import Reader
from meristem.generate.base import Shown
from meristem.generate.seeing import ask, opened
from meristem.serve.errors import Refused
from meristem.serve.loading import TextModel
from meristem.serve.pictures import bytes_of
from meristem.serve.schema import Chat, ContentPart, Message
from meristem.serve.texts import SEEN, plain, short_enough

IMAGES = 16                             # pictures of a request: each passes the whole tower


def shown(model: TextModel, body: Chat, copies: int) -> tuple[list[int], Shown]:
    """The conversation as ids, each picture's places among them, and the pictures for so many copies of it.

    `Refused` or RequestError for what is no picture, too many of them, and a conversation that the model cannot take.
    """
    short_enough(model, "".join(m.content for m in body.messages if isinstance(m.content, str)))
    parts = [part for message in body.messages if isinstance(message.content, list) for part in message.content
             if part.type in SEEN]
    if len(parts) > IMAGES:
        raise Refused(400, f"a request may show {IMAGES} pictures, not {len(parts)}", "invalid_value", "messages")
    pictures = [opened(model.module, bytes_of(_url(part), "image_url"), f"picture {n + 1}")
                for n, part in enumerate(parts)]
    rows = [_row(model, body)] * copies
    prompts, source = ask(model.module, Reader(model.codec, model.template), rows, [pictures] * copies)
    return prompts[0].tolist(), source


def _row(model: TextModel, body: Chat) -> dict[str, Any]:
    if model.template is not None:
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()] if body.tool_choice != "none" else []
        return {"messages": [plain(message, sees=True) for message in body.messages], "tools": tools}
    if len(body.messages) > 1 or body.messages[0].role != "user" or body.tools:
        raise Refused(400, f"{model.name} has no chat template: it answers one question about pictures; send one "
                      "message of the user, without tools", "no_chat_template", "messages")
    return {"input": _text(body.messages[0])}


def _text(message: Message) -> str:
    content = message.content or ""
    return content if isinstance(content, str) else "".join(part.text or "" for part in content)


def _url(part: ContentPart) -> str:
    given = part.image_url
    return given if isinstance(given, str) else given.url if given else ""
