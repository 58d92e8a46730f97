"""`meristem chat`: talk to a model, or let it go on from what is typed."""
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meristem.cli.common import Answer, model_folder
from meristem.core.errors import RequestError

if TYPE_CHECKING:
    from meristem.api import Model
    from meristem.generate.retrieve.desk import Reply
    from meristem.generate.retrieve.store import Store
    from meristem.generate.sampling import Sampling

HONEST = ("This is a base model: it completes text, it does not converse. Type the beginning of something, say a def "
          "line; /exit or end of input leaves.")
CHATS = "Type a message; /exit or end of input leaves."
FOUND = "{} passages. Ask something; /exit or end of input leaves."


def show(piece: str) -> None:
    """Print a piece of the answer as it comes."""
    print(piece, end="", flush=True)


def chat(
    model: Annotated[Path, typer.Argument(help="A model folder or run folder.", show_default=False)],
    length: Annotated[int, typer.Option(help="At most so many new tokens an answer.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 = always the likeliest token.", min=0.0)] = 0.8,
    seed: Annotated[int, typer.Option(help="Equal seeds and lines give equal answers.")] = 0,
    documents: Annotated[list[Path] | None, typer.Option(help="Answer from these files or folders, with citations; may "
                                                              "be repeated.", show_default=False)] = None,
    encoder: Annotated[Path | None, typer.Option(help="With --documents: a model whose vectors find passages by "
                                                      "meaning, beside their words.", show_default=False)] = None,
    hand_over: Annotated[Path | None, typer.Option(help="With --documents: what they do not answer, or not with a "
                                                        "source for each sentence, goes into this file for a person.",
                                                   show_default=False)] = None,
    tool: Annotated[list[str] | None, typer.Option(help="Let the model call calculator or python; --documents then is "
                                                        "a search that it calls. May be repeated.")] = None,
    mcp: Annotated[list[str] | None, typer.Option(help="Let it call the tools of this server, a command "
                                                       "line.")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="A tool that may act on what others wrote.")] = None,
    traces: Annotated[Path | None, typer.Option(help="A folder for the record of each question.")] = None,
) -> Answer:
    """Type a line, read the answer, or how a base model goes on; works at a terminal and in a pipe.

    A model with a chat template converses: it sees the whole conversation. A base model completes: type the beginning
    of something; each line starts anew. /exit or the end of input leaves. With --documents each line is a question that
    is answered from passages of these files, which are cited, or refused where none speaks of it. With --tool or --mcp
    the model calls tools (docs/agents.md).

    Example: echo "def add(a, b):" | meristem chat runs/quickstart/base

    Example: meristem chat runs/sft --documents notes/ --encoder runs/encoder

    Example: meristem chat runs/sft --tool calculator --tool python --documents notes/

    Exit status: 0 ok; 1 the machine failed; 2 the request was wrong.
    """
    folder = model_folder(model)
    from meristem.api import CREATIVE, load
    loaded = load(folder)
    sampling = replace(CREATIVE, length=length, temperature=temperature, seed=seed)
    if (encoder or hand_over) and not documents:
        raise RequestError("--encoder and --hand-over are about answers from documents: give --documents")
    store = _store(documents, encoder) if documents else None
    if tool or mcp:
        from meristem.cli import agent
        wish = agent.Wish(tool or (), mcp or (), store, allow or (), traces)
        return Answer({"model": str(folder), "turns": agent.answers(loaded, wish, _lines(), sampling)})
    if store:
        return _answers(loaded, store, sampling, folder, hand_over)
    print(CHATS if loaded.template else HONEST, file=sys.stderr)
    messages: list[dict[str, str]] = []
    turns: list[dict[str, str]] = []
    for text in _lines():
        if text.strip() and loaded.template:
            messages.append({"role": "user", "content": text})
            made = loaded.chat(messages, replace(CREATIVE, length=length, temperature=temperature,
                                                 seed=seed + len(turns)), on_text=show)
            print(flush=True)
            messages.append({"role": "assistant", "content": made})
            turns.append({"prompt": text, "text": made})
        elif text.strip():
            print(text, end="", flush=True)
            made = loaded.generate(text, length=length, temperature=temperature, seed=seed + len(turns),
                                   on_text=show)
            print(flush=True)
            turns.append({"prompt": text, "text": made})
    return Answer({"model": str(folder), "turns": turns})


def _lines() -> Iterator[str]:
    """What is typed, line by line, until /exit or the end of input."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "/exit":
            return
        yield line.rstrip("\n")


def _store(documents: list[Path], encoder: Path | None) -> "Store":
    """The passages of some files and folders."""
    from meristem.api import load
    from meristem.corpus.read import documents as read
    from meristem.generate.encode import Pooling
    from meristem.generate.retrieve.store import Encoder, Store
    by = load(model_folder(encoder)) if encoder else None
    return Store.of(read(documents), Encoder.of(by.module, by.codec, Pooling.read(by.folder)) if by else None)


def handed_over(queue: Path, question: str, made: "Reply") -> None:
    """Add a question to the file of those that wait for a person: why, and the passages that were found."""
    found = [hit.chunk.name for hit in made.hits]
    with queue.open("a", encoding="utf-8") as f:
        f.write(json.dumps({"question": question, "why": made.why, "found": found}) + "\n")


def _answers(loaded: "Model", store: "Store", sampling: "Sampling", folder: Path, queue: Path | None) -> Answer:
    """Questions answered from documents; below each answer the passages that it cites."""
    from meristem.generate.retrieve.answer import ask, writer_of
    from meristem.generate.retrieve.desk import reply
    print(FOUND.format(len(store.chunks)), file=sys.stderr)
    turns: list[dict[str, Any]] = []
    for text in _lines():
        if not text.strip():
            continue
        how = replace(sampling, seed=sampling.seed + len(turns))
        write = writer_of(loaded.module, loaded.codec, loaded.template, how)
        served = reply(text, store, write) if queue else None
        made = served or ask(text, store, write)
        if queue and served and served.why:
            handed_over(queue, text, served)
        cited = {number: chunk.name for number, chunk in made.cited.items()}
        print("\n".join([made.text, *(f"[{number}] {name}" for number, name in cited.items())]), flush=True)
        turns.append({"prompt": text, "text": made.text, "refused": made.refused, "grounded": made.grounded,
                      **({"handed_over": served.why} if served else {}),
                      "cited": [{"number": number, "passage": chunk.name, "document": chunk.document}
                                for number, chunk in made.cited.items()]})
    return Answer({"model": str(folder), "passages": len(store.chunks), "turns": turns})
