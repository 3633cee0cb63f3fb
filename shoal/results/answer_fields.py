"""A JSON schema's top-level properties as columns: which there are, and what each holds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import orjson

_DEEPEST = 16
"""References and choices within one property; a schema that goes on refers to itself."""
_INT64 = range(-(2**63), 2**63)


class FieldKind(StrEnum):
    """What a column holds; what is of no simple type is JSON text."""

    text = "string"
    integer = "int64"
    number = "double"
    boolean = "bool"
    json = "json"


_KINDS = {
    frozenset({"string"}): FieldKind.text,
    frozenset({"integer"}): FieldKind.integer,
    frozenset({"number"}): FieldKind.number,
    frozenset({"integer", "number"}): FieldKind.number,
    frozenset({"boolean"}): FieldKind.boolean,
}


def field_kinds(schema: Mapping[str, Any]) -> dict[str, FieldKind]:
    """The kind of each top-level property, in the schema's order; none where it has none."""
    properties = _followed(schema, schema).get("properties")
    if not isinstance(properties, dict):
        return {}
    return {
        name: _KINDS.get(frozenset(_types(inner, schema) - {"null"}), FieldKind.json)
        for name, inner in properties.items()
    }


def field_value(value: Any, kind: FieldKind) -> Any:
    """A decoded JSON value as the column holds it; None where it does not fit."""
    if value is None:
        return None
    match kind:
        case FieldKind.json:
            return json_text(value)
        case FieldKind.text:
            return value if isinstance(value, str) else None
        case FieldKind.boolean:
            return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind is FieldKind.number:
        return float(value)
    whole = int(value) if float(value).is_integer() else None
    return whole if whole in _INT64 else None


def json_text(value: Any) -> str:
    """A decoded JSON value written without white space."""
    return orjson.dumps(value).decode()


def _types(schema: Any, root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """The JSON types that a value may have; "any" stands for what cannot be told."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return {"any"}
    schema = _followed(schema, root)
    if "const" in schema:
        return {_type_of(schema["const"])}
    if isinstance(schema.get("enum"), list):
        return {_type_of(value) for value in schema["enum"]}
    kinds = schema.get("type")
    if isinstance(kinds, str | list):
        return {kinds} if isinstance(kinds, str) else {str(kind) for kind in kinds}
    for name in ("anyOf", "oneOf", "allOf"):
        options = schema.get(name)
        if isinstance(options, list) and (name != "allOf" or len(options) == 1):
            return set().union(*(_types(option, root, depth + 1) for option in options))
    return {"any"}


def _followed(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a chain of references within the document leads to, else the last there."""
    for _ in range(_DEEPEST):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            break
        found: Any = root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            found = found.get(step) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            break
        schema = found
    return schema


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return kinds.get(type(value), "any")
