"""Structured output in batch files and for whole jobs: what is accepted, and whose error it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from shoal.answers.grammar import grammar_compiler
from shoal.answers.structure import of_schema
from shoal.config import EngineOptions
from shoal.errors import InvalidRequestError, JobChangedError, OptionError
from shoal.jobs import plan_job
from shoal.model.description import ModelDescription
from shoal.requests.validate import Validator
from tests.helpers.job_files import chat, completion
from tests.helpers.job_process import Job

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "required": ["b"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
IMPOSSIBLE = {"type": "integer", "minimum": 5, "maximum": 2}
GRAMMAR = of_schema(SCHEMA, "").grammar


@pytest.fixture(scope="module")
def validator(description: ModelDescription) -> Validator:
    compiler = grammar_compiler(
        description.tokenizer, description.vocab_size, description.eos_token_ids
    )
    return Validator({"toy"}, description.vocab_size, {}, compiler)


def parsed(validator: Validator, line: dict[str, Any]) -> Any:
    return validator.request(orjson.loads(orjson.dumps(line)))


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": FORMAT},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA), "regex": None}},
        {"response_format": {"type": "text"}, "structured_outputs": {"json": SCHEMA}},
    ],
    ids=str,
)
@pytest.mark.parametrize("line", [chat, completion])
def test_the_ways_to_ask_for_a_schema(validator: Validator, line: Any, fields: Any) -> None:
    assert parsed(validator, line("a", **fields)).params.grammar == GRAMMAR


def test_requests_alike_share_their_parameters(validator: Validator) -> None:
    first, other = (
        parsed(validator, chat(name, response_format=FORMAT, seed=seed))
        for name, seed in (("a", 1), ("b", 2))
    )
    assert first.params is other.params
    turned = {**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}
    another = parsed(validator, chat("c", structured_outputs={"json": turned}))
    assert another.params != first.params
    assert parsed(validator, chat("d")).params.grammar is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {}}, "body.response_format.type"),
        ({"response_format": "json"}, "body.response_format"),
        ({"response_format": {"type": "json_schema"}}, "body.response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": IMPOSSIBLE}}},
            "body.response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"json": IMPOSSIBLE}}, "body.structured_outputs.json"),
        ({"structured_outputs": {"json": {"not": {}}}}, "body.structured_outputs.json"),
        ({"structured_outputs": {"regex": "("}}, "body.structured_outputs.regex"),
        ({"structured_outputs": {}}, "body.structured_outputs"),
        ({"structured_outputs": []}, "body.structured_outputs"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "body.structured_outputs",
        ),
        ({"guided_json": SCHEMA}, "body.guided_json"),
        ({"guided_choice": ["a"]}, "body.guided_choice"),
    ],
    ids=str,
)
def test_wrong_ones(validator: Validator, fields: Any, param: str) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequestError) as caught:
            parsed(validator, chat("a", **fields))
        assert (caught.value.param, caught.value.status_code) == (param, 400)


def test_an_impossible_schema_is_its_lines_error(job: Job) -> None:
    wrong = {"structured_outputs": {"json": IMPOSSIBLE}}
    lines = [chat("a", response_format=FORMAT), chat("b", **wrong), chat("c")]
    result = job.write(lines).run()
    assert result.exit_code == 3
    (error,) = map(orjson.loads, job.errors.read_bytes().splitlines())
    assert error["custom_id"] == "b"
    assert error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["param"] == "body.structured_outputs.json"
    assert "Unsatisfiable" in error["response"]["body"]["error"]["message"]


def write(path: Path, schema: object) -> Path:
    path.write_text(json.dumps(schema))
    return path


def test_a_schema_of_a_whole_job(job: Job, tmp_path: Path) -> None:
    schema = write(tmp_path / "schema.json", SCHEMA)
    own = {"structured_outputs": {"choice": ["yes"]}}
    job.write([chat("a"), chat("b", **own), chat("c", response_format={"type": "text"})])
    job.run(schema=schema)
    table = job.engines[0].table
    assert table is not None
    asked = [table.sampling(request).grammar for request in range(3)]
    assert asked[0] == asked[2] == GRAMMAR
    assert asked[1] not in (None, GRAMMAR)
    planned = plan_job(
        job.input, str(job.model), EngineOptions(kv_memory="1MiB"), ["*"], schema=schema
    )
    assert {p.grammar for p in planned.table.params} == {asked[0], asked[1]}


def test_a_job_goes_on_with_its_schema_alone(job: Job, tmp_path: Path) -> None:
    schema = write(tmp_path / "schema.json", SCHEMA)
    job.write([chat("a")])
    job.run(schema=schema)
    assert job.run(schema=schema).already_finished
    for other in (None, write(tmp_path / "other.json", {"type": "object"})):
        with pytest.raises(JobChangedError, match="schema was"):
            job.run(schema=other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the schema .*: No such file"),
        (b"{", "--schema is not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "--schema must be a JSON schema"),
        (b'{"type": "integer", "minimum": 5, "maximum": 2}', "--schema: Unsatisfiable"),
    ],
)
def test_a_wrong_schema_of_a_job(
    job: Job, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OptionError, match=message):
        job.write([chat("a")]).run(schema=path)
    assert not job.output.exists()
    assert not job.journal.exists()
