"""Schemas of answers, small enough to be finished by models that write at random."""

from __future__ import annotations

from typing import Any

TICKET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "tag": {"type": "string", "maxLength": 6},
        "priority": {"enum": ["low", "normal", "high"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 40},
        "urgent": {"type": "boolean"},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["tag", "priority", "count"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    TICKET,
    {"anyOf": [{"type": "integer"}, {"type": "null"}, {"enum": ['é\n"x', "b"]}]},
    {
        "type": "array",
        "minItems": 1,
        "maxItems": 3,
        "items": {"$ref": "#/$defs/point"},
        "$defs": {
            "point": {
                "type": "object",
                "properties": {"x": {"type": "number"}, "y": {"const": [1, {"a": None}]}},
                "required": ["y"],
                "additionalProperties": False,
            }
        },
    },
    {"type": "string", "pattern": "^[a-c]{2}-[0-9]+$", "maxLength": 9},
    {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "value": {"type": value}},
                "required": ["kind", "value"],
                "additionalProperties": False,
            }
            for kind, value in (("flag", "boolean"), ("size", "integer"))
        ]
    },
    {"type": "string", "format": "date"},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
]
