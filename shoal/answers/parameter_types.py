"""Of what types a function's parameters are, by its JSON schema: how their values are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

_DEEPEST = 16
"""References followed, one behind the other."""
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema, or the one it refers to within `root`; {} where it is none."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping):
            break
        reference = schema.get("$ref")
        if reference is None:
            return schema
        schema = _target(reference, root)
    return {}


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> list[str]:
    """The types that a value may have, as JSON Schema names them; none: nothing is said.

    Args:
        root: the schema of all arguments, in which references are looked up.
    """
    known = resolved(schema, root)
    if depth == _DEEPEST:
        return []
    return list(dict.fromkeys(_types(known, root, depth)))


def _types(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Iterator[str]:
    declared = schema.get("type")
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, list):
        yield from (each for each in declared if isinstance(each, str))
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        for value in values if isinstance(values, list) else []:
            yield _TYPES.get(type(value), "array" if isinstance(value, list) else "object")
    else:
        for name in ("anyOf", "oneOf", "allOf"):
            for part in schema.get(name) or []:
                yield from types_of(part, root, depth + 1)
    if schema.get("nullable") is True:
        yield "null"


def _target(reference: object, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in str(reference).removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if str(reference).startswith("#") else None


@lru_cache(maxsize=256)
def tools_with_types(text: str) -> list[dict[str, Any]]:
    """Tools as transformers reads them: of each parameter its types, whatever says them.

    Args:
        text: tools as JSON, checked.
    """
    tools = []
    for tool in json.loads(text):
        function = tool["function"]
        root = function.get("parameters") or {}
        given = root.get("properties")
        properties = {
            name: {"type": types_of(schema, root)}
            for name, schema in (given if isinstance(given, dict) else {}).items()
        }
        parameters = {"type": "object", "properties": properties}
        tools.append({"function": {"name": function["name"], "parameters": parameters}})
    return tools
