"""What is asked for in OpenAI's and vLLM's words becomes a grammar, or an error that names it."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.answers.structure import Structure, of_response_format, of_schema, of_structured_outputs
from shoal.errors import InvalidRequestError

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}


def openai(**values: Any) -> Structure | None:
    return of_response_format(values, "body.response_format")


def vllm(**values: Any) -> Structure:
    return of_structured_outputs(values, "so")


def test_both_ask_for_the_same_in_the_same_words() -> None:
    inner = {"name": "x", "strict": True, "schema": SCHEMA}
    asked = openai(type="json_schema", json_schema=inner)
    assert asked is not None
    assert asked.param == "body.response_format.json_schema.schema"
    assert asked.grammar == vllm(json=SCHEMA).grammar
    assert (
        vllm(json='{"type": "object", "properties": {"b": {}, "a": {}}}').grammar == asked.grammar
    )
    loose = openai(type="json_schema", json_schema=inner | {"strict": False})
    assert loose == asked
    assert openai(type="text") is None
    objects = openai(type="json_object")
    assert objects is not None
    assert objects.grammar == vllm(json_object=True).grammar


def test_properties_keep_their_order() -> None:
    other = {"type": "object", "properties": {"a": {}, "b": {}}}
    assert of_schema(SCHEMA, "").grammar != of_schema(other, "").grammar


def test_null_and_false_ask_for_nothing() -> None:
    given = {"json": None, "json_object": False, "disable_any_whitespace": False, "regex": "a"}
    assert vllm(**given) == vllm(regex="a")


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ({}, "f.type", "must be"),
        ({"type": "xml"}, "f.type", "must be"),
        ({"type": "structural_tag", "format": {}}, "f.type", "must be"),
        ({"type": "json_schema"}, "f.json_schema", "missing"),
        ({"type": "json_schema", "json_schema": []}, "f.json_schema", "an array"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "f.json_schema.schema", "missing"),
        (
            {"type": "json_schema", "json_schema": {"schema": True}},
            "f.json_schema.schema",
            "a JSON schema",
        ),
    ],
)
def test_wrong_response_formats(given: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        of_response_format(given, "f")
    assert (caught.value.param, caught.value.status_code) == (param, 400)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({}, "so"),
        ({"json": {}, "regex": "a"}, "so"),
        ({"json": "{"}, "so.json"),
        ({"json": "[1]"}, "so.json"),
        ({"json": {"a": object()}}, "so.json"),
        ({"json_object": 1}, "so.json_object"),
        ({"regex": 1}, "so.regex"),
        ({"regex": ""}, "so.regex"),
        ({"regex": "\ud800"}, "so.regex"),
        ({"regex": "a" * 2_000_000}, "so.regex"),
        ({"choice": []}, "so.choice"),
        ({"choice": "yes"}, "so.choice"),
        ({"choice": ["yes", ""]}, "so.choice"),
        ({"choice": ["yes", 1]}, "so.choice"),
        ({"grammar": "garbage ("}, "so.grammar"),
        ({"grammar": ""}, "so.grammar"),
        ({"structural_tag": "{}"}, "so.structural_tag"),
        ({"json": {}, "disable_additional_properties": True}, "so.disable_additional_properties"),
        ({"json": {}, "whitespace_pattern": 1}, "so.whitespace_pattern"),
        ({"regex": "a", "disable_any_whitespace": True}, "so.disable_any_whitespace"),
        ({"schema": {}}, "so.schema"),
    ],
)
def test_wrong_structured_outputs(given: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        of_structured_outputs(given, "so")
    assert (caught.value.param, caught.value.status_code) == (param, 400)
