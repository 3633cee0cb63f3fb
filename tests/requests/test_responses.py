"""/v1/responses lines: the chats they ask for, OpenAI's objects as their records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response

from shoal import EngineOptions, JobSpec, run_job
from shoal.answers.detokenize import Detokenizer
from shoal.answers.structure import of_schema
from shoal.errors import InvalidRequestError
from shoal.jobs import plan_job
from shoal.prompts.prompts import ChatPrompt
from shoal.requests.index import LineName
from shoal.requests.parsed_request import ParsedRequest
from shoal.requests.response_fields import LOGPROBS
from shoal.requests.validate import Validator, decode_line
from shoal.results.records import RecordWriter
from shoal.types import RESPONSES_URL, Choice, Completion
from tests.helpers.job_files import (
    byte_tokenizer,
    chat,
    completion,
    read_records,
    response,
    write_lines,
)
from tests.helpers.job_process import CrashError, Job, stop_after
from tests.helpers.request_tables import one, table

EXAMPLES = Path(__file__).parents[2] / "examples"
VALIDATOR = Validator({"toy"}, vocab_size=100, defaults={})
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FORMAT = {"type": "json_schema", "name": "x", "strict": True, "schema": SCHEMA}
SAID = [
    {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
    {"type": "message", "role": "user", "content": "Hello"},
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "phase": None,
        "content": [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}],
    },
    {"role": "user", "content": [{"type": "input_text", "text": t} for t in ("a", "b")]},
]


def parse(line: dict) -> ParsedRequest:
    return VALIDATOR.request(decode_line(json.dumps(line).encode()))


def prompt(line: dict) -> ChatPrompt:
    (found,) = parse(line).prompts
    assert isinstance(found, ChatPrompt)
    return found


def refusal(**body: object) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(response("a", **body))
    return caught.value


def test_input_becomes_messages() -> None:
    assert prompt(response("a", "hi")).messages == [{"role": "user", "content": "hi"}]
    found = prompt(response("a", SAID, instructions="First."))
    texts = [{"type": "text", "text": text} for text in ("Be kind.", "Hi", "a", "b")]
    assert found.messages == [
        {"role": "system", "content": "First."},
        {"role": "developer", "content": texts[:1]},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": texts[1:2]},
        {"role": "user", "content": texts[2:]},
    ]
    assert found.names[:2] == ("body.instructions", "body.input[0].content")


@pytest.mark.parametrize(
    ("ours", "chats"),
    [
        ({"max_output_tokens": 5}, {"max_tokens": None, "max_completion_tokens": 5}),
        ({"max_output_tokens": None}, {"max_tokens": None}),
        ({"max_output_tokens": 5.0, "n": 1}, {"max_tokens": None, "max_completion_tokens": 5}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "top_p": 0.5}),
        ({"seed": 3, "top_k": 4, "stop": "x"}, {"seed": 3, "top_k": 4, "stop": "x"}),
        ({"include": []}, {}),
        ({"include": [LOGPROBS]}, {"logprobs": True}),
        ({"include": [LOGPROBS], "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"text": {"format": {"type": "text"}}}, {}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {"text": {"format": FORMAT}},
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        ),
    ],
    ids=str,
)
def test_what_is_asked_is_what_a_chat_asks(ours: dict, chats: dict) -> None:
    if "max_output_tokens" not in ours:
        chats = {"max_tokens": None, "max_completion_tokens": 8} | chats
    found, expected = parse(response("a", **ours)), parse(chat("a", **chats))
    given = {name: v for name, v in expected.params.model_dump().items() if name != "logprobs"}
    assert {n: v for n, v in found.params.model_dump().items() if n != "logprobs"} == given
    assert found.params.num_logprobs == expected.params.num_logprobs
    assert found.seed == expected.seed


def test_effort_and_verbosity_go_to_the_template() -> None:
    found = prompt(response("a", reasoning={"effort": "low"}, text={"verbosity": "high"}))
    expected = {"reasoning_effort": "low", "verbosity": "high", "enable_thinking": True}
    assert found.arguments == expected


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [SAID[1], {"type": "function_call", "name": "f"}]}, "input[1].type"),
        ({"input": [{"type": "function_call_output", "output": "f"}]}, "input[0].type"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [SAID[1] | {"name": "x"}]}, "input[0].name"),
        ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        ({"instructions": ["x"]}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "9"}, "max_output_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "include": [LOGPROBS]}, "top_logprobs"),
        ({"include": LOGPROBS}, "include"),
        ({"include": [LOGPROBS, "reasoning.encrypted_content"]}, "include[1]"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "text", "x": 1}}}, "text.format.x"),
        ({"text": {"format": FORMAT}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, "reasoning.summary"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"stream": True}, "stream"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "none"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"n": 2}, "n"),
        ({"max_tokens": 9}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
    ],
    ids=str,
)
def test_what_is_refused_is_named(body: dict, param: str) -> None:
    error = refusal(**body)
    assert error.param == f"body.{param}"
    assert error.message.startswith(error.param)


def test_what_is_stateful_says_what_to_do() -> None:
    for name in ("previous_response_id", "conversation"):
        assert "repeat what was said as items of input" in refusal(**{name: "x"}).message


MIXED = [
    response("a", "one", metadata={"ticket": "7"}, include=[LOGPROBS], top_logprobs=1),
    chat("b", "two"),
    response("c", SAID, instructions="be short", max_output_tokens=1),
    completion("d", "three"),
    response("e", "please FAIL"),
    response("f", "x", previous_response_id="resp_9"),
    response("g", "a villain", instructions="x") | {"url": "/responses"},
    response("h", [{"role": "villain", "content": "x"}]),
]


def test_records_are_openais_responses(job: Job) -> None:
    job.write(MIXED).run()
    bodies = {r["custom_id"]: r["response"]["body"] for r in read_records(job.output)}
    assert list(bodies) == ["a", "b", "c", "d", "g"]
    responses = {name: Response.model_validate(bodies[name], strict=True) for name in "acg"}
    for name, found in responses.items():
        assert found.model_dump(exclude_unset=True) == bodies[name] | {
            "created_at": float(bodies[name]["created_at"]),
            "completed_at": found.completed_at,
        }
    assert len({found.id for found in responses.values()}) == 3
    first, cut = responses["a"], responses["c"]
    assert (first.status, first.incomplete_details) == ("completed", None)
    assert first.metadata == {"ticket": "7"}
    assert first.output_text
    (message,) = first.output
    tokens = message.content[0].logprobs
    assert [token.logprob for token in tokens] == [-0.5] * first.usage.output_tokens
    assert len(tokens[0].top_logprobs) == 2
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    assert cut.output[0].content[0].logprobs == []
    errors = {r["custom_id"]: r["response"]["body"]["error"] for r in read_records(job.errors)}
    assert {name: error["code"] for name, error in errors.items()} == {
        "e": "model_error", "f": "unsupported_parameter", "h": "chat_template_error",
    }  # fmt: skip
    assert errors["h"]["param"] == "body.input"


def test_an_answer_that_was_cut_is_incomplete() -> None:
    writer = RecordWriter("job", "toy", Detokenizer(byte_tokenizer()))
    cut = Completion(0, 5, (Choice(0, "hi", (4, 5), "length"),))
    name = LineName("a", RESPONSES_URL)
    body = json.loads(writer.success(3, name, [cut], table([one([5])])))["response"]["body"]
    found = Response.model_validate(body, strict=True)
    assert (found.status, found.output[0].status) == ("incomplete", "incomplete")
    assert found.incomplete_details.reason == "max_output_tokens"
    assert found.output_text == "hi"


@pytest.mark.long
def test_the_bundled_model_answers_as_in_a_chat(tmp_path: Path) -> None:
    system, user = (
        message["content"]
        for message in json.loads((EXAMPLES / "tickets.jsonl").read_text().splitlines()[0])["body"][
            "messages"
        ]
    )
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    schema = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
    schema["additionalProperties"] = False
    form = {"name": "x", "schema": schema, "strict": True}
    same = {"model": "shoal-tiny", "temperature": 0}
    lines = [
        chat("chat", messages=messages, max_tokens=64, **same),
        response("response", user, instructions=system, max_output_tokens=64, **same),
        response("items", messages, max_output_tokens=64, **same),
        response("unlimited", user, instructions=system, max_output_tokens=None, **same),
        response("cut", user, instructions=system, max_output_tokens=3, **same),
        response(
            "schema", messages, max_output_tokens=64,
            text={"format": form | {"type": "json_schema"}},
            **same,
        ),
    ]  # fmt: skip
    source, output = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    options = EngineOptions(kv_memory="32MiB", token_budget=256)
    run_job(JobSpec(input=source, output=output, options=options, quiet=True))
    chat_body, *bodies = [r["response"]["body"] for r in read_records(output)]
    text = chat_body["choices"][0]["message"]["content"]
    given, items, unlimited, cut, held = (Response.model_validate(b, strict=True) for b in bodies)
    assert {r.output_text for r in (given, items, unlimited)} == {text}
    assert {r.status for r in (given, items, unlimited, held)} == {"completed"}
    assert given.usage.input_tokens == chat_body["usage"]["prompt_tokens"]
    assert given.usage.output_tokens == chat_body["usage"]["completion_tokens"]
    assert (cut.status, cut.usage.output_tokens) == ("incomplete", 3)
    assert text.startswith(cut.output_text)
    assert json.loads(held.output_text).keys() == {"order"}
    job = plan_job(source, None, options, results=output)
    assert len(job.table) == 6


def test_ids_are_those_of_an_uninterrupted_run(job: Job) -> None:
    lines = [response(str(i), f"text {i}") for i in range(20)]
    job.write(lines)
    with pytest.raises(CrashError):
        job.run(engine=stop_after(5, CrashError()) | {"seconds": 0.15})
    assert job.run().exit_code == 0
    assert 0 < len(job.engines[1].table) < 20
    bodies = [r["response"]["body"] for r in read_records(job.output)]
    keys = {body["id"].removeprefix("resp_") for body in bodies}
    assert len(keys) == 20
    assert {body["output"][0]["id"].removeprefix("msg_") for body in bodies} == keys


def test_a_texts_that_would_not_arrive_are_named(job: Job) -> None:
    """The template of this model prints the first message alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.model)
    tokenizer.chat_template = "{{ messages[0].content }}"
    folder = job.folder / "toy"
    folder.mkdir()
    for path in job.model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer.save_pretrained(folder)
    lines = [
        response("a", "hello", instructions="x"),
        response("b", [{"role": "user", "content": t} for t in ("one", "two")], instructions="x"),
    ]
    job.write(lines).run(model=str(folder))
    params = [r["response"]["body"]["error"]["param"] for r in read_records(job.errors)]
    assert params == ["body.input", "body.input[0].content"]


def test_a_table_of_responses(job: Job) -> None:
    from pyarrow import parquet

    job.write(MIXED).run()
    bodies = [r["response"]["body"] for r in read_records(job.output)]
    output = job.folder / "out.parquet"
    job.errors.unlink()
    job.run(output=output, errors=job.errors)
    rows = parquet.read_table(output).to_pylist()
    assert [row["custom_id"] for row in rows] == ["a", "b", "c", "d", "g"]
    for row, body in zip(rows, bodies, strict=True):
        if body["object"] == "response":
            content = body["output"][0]["content"][0]
            assert row["text"] == content["text"]
            assert row["completion_tokens"] == body["usage"]["output_tokens"]
            listed = [entry["logprob"] for entry in content["logprobs"]]
            assert (row["token_logprobs"] or []) == listed
            assert row["finish_reason"] == {"completed": "stop"}.get(body["status"], "length")


def test_a_schema_for_all_holds_for_responses() -> None:
    validator = Validator({"toy"}, 100, {}, schema=of_schema(SCHEMA, "--schema"))
    params: Any = validator.request(response("a")).params
    assert params.grammar == of_schema(SCHEMA, "").grammar
