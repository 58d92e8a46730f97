"""Configs are frozen dataclasses; a file or a command line is a set of edits to one, checked all at once.

A recipe is a Python function that returns a `Run` (`core.run`). Every field of it is settable by path:
`model.layers=8 train.lr=1e-3`. A user's own recipe is a YAML or TOML file with the same fields. Values are validated by
pydantic at the border; every mistake is reported in one go, an unknown name with the nearest one that exists.
"""
import ast
import dataclasses
import functools
import json
import tomllib
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin, get_type_hints

from meristem.core.errors import RequestError, nearest

T = TypeVar("T")
Edits = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """A named entry of a registry folder with its fields: `Part("llama", {"layers": 4})`."""

    name: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)

    def with_fields(self, **more: Any) -> "Part":
        """A copy with some fields set."""
        return Part(self.name, {**self.fields, **more})


def parse_edits(words: Iterable[str]) -> dict[str, Any]:
    """`["train.lr=1e-3", "seed=1"]` -> `{"train.lr": 0.001, "seed": 1}`; RequestError on a word without `=`."""
    edits = {}
    for word in words:
        path, equals, text = word.removeprefix("--").partition("=")
        if not equals or not path:
            raise RequestError(f"{word!r} is not an edit: write field.name=value")
        edits[path] = literal(text)
    return edits


def literal(text: str) -> Any:
    """A Python or JSON literal where the text is one (`1e-3`, `[1, 2]`, `{"a": true}`), else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        return json.loads(text) if text[:1] in ("[", "{") else text
    except (ValueError, RecursionError):
        return text


def edit(config: T, edits: Edits) -> T:
    """`config` with dotted paths replaced, validated; RequestError lists every mistake on one line."""
    tree: dict[str, Any] = to_dict(config)
    problems: list[str] = []
    # a new name empties a part's fields
    named_first = sorted(edits.items(), key=lambda item: not item[0].endswith("name"))
    for path, value in named_first:
        _place(tree, type(config), path, value, problems)
    return _validate(type(config), tree, problems)


def from_dict(kind: type[T], tree: Mapping[str, Any]) -> T:
    """A dataclass of `kind` from nested mappings; unknown names and wrong types are one RequestError together."""
    problems: list[str] = []
    _check_names(kind, tree, "", problems)
    return _validate(kind, dict(tree), problems)


def read_file(path: Path) -> dict[str, Any]:
    """A YAML, TOML or JSON file as a mapping; RequestError names file, line and column of a syntax error."""
    import yaml
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            tree = tomllib.loads(text)
        elif path.suffix == ".json":
            tree = json.loads(text)
        else:
            tree = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise RequestError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise RequestError(f"{path}{where}: {getattr(error, 'problem', error)}") from None
    if not isinstance(tree, dict):
        raise RequestError(f"{path}: expected a mapping of fields, found {type(tree).__name__}")
    return tree


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values of a dataclass, ready for JSON or YAML."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'train.lr': 0.001, 'model.dim': 64, ...} from nested mappings: what `show` prints, each line a valid edit."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if key == "fields" and set(tree) == {"name", "fields"}:
            out |= flat(value, prefix)
            continue
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return out


def build(kind: type[T], part: Part, /, **more: Any) -> T:
    """The registry entry's own config dataclass from a `Part` (its fields over the defaults)."""
    return from_dict(kind, {**part.fields, **more})


def known(kind: type, **fields: Any) -> dict[str, Any]:
    """Those of some fields that a config has: a model of pictures has no vocabulary."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in fields.items() if name in names}


def _place(tree: dict[str, Any], kind: Any, path: str, value: Any, problems: list[str]) -> None:
    """Set one dotted path; below a `Part` the next word is one of its own free fields (or `name`)."""
    head, _, rest = path.partition(".")
    if kind is Part and head == "fields" and rest:
        head, path, rest = rest, rest, ""
    if kind is Part and head not in ("name", "fields"):
        fields = tree["fields"]
        *folders, leaf = path.split(".")                       # model.scaling.kind: a part's fields may have fields
        for word in folders:
            fields = fields.setdefault(word, {})
            if not isinstance(fields, dict):
                problems.append(f"{path}: {word} is {fields!r} and has no fields of its own")
                return
        fields[leaf] = value
        return
    if kind is Part and head == "name" and tree.get("name") != value:
        tree["fields"] = {}                                    # another entry has other fields
    hints = _hints(kind)
    if head not in hints:
        problems.append(f"{path}: no field {head!r} in {kind.__name__}; {nearest(head, hints)}")
    elif not rest:
        tree[head] = value
        if isinstance(value, Mapping | list | tuple):
            _check_names(kind, {head: value}, "", problems)
    elif (inner := _dataclass_of(hints[head])) is None:
        problems.append(f"{path}: {head} has no fields of its own")
    else:
        if not isinstance(tree.get(head), dict):
            if inner is Part and rest != "name":
                problems.append(f"{path}: no {head} is set; give {head}.name too")
                return
            tree[head] = {"name": "", "fields": {}} if inner is Part else {}
        _place(tree[head], inner, rest, value, problems)


def _check_names(kind: Any, tree: Any, prefix: str, problems: list[str]) -> None:
    if not isinstance(tree, Mapping):
        problems.append(f"{prefix.rstrip('.') or kind.__name__}: expected fields of {kind.__name__}, found {tree!r}")
        return
    hints = _hints(kind)
    for key, value in tree.items():
        if key not in hints:
            problems.append(f"{prefix}{key}: no field {str(key)!r} in {kind.__name__}; {nearest(str(key), hints)}")
        elif (inner := _dataclass_of(hints[key])) is not None and value is not None:
            _check_names(inner, value, f"{prefix}{key}.", problems)
        elif (row := _row_of(hints[key])) is not None and isinstance(value, list | tuple):
            for i, one in enumerate(value):
                _check_names(row, one, f"{prefix}{key}.{i}.", problems)


def _validate(kind: type[T], tree: dict[str, Any], problems: list[str]) -> T:
    import pydantic
    known = _keep_known(kind, tree)
    try:
        value = _adapter(cast(Hashable, kind)).validate_python(known)
    except pydantic.ValidationError as error:
        for e in error.errors():
            where = ".".join(str(x) for x in e["loc"] if not str(x).startswith(("function-", "dataclass")))
            problems.append(f"{where}: {e['msg']} (got {e.get('input')!r})")
    if problems:
        raise RequestError("; ".join(problems))
    return value


def _keep_known(kind: Any, tree: Any) -> Any:
    """Unknown names were reported by `_check_names`; pydantic should not repeat them in its own words."""
    if not isinstance(tree, Mapping) or kind is Part:
        return tree
    hints = _hints(kind)
    known: dict[str, Any] = {}
    for key, value in tree.items():
        if key in hints and (row := _row_of(hints[key])) is not None and isinstance(value, list | tuple):
            known[key] = [_keep_known(row, one) for one in value]
        elif key in hints:
            known[key] = _keep_known(inner, value) if (inner := _dataclass_of(hints[key])) else value
    return known


@functools.cache
def _adapter(kind: type) -> Any:
    import pydantic
    return pydantic.TypeAdapter(kind)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _dataclass_of(hint: Any) -> Any:
    """The dataclass inside `X` or `X | None`, else None."""
    options = [hint, *(getattr(hint, "__args__", ()) if get_origin(hint) is not tuple else ())]
    return next((o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)), None)


def _row_of(hint: Any) -> Any:
    """The dataclass X of `tuple[X, ...]`, else None."""
    return _dataclass_of(hint.__args__[0]) if get_origin(hint) is tuple and hint.__args__ else None
