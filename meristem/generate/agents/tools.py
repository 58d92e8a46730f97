"""What an agent may call: tools with a JSON schema and what they can do to whom; a calculator, Python, a retriever.

    tools = [calculator(), python(), retriever(store), Tool.of({"type": "function", "function": {...}}, my_function)]

A tool says whether it reads what only this user may see (`private`), returns what others wrote (`untrusted`), or
changes or sends something outside the conversation (`acts`). An injected instruction does harm where all three meet
("the lethal trifecta"), so `together` refuses such a set, and `loop` refuses an acting call once untrusted text was
read, unless the caller's allow-list names the tool. In doubt a tool from elsewhere is all three (`agents.mcp`).

A tool's function runs in this process and must be safe for any arguments that satisfy its schema; code that nobody has
read runs in `core.sandbox` only, which has no network.
"""
import ast
import json
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from meristem.core import sandbox
from meristem.core.errors import RequestError, nearest
from meristem.generate.agents.schema import Json, checked
from meristem.generate.retrieve.store import Store

Run = Callable[[dict[str, Any]], str | Iterator[str]]          # arguments to a text, whole or in pieces
LONGEST = 400                           # characters of a sum
BITS = 4096                             # of a numerator or denominator: a power of a power must not fill the memory
Operation = Callable[[Fraction, Fraction], Fraction]
OPERATIONS: dict[type[ast.operator], Operation] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b), ast.Mod: operator.mod}
FUNCTIONS: dict[str, Callable[..., Fraction]] = {"abs": abs, "min": min, "max": max}


@dataclass(frozen=True)
class Tool:
    """A function that a model may call; `parameters` is the JSON schema of its arguments, an object."""

    name: str
    description: str
    parameters: Json
    run: Run
    private: bool = False
    untrusted: bool = False
    acts: bool = False

    def __post_init__(self) -> None:
        try:
            kind = checked(self.parameters).get("type")
        except RequestError as error:
            raise RequestError(f"tool {self.name!r}: {error}") from None
        if not self.name or kind != "object":
            raise RequestError(f"tool {self.name!r} needs a name and parameters of type object")

    @classmethod
    def of(cls, schema: Json, run: Run, *, private: bool = False, untrusted: bool = False,
           acts: bool = False) -> "Tool":
        """A tool from a function schema as OpenAI's interface has them; RequestError for one that is none."""
        inner = schema.get("function", schema)
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise RequestError('a function schema is {"type": "function", "function": {"name", "parameters"}}')
        return cls(inner["name"], str(inner.get("description", "")), inner.get("parameters") or {"type": "object"}, run,
                   private, untrusted, acts)

    @property
    def schema(self) -> dict[str, Any]:
        """What a model is told of it."""
        return {"type": "function", "function": {"name": self.name, "description": self.description,
                                                 "parameters": dict(self.parameters)}}

    @property
    def tags(self) -> list[str]:
        """What it can do, in words."""
        return [word for word, is_so in (("private", self.private), ("untrusted", self.untrusted), ("acts", self.acts))
                if is_so]


def together(tools: Sequence[Tool], allow: Collection[str] = ()) -> dict[str, Tool]:
    """The tools by name.

    RequestError for two of a name, an allow-list with a name that is none, or a set that reads private things, reads
    what others wrote and acts, unless every acting tool is allowed by name.
    """
    named = {tool.name: tool for tool in tools}
    if len(named) < len(tools):
        raise RequestError("two tools have the same name")
    if unknown := sorted(set(allow) - named.keys()):
        raise RequestError(f"no tool {unknown[0]!r} to allow; {nearest(unknown[0], named)}")
    acting = sorted(tool.name for tool in tools if tool.acts and tool.name not in allow)
    if acting and any(tool.private for tool in tools) and any(tool.untrusted for tool in tools):
        raise RequestError(f"these tools read private things, read what others wrote, and {acting[0]} acts on it: an "
                           f"instruction hidden in a text could send the one out by the other. Leave one kind out, or "
                           f"allow it by name: allow={acting}")
    return named


def calculator() -> Tool:
    """Exact arithmetic on whole and decimal numbers: + - * / // % **, parentheses, abs, min, max."""
    schema = {"type": "object", "properties": {"expression": {"type": "string", "maxLength": LONGEST}},
              "required": ["expression"], "additionalProperties": False}
    return Tool("calculator", "Work out a sum such as (12 + 7.5) * 3.", schema, lambda a: calculate(a["expression"]))


def calculate(expression: str) -> str:
    """The value of a sum, exact where it has at most 12 digits after the point; RequestError for anything else."""
    if len(expression) > LONGEST:
        raise RequestError(f"a sum has at most {LONGEST} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        value = _value(tree.body)
    except RequestError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise RequestError(f"{expression!r} is not a sum of numbers") from None
    except ZeroDivisionError:
        raise RequestError("division by zero") from None
    if value.denominator == 1:
        return str(value.numerator)
    whole, rest = divmod(abs(value.numerator) * 10**12, value.denominator)
    digits = str(whole + (2 * rest >= value.denominator)).zfill(13)
    return ("-" if value < 0 else "") + f"{digits[:-12]}.{digits[-12:]}".rstrip("0").rstrip(".")


def _value(node: ast.expr) -> Fraction:
    """The value of a part of a sum."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        made = Fraction(str(node.value)) if math.isfinite(node.value) else None
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        made = _value(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, power = _value(node.left), _value(node.right)
        small = power.denominator == 1 and abs(power) <= 64
        made = Fraction(base**power.numerator) if small else None
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        made = Fraction(OPERATIONS[type(node.op)](_value(node.left), _value(node.right)))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        made = Fraction(FUNCTIONS[node.func.id](*[_value(a) for a in node.args])) if not node.keywords else None
    else:
        made = None
    if made is None or max(made.numerator.bit_length(), made.denominator.bit_length()) > BITS:
        raise RequestError("a sum has numbers, + - * / // % **, parentheses, abs, min and max, and stays small")
    return made


def python(limits: sandbox.Limits = sandbox.Limits(seconds=5.0)) -> Tool:      # noqa: B008, it is frozen
    """Python in the sandbox: no network, no files but /tmp, limits on time, memory, processes and output."""
    schema = {"type": "object", "properties": {"source": {"type": "string", "maxLength": 20_000}},
              "required": ["source"], "additionalProperties": False}

    def run(arguments: dict[str, Any]) -> str:
        ran = sandbox.run(arguments["source"], limits)
        words = {"ok": "", "failed": f"\n[exit status {ran.code}]", "time": "\n[stopped: out of time]",
                 "output": "\n[stopped: too much output]"}
        return ((ran.output + ran.errors).strip() + words[ran.status]).strip()
    sandbox.require()                                          # before a model is told that it may
    return Tool("python", "Run a Python program and read what it prints.", schema, run)


def retriever(store: Store, count: int = 3, private: bool = True) -> Tool:
    """Passages of documents, which others may have written, with where they stand."""
    schema = {"type": "object", "properties": {"question": {"type": "string", "minLength": 1, "maxLength": 500}},
              "required": ["question"], "additionalProperties": False}

    def run(arguments: dict[str, Any]) -> str:
        hits = store.search(arguments["question"], count)
        return json.dumps([{"passage": hit.chunk.name, "text": hit.chunk.text} for hit in hits if hit.covered > 0],
                          ensure_ascii=False)
    return Tool("search", "Find passages of the documents.", schema, run, private=private, untrusted=True)
