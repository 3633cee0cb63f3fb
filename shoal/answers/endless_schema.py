"""Finds schemas whose answers can never end: every way to fulfil them goes round in a circle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_MOST_PLACES = 10_000
"""Places of a schema that are looked at; one with more is taken to have an end."""


def is_endless(schema: Mapping[str, Any]) -> bool:
    """Whether an answer would have to hold another of its kind, and so on without an end.

    Only what must be there counts: required properties, items up to `minItems`, all of `allOf`, one
    of `anyOf` and `oneOf`, what a `$ref` within the schema refers to. A place is known to end
    once all that it needs is; what is never known to end is endless. Keywords that are not
    looked at never make a schema endless.
    """
    needs: dict[str, list[list[str]]] = {}
    waiting = [""]
    while waiting:
        place = waiting.pop()
        if place in needs:
            continue
        inner = _at(schema, place)
        renamed = place and isinstance(inner, Mapping) and "$id" in inner
        if renamed or len(needs) == _MOST_PLACES:
            return False  # references within count from elsewhere
        needs[place] = list(_needs(inner, place))
        waiting += [each for group in needs[place] for each in group]
    ends: set[str] = set()
    while True:
        more = {p for p, groups in needs.items() if p not in ends and _all_end(groups, ends)}
        if not more:
            return "" not in ends
        ends |= more


def _all_end(groups: list[list[str]], ends: set[str]) -> bool:
    return all(any(place in ends for place in group) for group in groups)


def _needs(schema: Any, place: str) -> Iterator[list[str]]:
    """Groups of places, as JSON pointers: of each group one at least has to end."""
    if not isinstance(schema, Mapping) or "const" in schema or "enum" in schema:
        return
    reference = schema.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        yield [reference[1:]]
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list) and schema[name]:
            yield [f"{place}/{name}/{i}" for i in range(len(schema[name]))]
    if isinstance(schema.get("allOf"), list):
        yield from ([f"{place}/allOf/{i}"] for i in range(len(schema["allOf"])))
    if schema.get("type") == "object":
        yield from _of_object(schema, place)
    if schema.get("type") == "array":
        yield from _of_array(schema, place)


def _of_object(schema: Mapping[str, Any], place: str) -> Iterator[list[str]]:
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(properties, Mapping) and isinstance(required, list):
        for name in required:
            if name in properties:
                escaped = str(name).replace("~", "~0").replace("/", "~1")
                yield [f"{place}/properties/{escaped}"]


def _of_array(schema: Mapping[str, Any], place: str) -> Iterator[list[str]]:
    least, first = schema.get("minItems", 0), schema.get("prefixItems", [])
    if not isinstance(least, int) or not isinstance(first, list):
        return
    yield from ([f"{place}/prefixItems/{i}"] for i in range(min(least, len(first))))
    if least > len(first) and isinstance(schema.get("items"), Mapping):
        yield [f"{place}/items"]


def _at(schema: Any, place: str) -> Any:
    """What a JSON pointer points to; None: nothing, which somebody else refuses."""
    for part in place.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list):
            schema = schema[int(name)] if name.isdigit() and int(name) < len(schema) else None
        else:
            schema = schema.get(name) if isinstance(schema, Mapping) else None
    return schema
