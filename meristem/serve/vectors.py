"""POST /v1/embeddings, /score and /classify: what a model says of texts without writing any.

Scores are log-probabilities of the trainer's forward. Embeddings follow the folder's pooling (`generate.encode`).
"""
import asyncio
from functools import partial
from math import log
from typing import Any

import numpy as np

from meristem.codecs.base import begin
from meristem.core.errors import RequestError
from meristem.generate import encode
from meristem.serve.hear import call
from meristem.serve.loading import TextModel
from meristem.serve.schema import Classify, Embedding, Score
from meristem.serve.server import Server
from meristem.serve.settings import TooLong
from meristem.serve.texts import check_ids, packed, scored, short_enough, spelled


async def embeddings(server: Server, request: Any, body: Embedding) -> dict[str, Any]:
    """One vector a text."""
    model, adapter = server.text(request, body.model)
    model.offer("embeddings")
    given = body.input
    several: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
    for one in several:
        if not isinstance(one, str):
            check_ids(model, one)
    texts = [one if isinstance(one, str) else model.codec.decode(one) for one in several]
    read = await counted(model, texts)
    work = partial(encode.embed, codec=model.codec, texts=texts, pooling=model.pooling)
    vectors = (await call(model.engine, work, request.state.client, cost=read, adapter=adapter,
                          deadline=server.until())).numpy()
    if body.dimensions:
        if body.dimensions > vectors.shape[1]:
            raise RequestError(f"the model's vectors have {vectors.shape[1]} numbers, not {body.dimensions}")
        vectors = vectors[:, :body.dimensions]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    server.spent(request, read, 0)
    return {"object": "list", "model": request.state.facts["model"],
            "data": [{"object": "embedding", "index": i, "embedding": packed(v, body.encoding_format)}
                     for i, v in enumerate(vectors)],
            "usage": {"prompt_tokens": read, "total_tokens": read}}


async def score(server: Server, request: Any, body: Score) -> dict[str, Any]:
    """How likely the model finds each text, token by token, taken as the beginning of a document."""
    model, adapter = server.text(request, body.model)
    encode.one_way(model.module)
    model.offer("score")
    texts, out, read = [body.input] if isinstance(body.input, str) else body.input, [], 0
    for i, text in enumerate(texts):
        short_enough(model, text)
        ids = [begin(model.codec), *(await asyncio.to_thread(model.codec.encode, text)).tolist()]
        if len(ids) > model.engine.context + 1:
            raise TooLong(f"the text has {len(ids) - 1} tokens, the model's context is {model.engine.context}; score "
                          "it in pieces")
        found = await call(model.engine, partial(scored, ids=ids), request.state.client, cost=len(ids),
                           adapter=adapter, deadline=server.until())
        values = [one[0] for one in found[1:] if one]
        read += len(ids)
        out.append({"index": i, "tokens": [spelled(model, t) for t in ids[1:]], "token_ids": ids[1:],
                    "logprobs": values, "nats": -sum(values),
                    "bits_per_byte": -sum(values) / log(2) / max(1, len(text.encode()))})
    server.spent(request, read, 0)
    return {"object": "list", "model": request.state.facts["model"], "data": out,
            "usage": {"prompt_tokens": read, "total_tokens": read}}


async def classify(server: Server, request: Any, body: Classify) -> dict[str, Any]:
    """The probability of each class of each text, for models with a head of classes."""
    model, adapter = server.text(request, body.model)
    texts = [body.input] if isinstance(body.input, str) else body.input
    read = await counted(model, texts)
    work = partial(encode.classify, codec=model.codec, texts=texts)
    shares = await call(model.engine, work, request.state.client, cost=read, adapter=adapter, deadline=server.until())
    server.spent(request, read, 0)
    rows = [dict(zip(labels_of(model), row, strict=True)) for row in shares.tolist()]
    return {"object": "list", "model": request.state.facts["model"],
            "data": [{"index": i, "label": max(row, key=lambda name: row[name]), "probs": row}
                     for i, row in enumerate(rows)],
            "usage": {"prompt_tokens": read, "total_tokens": read}}


async def counted(model: TextModel, texts: list[str]) -> int:
    """How many tokens some texts have; `TooLong` for one that cannot fit."""
    for text in texts:
        short_enough(model, text)
    return sum(map(len, await asyncio.to_thread(model.codec.encode_batch, texts)))


def labels_of(model: TextModel) -> list[str]:
    """The names of a model's classes."""
    return [str(name) for name in vars(model.module.config).get("labels", ())]
