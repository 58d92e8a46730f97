"""JSON schemas of a tool's arguments: which of them we can check, and what is wrong with a value.

    assert wrong({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, {"n": "1"})

The part of JSON Schema 2020-12 that function schemas use; a schema that says more is refused when the tool is declared,
not passed over in silence. Patterns are left to the grammar that writes a call (`generate.constrain`), which is linear:
a stranger's regular expression in a backtracking engine can take forever.
"""
from collections.abc import Callable, Mapping
from typing import Any

from meristem.core.errors import RequestError, nearest

Json = Mapping[str, Any]
NOTES = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions", "format",
         "deprecated", "readOnly", "writeOnly", "pattern", "contentEncoding", "contentMediaType"}
KNOWN = {"type", "enum", "const", "properties", "required", "additionalProperties", "items", "anyOf", "oneOf", "allOf",
         "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems",
         "multipleOf", "uniqueItems", "$ref"}
DEPTH = 32                              # of schemas inside schemas, and of values


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, Mapping), "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str), "boolean": lambda v: isinstance(v, bool), "null": lambda v: v is None,
    "number": _number, "integer": lambda v: _number(v) and v == int(v)}
SIZES: dict[str, tuple[Callable[[Any], bool], Callable[[Any, Any], bool], str]] = {
    "minimum": (_number, lambda v, m: v >= m, "at least"), "maximum": (_number, lambda v, m: v <= m, "at most"),
    "exclusiveMinimum": (_number, lambda v, m: v > m, "above"),
    "exclusiveMaximum": (_number, lambda v, m: v < m, "below"),
    "minLength": (TYPES["string"], lambda v, m: len(v) >= m, "of a length of at least"),
    "maxLength": (TYPES["string"], lambda v, m: len(v) <= m, "of a length of at most"),
    "minItems": (TYPES["array"], lambda v, m: len(v) >= m, "of a length of at least"),
    "maxItems": (TYPES["array"], lambda v, m: len(v) <= m, "of a length of at most"),
    "multipleOf": (_number, lambda v, m: v % m == 0, "a multiple of"),
    "uniqueItems": (TYPES["array"], lambda v, m: not m or all(x not in v[:n] for n, x in enumerate(v)),
                    "without repetitions, unique =")}


def checked(schema: Any, depth: int = 0) -> Json:
    """The schema itself; RequestError for one that is none, is too deep, or has a keyword that we cannot check."""
    if not isinstance(schema, Mapping) or depth > DEPTH:
        raise RequestError(f"a schema is a mapping, at most {DEPTH} deep, not {str(schema)[:60]}")
    if unknown := sorted(set(schema) - NOTES - KNOWN):
        raise RequestError(f"a schema's {unknown[0]!r} is not checked here; {nearest(unknown[0], KNOWN)}")
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind not in TYPES:
            raise RequestError(f"a schema has no type {kind!r}; {nearest(str(kind), TYPES)}")
    inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(),
             *schema.get("definitions", {}).values(), *(s for key in ("anyOf", "oneOf", "allOf")
                                                        for s in schema.get(key, []))]
    for key in ("items", "additionalProperties"):
        if key in schema and not isinstance(schema[key], bool):
            inner.append(schema[key])
    for one in inner:
        checked(one, depth + 1)
    return schema


def wrong(schema: Json, value: Any, at: str = "", root: Json | None = None, depth: int = 0) -> str:
    """What of a value does not satisfy a schema, in words, or ""; `at` is where the value stands."""
    root, place = schema if root is None else root, at or "the arguments"
    if depth > DEPTH:
        return f"{place}: too deep"
    if "$ref" in schema:
        return wrong(_referred(root, str(schema["$ref"])), value, at, root, depth + 1)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if kinds and not any(TYPES[kind](value) for kind in kinds):
        return f"{place}: {_short(value)} is not of type {' or '.join(kinds)}"
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed is not None and not any(_same(value, one) for one in allowed):
        return f"{place}: {_short(value)} is none of {_short(allowed)}"
    for key, (applies, holds, words) in SIZES.items():
        if key in schema and applies(value) and not holds(value, schema[key]):
            return f"{place}: {_short(value)} is not {words} {schema[key]}"
    for one in schema.get("allOf", []):
        if found := wrong(one, value, at, root, depth + 1):
            return found
    for key in ("anyOf", "oneOf"):
        found_each = [wrong(one, value, at, root, depth + 1) for one in schema.get(key, [])]
        if found_each and (all(found_each) or (key == "oneOf" and found_each.count("") > 1)):
            return found_each[0] or f"{place}: {_short(value)} fits more than one of oneOf"
    if isinstance(value, Mapping):
        return _object(schema, value, at, root, depth)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return next(filter(None, (wrong(schema["items"], v, f"{at}[{n}]", root, depth + 1)
                                  for n, v in enumerate(value))), "")
    return ""


def _object(schema: Json, value: Json, at: str, root: Json, depth: int) -> str:
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    if missing := [name for name in schema.get("required", []) if name not in value]:
        return f"{at or 'the arguments'}: {missing[0]!r} is missing"
    for name, inner in value.items():
        where = f"{at}.{name}" if at else str(name)
        if name in properties:
            found = wrong(properties[name], inner, where, root, depth + 1)
        elif more is False:
            found = f"{where} is not an argument; {nearest(str(name), properties)}"
        else:
            found = wrong(more, inner, where, root, depth + 1) if isinstance(more, Mapping) else ""
        if found:
            return found
    return ""


def _referred(root: Json, name: str) -> Json:
    """What "#/$defs/name" means; RequestError for anything that is not inside the schema itself."""
    found: Any = root
    for part in name.removeprefix("#/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) and name.startswith("#/") else None
    if not isinstance(found, Mapping):
        raise RequestError(f"a schema's $ref {name!r} is not inside the schema")
    return found


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
