"""Tools and reasoning in batch files, through random models that write as families do."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openai.types.chat import ChatCompletion
from pyarrow import parquet
from transformers import AutoTokenizer

from shoal.config import EngineOptions
from shoal.jobs import JobSpec, run_job
from shoal.model.description import bundled_model_path
from tests.helpers.job_files import chat, read_records, write_lines
from tests.helpers.tool_models import NOW, SCHEMAS, TEMPLATES, TOOLS, WEATHER, save_tool_model

pytestmark = pytest.mark.long

OPTIONS = {"dtype": "float32", "kv_memory": "32MiB", "device": "cpu"}
NAMED = {"type": "function", "function": {"name": "now"}}
OBJECT = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": OBJECT}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tools")
    return {name: save_tool_model(folder / name / "toy", name) for name in TEMPLATES}


def run(folder: Path, model: Path, lines: list[Any], **options: Any) -> list[dict[str, Any]]:
    """The records of a job, in input order."""
    output = folder / options.pop("output", "out.jsonl")
    write_lines(folder / "in.jsonl", lines)
    chosen = EngineOptions.create(**{**OPTIONS, **options})
    spec = JobSpec(
        input=folder / "in.jsonl",
        output=output,
        model=str(model),
        options=chosen,
        restart=output.exists(),
        quiet=True,
    )
    result = run_job(spec)
    if output.suffix == ".parquet":
        return parquet.read_table(output).to_pylist()
    failed = read_records(result.errors) if result.errors else []
    records = {record["custom_id"]: record for record in [*read_records(output), *failed]}
    return [records[line["custom_id"]] for line in lines]


def answered(record: dict[str, Any]) -> ChatCompletion:
    assert record["response"]["status_code"] == 200, record
    return ChatCompletion.model_validate(record["response"]["body"], strict=True)


def asked(number: int, **body: Any) -> dict[str, Any]:
    values = {"tools": TOOLS, "max_tokens": 300, "temperature": 1, "seed": number}
    return chat(f"line {number}", f"fish {number}", **values | body)


def checked_calls(completion: ChatCompletion) -> list[str]:
    """The names called by a completion's only choice, whose arguments keep their schemas."""
    (choice,) = completion.choices
    calls = choice.message.tool_calls or []
    for call in calls:
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        jsonschema.validate(arguments, SCHEMAS[call.function.name])
    return [call.function.name for call in calls if call.type == "function"]


@pytest.mark.long
@pytest.mark.parametrize("family", TEMPLATES)
def test_required_calls(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Of every form; one of any tool, one of one tool, one call alone."""
    lines = [asked(i, tool_choice="required") for i in range(12)]
    for i, tool in enumerate([NOW, WEATHER] * 3):
        name = tool["function"]["name"]
        choice = {"type": "function", "function": {"name": name}}
        lines.append(asked(12 + i, tool_choice=choice))
    lines += [
        asked(18 + i, tool_choice="required", parallel_tool_calls=False, response_format=FORMAT)
        for i in range(8)
    ]
    records = run(tmp_path, models[family], lines, reasoning_parser="none")
    completions = [answered(record) for record in records]
    names = [checked_calls(completion) for completion in completions]
    whole = [i for i, c in enumerate(completions) if c.choices[0].finish_reason == "tool_calls"]
    assert len(whole) > 10
    assert all(completions[i].choices[0].message.content is None for i in whole)
    assert {name for i in whole for name in names[i]} == set(SCHEMAS)
    for i, tool in enumerate([NOW, WEATHER] * 3):
        assert set(names[12 + i]) <= {tool["function"]["name"]}
    assert {len(names[i]) for i in whole if i >= 18} == {1}
    if family not in ("llama3", "gpt_oss", "llama4"):
        assert max(len(names[i]) for i in whole) > 1
    ids = [call.id for c in completions for call in c.choices[0].message.tool_calls or []]
    assert len(set(ids)) == len(ids)
    form = r"[0-9a-f]{9}" if family.startswith("mistral") else r"call_[0-9a-f]{24}"
    assert all(re.fullmatch(form, each) for each in ids)


@pytest.mark.parametrize("family", TEMPLATES)
def test_an_answer_can_be_sent_back(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    """The prompt is what transformers makes of a conversation with the call and its result."""
    line = asked(1, tool_choice=NAMED, temperature=0)
    (record,) = run(tmp_path, models[family], [line], reasoning_parser="none")
    message = record["response"]["body"]["choices"][0]["message"]
    (call,) = message["tool_calls"][:1]
    message["tool_calls"] = [call]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "12 'o clock"}
    said = [{"role": "user", "content": "when?"}, message, result]
    (again,) = run(tmp_path, models[family], [asked(2, messages=said, tool_choice="none")])
    replayed = json.loads(json.dumps(said))
    function = replayed[1]["tool_calls"][0]["function"]
    function["arguments"] = json.loads(function["arguments"])
    replayed[1]["content"] = message["content"] or ""
    expected = AutoTokenizer.from_pretrained(models[family]).apply_chat_template(
        replayed, tools=TOOLS, add_generation_prompt=True
    )["input_ids"]
    assert answered(again).usage.prompt_tokens == len(expected)
    assert answered(again).choices[0].message.tool_calls is None


@pytest.mark.parametrize("family", ["qwen", "mistral", "qwen3_coder", "glm45"])
def test_one_call_at_most(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    """A free answer ends with its first call; one without a call is free."""
    tokenizer = AutoTokenizer.from_pretrained(models[family])
    mark = "[TOOL_CALLS]" if family == "mistral" else "<tool_call>"
    bias = {str(tokenizer.convert_tokens_to_ids(mark)): 8}
    ask = partial(asked, logit_bias=bias, parallel_tool_calls=False, max_tokens=400)
    records = run(tmp_path, models[family], [ask(i) for i in range(8)], reasoning_parser="none")
    calls = 0
    for completion in map(answered, records):
        (choice,) = completion.choices
        names = checked_calls(completion)
        calls += len(names)
        assert len(names) <= 1
        if names:
            assert choice.finish_reason == "tool_calls"
            assert mark not in (choice.message.content or "")
    assert calls > 3


def test_a_call_or_an_answer_that_keeps_its_schema(models: dict[str, Path], tmp_path: Path) -> None:
    lines = [asked(i, response_format=FORMAT) for i in range(24)]
    ends: Counter[str] = Counter()
    for record in run(tmp_path, models["qwen"], lines, reasoning_parser="none"):
        completion = answered(record)
        (choice,) = completion.choices
        ends[choice.finish_reason] += 1
        if choice.finish_reason == "tool_calls":
            assert checked_calls(completion)
        elif choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.message.content or ""), OBJECT)
    assert min(ends["tool_calls"], ends["stop"]) > 2


THINKS = {"chat_template_kwargs": {"begin_thinking": True}}
PLAIN = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize("kwargs", [THINKS, PLAIN, {}], ids=["begun", "over", "free"])
def test_a_schema_holds_after_reasoning(
    kwargs: dict[str, Any], models: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models["qwen"])
    ends_thinking, thinks = (
        str(tokenizer.convert_tokens_to_ids(mark)) for mark in ("</think>", "<think>")
    )
    bias = {ends_thinking: 6} | ({} if kwargs else {thinks: 6})
    ask = partial(asked, tools=None, logit_bias=bias, n=2, **kwargs)
    lines = [ask(i, response_format=FORMAT) for i in range(8)]
    lines += [ask(8 + i, tools=TOOLS, tool_choice="required") for i in range(4)]
    reasoned, fitting = 0, 0
    for record in run(tmp_path, models["qwen"], lines):
        body = record["response"]["body"]
        usage = body["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert (usage > 0) == any(c["message"]["reasoning"] for c in body["choices"])
        for choice in body["choices"]:
            message = choice["message"]
            assert message["reasoning"] == message["reasoning_content"]
            reasoned += bool(message["reasoning"])
            if choice["finish_reason"] == "stop":
                jsonschema.validate(json.loads(message["content"]), OBJECT)
                fitting += 1
            elif choice["finish_reason"] == "tool_calls":
                fitting += 1
            elif message["reasoning"]:
                assert message["content"] is not None or message["tool_calls"]
    assert fitting > 8
    assert reasoned == 0 if kwargs is PLAIN else reasoned > 8


def test_reasoning_can_be_left_out(models: dict[str, Path], tmp_path: Path) -> None:
    lines = [asked(1, tools=None, include_reasoning=shown, **THINKS) for shown in (True, False)]
    lines[1]["custom_id"] = "other"
    shown, hidden = (r["response"]["body"] for r in run(tmp_path, models["qwen"], lines))
    assert shown["choices"][0]["message"]["reasoning"]
    assert hidden["choices"][0]["message"].keys() == {"role", "content", "refusal"}
    assert shown["usage"] == hidden["usage"]


def test_reasoning_is_a_column(models: dict[str, Path], tmp_path: Path) -> None:
    """Of chats that show it; null where nothing comes before an answer; a list for several."""
    lines = [asked(i, tools=None, max_tokens=60, **THINKS) for i in range(4)]
    lines.append(asked(4, tools=None, max_tokens=1, **PLAIN))
    records = [r["response"]["body"] for r in run(tmp_path, models["qwen"], lines)]
    rows = run(tmp_path, models["qwen"], lines, output="out.parquet")
    told = [body["choices"][0]["message"]["reasoning"] for body in records]
    assert [row["reasoning"] for row in rows] == told
    assert all(told[:4])
    assert told[4] is None
    assert [row["reasoning_tokens"] for row in rows] == [
        body["usage"]["completion_tokens_details"]["reasoning_tokens"] for body in records
    ]
    lines.append(asked(5, tools=None, n=2, max_tokens=8, **THINKS))
    (*_, several) = run(tmp_path, models["qwen"], lines, output="out.parquet")
    assert [len(text) > 0 for text in several["reasoning"]] == [True, True]
    hidden = [asked(0, tools=None, include_reasoning=False, max_tokens=8)]
    none = run(tmp_path, models["qwen"], hidden, output="out.parquet")[0].keys()
    none |= run(tmp_path, models["qwen"], lines, output="b.parquet", reasoning_parser="none")[0]
    assert not {"reasoning", "reasoning_tokens"} & set(none)


def test_two_devices_write_the_same_records(models: dict[str, Path], tmp_path: Path) -> None:
    lines = [asked(i, tool_choice="required") for i in range(6)]
    lines += [asked(6 + i, tools=None, response_format=FORMAT, **THINKS) for i in range(4)]

    def bodies(**options: Any) -> list[Any]:
        records = run(tmp_path, models["qwen"], lines, **options)
        return [
            [
                {k: v for k, v in choice["message"].items() if k != "tool_calls"}
                | {"called": [c["function"] for c in choice["message"].get("tool_calls", [])]}
                for choice in record["response"]["body"]["choices"]
            ]
            for record in records
        ]

    assert bodies() == bodies(devices=2)


def refusal(record: dict[str, Any]) -> tuple[str, str, str]:
    error = record["response"]["body"]["error"]
    return error["code"], error["param"], error["message"]


def test_what_cannot_be_had_is_refused_in_words(models: dict[str, Path], tmp_path: Path) -> None:
    deaf = save_tool_model(tmp_path / "deaf" / "toy", "qwen")
    template = TEMPLATES["qwen"].replace("{% for tool in tools %}", "{% for tool in [] %}")
    template = template.replace("call.function.arguments | tojson", "{} | tojson")
    (deaf / "chat_template.jinja").write_text(template)
    call = {"function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    said = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    said += [{"role": "user", "content": "so?"}]
    impossible = {"type": "integer", "minimum": 5, "maximum": 2}
    odd = {"function": {"name": "f", "parameters": {"properties": {"a": impossible},
                                                    "required": ["a"]}}}  # fmt: skip
    first, second = run(
        tmp_path, deaf, [asked(1, tools=[NOW]), asked(2, tools=None, messages=said)]
    )
    assert refusal(first)[:2] == ("chat_template_error", "body.tools[0].function.name")
    assert "drops it" in refusal(first)[2]
    assert refusal(second)[:2] == ("chat_template_error", "body.messages[0].tool_calls[0]")
    (third,) = run(tmp_path, models["qwen"], [asked(3, tools=[odd], tool_choice="required")])
    assert refusal(third)[:2] == ("invalid_value", "body.tools")
    assert "Unsatisfiable" in refusal(third)[2]
    fourth, fifth = run(
        tmp_path, models["qwen"], [asked(4), asked(5, tool_choice=NAMED)], tool_call_parser="none"
    )
    assert answered(fourth).choices[0].message.content
    assert refusal(fifth)[:2] == ("unsupported_parameter", "body.tool_choice")


def test_calls_are_a_column(models: dict[str, Path], tmp_path: Path) -> None:
    """Of a table of results; null where an answer calls nothing."""
    lines = [asked(i, tool_choice="required") for i in range(4)]
    lines.append(asked(4, tools=None, max_tokens=3))
    options = {"reasoning_parser": "none"}
    records = run(tmp_path, models["qwen"], lines, **options)
    rows = run(tmp_path, models["qwen"], lines, output="out.parquet", **options)
    told = []
    for record in records:
        message = record["response"]["body"]["choices"][0]["message"]
        calls = message.get("tool_calls", [])
        told.append([{"name": c["function"]["name"], "arguments": c["function"]["arguments"]}
                     for c in calls] or None)  # fmt: skip
    for row, expected in zip(rows, told, strict=True):
        found = [{k: call[k] for k in ("name", "arguments")} for call in row["tool_calls"] or ()]
        assert (found or None) == expected
        assert row["tool_calls"] is None or all(
            c["id"].startswith("call_") for c in row["tool_calls"]
        )
    assert told[4] is None
    assert any(told)
    assert "tool_calls" not in run(tmp_path, models["qwen"], lines[4:], output="b.parquet")[0]


def test_responses_that_reason_are_rows(tmp_path: Path) -> None:
    model = save_tool_model(tmp_path / "toy", "qwen")
    always = TEMPLATES["qwen"].replace("{% elif begin_thinking %}", "{% else %}")
    (model / "chat_template.jinja").write_text(always)
    body = {"model": "toy", "input": "fish", "max_output_tokens": 9, "temperature": 0}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}
    (record,) = run(tmp_path, model, [line])
    kinds = [item["type"] for item in record["response"]["body"]["output"]]
    assert kinds == ["reasoning", "message"]
    details = record["response"]["body"]["usage"]["output_tokens_details"]
    assert details["reasoning_tokens"] == 9
    (row,) = run(tmp_path, model, [line], output="out.parquet")
    assert (row["text"], row["finish_reason"]) == ("", "length")
    (thoughts,) = record["response"]["body"]["output"][0]["content"]
    assert (row["reasoning"], row["reasoning_tokens"]) == (thoughts["text"], 9)


@pytest.mark.parametrize("tool", [WEATHER, NOW])
def test_the_bundled_model_reads_no_tools(tool: dict[str, Any], tmp_path: Path) -> None:
    line = asked(1, tools=[tool], model="shoal-tiny")
    spec = JobSpec(
        input=write_lines(tmp_path / "in.jsonl", [line]), output=tmp_path / "out.jsonl", quiet=True
    )
    result = run_job(spec)
    assert result.errors is not None
    (record,) = read_records(result.errors)
    code, param, message = refusal(record)
    assert (code, param) == ("unsupported_parameter", "body.tools")
    assert "reads no tools" in message


def test_the_bundled_model_calls_with_a_template_that_reads_tools(tmp_path: Path) -> None:
    """Its text is cut at a stop string, too, and every token has its logprob."""
    model = tmp_path / "toy"
    shutil.copytree(bundled_model_path(), model)
    (model / "chat_template.jinja").write_text(TEMPLATES["qwen"])
    line = asked(1, tool_choice=NAMED, temperature=0, logprobs=True, stop=["</tool_call>"])
    plain = asked(2, tools=None, max_tokens=6, logprobs=True)
    records = run(tmp_path, model, [line, plain], reasoning_parser="none")
    called, said = map(answered, records)
    assert checked_calls(called) == ["now"]
    assert called.choices[0].finish_reason == "tool_calls"
    assert said.choices[0].message.content
    for completion in (called, said):
        logprobs = completion.choices[0].logprobs
        assert logprobs is not None
        assert len(logprobs.content or []) == completion.usage.completion_tokens
