"""Which columns a table of results has, and what one record gives them."""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
import pytest

from shoal.answers.structure import of_schema
from shoal.requests.scored_choices import read_choices
from shoal.results.result_columns import result_columns, result_row
from shoal.results.survey import Survey
from tests.helpers.job_files import chat, completion

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "size": {"type": ["number", "null"]},
        "member": {"$ref": "#/$defs/Flag"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["a", "b", None]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "any": {},
    },
    "$defs": {"Flag": {"type": "boolean"}},
}


def record(*texts: str) -> bytes:
    choices = [
        {"message": {"content": t}, "logprobs": None, "finish_reason": "stop"} for t in texts
    ]
    body = {
        "object": "chat.completion",
        "choices": choices,
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    return orjson.dumps({"custom_id": "a", "response": {"body": body}})


def values(survey: Survey, *texts: str) -> dict[str, Any]:
    """The columns of one record, through Arrow's types."""
    row = result_row(record(*texts), parse=survey.asks_json(0))
    columns = result_columns(survey)
    return {c.name: pa.array([c.value(row)], c.kind).to_pylist()[0] for c in columns}


def survey_of(*lines: dict) -> Survey:
    survey = Survey()
    for number, line in enumerate(lines):
        survey.note(number, line)
    return survey


def schema_line(schema: dict, **body: Any) -> dict:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return chat("a", response_format=form, **body)


def test_a_schemas_properties_are_typed_columns() -> None:
    answer = {
        "name": "é", "age": 7, "size": 2, "member": True, "tags": ["x", "y"], "kind": "a",
        "note": None, "any": {"deep": 1}, "more": 1,
    }  # fmt: skip
    row = values(survey_of(schema_line(PERSON)), orjson.dumps(answer).decode())
    del answer["more"]
    expected = answer | {"size": 2.0, "tags": '["x","y"]', "any": '{"deep":1}'}
    assert {name: row[name] for name in PERSON["properties"]} == expected
    assert list(row) == [
        "custom_id", "text", *PERSON["properties"], "finish_reason", "prompt_tokens",
        "completion_tokens",
    ]  # fmt: skip
    kinds = {c.name: str(c.kind) for c in result_columns(survey_of(schema_line(PERSON)))}
    assert [kinds[name] for name in ("age", "size", "member", "kind", "any")] == [
        "int64", "double", "bool", "string", "string",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ['{"name": "cut', "", "[1]", '{"age": 99999999999999999999}'])
def test_what_does_not_fit_is_null_and_stays_in_text(text: str) -> None:
    row = values(survey_of(schema_line(PERSON)), text)
    assert row["text"] == text
    assert {row[name] for name in PERSON["properties"]} == {None}


def test_several_answers_are_lists() -> None:
    row = values(survey_of(schema_line(PERSON, n=2)), '{"age": 1}', "{")
    assert (row["age"], row["text"]) == ([1, None], ['{"age": 1}', "{"])
    assert row["prompt_tokens"] == 3


@pytest.mark.parametrize(
    "lines",
    [
        (schema_line(PERSON), schema_line({"type": "object", "properties": {"b": {}}})),
        (chat("a", response_format={"type": "json_object"}),),
        (schema_line({"type": "array"}),),
    ],
    ids=["two schemas", "any object", "no properties"],
)
def test_without_one_schema_there_is_one_column_of_json(lines: tuple[dict, ...]) -> None:
    row = values(survey_of(*lines), '{ "age":  1}')
    assert row["json"] == '{"age":1}'
    assert "age" not in row


def test_only_lines_that_ask_for_json_are_read_as_json() -> None:
    survey = survey_of(chat("free"), schema_line(PERSON))
    assert values(survey, '{"age": 1}')["age"] is None
    assert survey.asks_json(1)
    choice = completion("c", structured_outputs={"choice": ["1", "2"]})
    survey = Survey(of_schema(PERSON, "--schema"))
    for number, line in enumerate((choice, chat("b"))):
        survey.note(number, line)
    assert [survey.asks_json(line) for line in range(3)] == [False, True, False]
    assert survey.schema == PERSON


def test_a_name_that_is_taken_gets_a_prefix() -> None:
    survey = survey_of(schema_line({"type": "object", "properties": {"text": {}, "x": {}}}))
    names = [c.name for c in result_columns(survey, ["text", "x", "answer_x"])]
    assert names[:4] == ["custom_id", "answer_text", "answer_answer_text", "answer_answer_x"]


def scored(**probabilities: float) -> bytes:
    """A record whose choices were scored; see `shoal.results.choice_records`."""
    best = max(probabilities, key=lambda choice: probabilities[choice])
    told = [{"choice": c, "probability": p, "logprob": -9.0} for c, p in probabilities.items()]
    body = orjson.loads(record(best))["response"]["body"]
    body["choices"][0]["score_choices"] = told
    return orjson.dumps({"custom_id": "a", "response": {"body": body}})


def row_of(survey: Survey, data: bytes) -> dict[str, Any]:
    row = result_row(data, parse=False)
    return {c.name: pa.array([c.value(row)], c.kind).to_pylist()[0] for c in result_columns(survey)}


def test_choices_that_were_scored_are_a_label_and_probabilities() -> None:
    survey = Survey(None, read_choices(["yes", " no"]))
    survey.note(0, chat("a"))
    survey.note(1, chat("b", response_format={"type": "json_object"}))
    row = row_of(survey, scored(**{"yes": 0.25, " no": 0.75}))
    found = [row[name] for name in ("label", "probability_yes", "probability_no")]
    assert found == [" no", 0.25, 0.75]
    row = row_of(survey, record("{}"))
    assert (row["label"], row["probability_yes"], row["text"]) == (None, None, "{}")
    assert "label" not in row_of(survey_of(chat("a")), record("x"))
    survey = Survey(None, read_choices(["yes"]))
    survey.note(0, chat("a", response_format={"type": "json_object"}))
    assert "label" not in row_of(survey, record("{}")), "a line's own form goes before the job's"


def test_choices_of_their_own_are_one_column() -> None:
    survey = survey_of(chat("a", score_choices=["x", "y"]), chat("b", score_choices=["z"]))
    row = row_of(survey, scored(x=0.75, y=0.25))
    assert row["label"] == "x"
    told = [("x", 0.75), ("y", 0.25)]
    assert row["probabilities"] == [{"choice": c, "probability": p} for c, p in told]
