"""Schemas that nothing finite fulfils are told from those that merely refer to themselves."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.answers.endless_schema import is_endless
from shoal.answers.structure import of_schema
from shoal.errors import InvalidRequestError


def holding(inner: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a/b": inner}, "required": ["a/b"], **more}


SELF: dict[str, Any] = {"$ref": "#"}
PAIR = {
    "$ref": "#/$defs/x",
    "$defs": {"x": holding({"$ref": "#/$defs/y"}), "y": holding({"$ref": "#/$defs/x"})},
}


@pytest.mark.parametrize(
    "schema",
    [
        SELF,
        holding(SELF),
        PAIR,
        holding({"anyOf": [SELF, holding(SELF)]}),
        holding({"allOf": [{"type": "object"}, SELF]}),
        {"type": "array", "items": SELF, "minItems": 1},
        {"type": "array", "prefixItems": [{"type": "null"}, SELF], "minItems": 2},
        {"oneOf": [{"$ref": "#/oneOf/1"}, {"$ref": "#/oneOf/0"}]},
        holding({"$ref": "#/properties/a~1b"}),
    ],
)
def test_endless(schema: dict[str, Any]) -> None:
    assert is_endless(schema)
    with pytest.raises(InvalidRequestError, match=r"body\.x has no answer that ends"):
        of_schema(schema, "body.x")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {"a": SELF}},
        holding({"anyOf": [SELF, {"type": "null"}]}),
        holding({"enum": [1], "$ref": "#"}),
        {"type": ["object", "null"], "properties": {"a": SELF}, "required": ["a"]},
        {"type": "array", "items": SELF},
        {"type": "array", "prefixItems": [{"type": "null"}, SELF], "minItems": 1},
        {"$ref": "http://elsewhere/x"},
        {"$ref": "#/nowhere"},
        holding({"$id": "http://elsewhere/y", "$ref": "#"}),
        {"properties": {"a": SELF}, "required": ["a"]},  # numbers fulfil it, too
        holding({"type": "string"}, required=["other"]),
        {"anyOf": [], "allOf": 3, "required": 1, "type": "object", "properties": []},
    ],
)
def test_not_endless(schema: dict[str, Any]) -> None:
    assert not is_endless(schema)


def test_large_schemas_take_no_time() -> None:
    chain = {f"n{i}": holding({"$ref": f"#/$defs/n{i + 1}"}) for i in range(30)}
    ring = {"$ref": "#/$defs/n0", "$defs": {**chain, "n30": holding({"$ref": "#/$defs/n0"})}}
    assert is_endless(ring)
    assert not is_endless({**ring, "$defs": {**chain, "n30": {"type": "null"}}})
    many = {"type": "object", "properties": {str(i): {} for i in range(20_000)}}
    assert not is_endless({**many, "required": [str(i) for i in range(20_000)]})
