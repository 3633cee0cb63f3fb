"""Every row of the contract's error table, and every error in OpenAI's form."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.server.server_process import CHAT_URL, Server, chat, chats

GOOD = chat("good")


def without(line: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != name}


def with_body(line: dict[str, Any], **body: Any) -> dict[str, Any]:
    return line | {"body": {k: v for k, v in (line["body"] | body).items() if v is not None}}


TABLE: dict[str, tuple[list[Any], list[tuple[str, int | None, str | None]]]] = {
    "no JSON": ([GOOD, b"{nonsense"], [("invalid_json_line", 2, None)]),
    "no object": ([b"[1, 2]"], [("invalid_json_line", 1, None)]),
    "no UTF-8": ([GOOD, b"\xff\xfe\x00{"], [("invalid_json_line", 2, None)]),
    "deep JSON": ([b"[" * 100_000], [("invalid_json_line", 1, None)]),
    "no custom_id": (
        [without(GOOD, "custom_id")],
        [("missing_required_parameter", 1, "custom_id")],
    ),
    "no method": ([without(GOOD, "method")], [("missing_required_parameter", 1, "method")]),
    "no url": ([without(GOOD, "url")], [("missing_required_parameter", 1, "url")]),
    "no body": ([without(GOOD, "body")], [("missing_required_parameter", 1, "body")]),
    "duplicate": (
        [GOOD, chat("other"), b"", GOOD],
        [("duplicate_custom_id", 4, "custom_id")],
    ),
    "other url": ([GOOD | {"url": "/v1/completions"}], [("invalid_url", 1, "url")]),
    "unknown url": ([GOOD | {"url": "/v1/nothing"}], [("invalid_url", 1, "url")]),
    "no model": ([with_body(GOOD, model=None)], [("invalid_request", 1, "body.model")]),
    "no messages": ([with_body(GOOD, messages=None)], [("invalid_request", 1, "body.messages")]),
    "unknown model": ([with_body(GOOD, model="gpt-9")], [("model_not_found", 1, "body.model")]),
    "stream": ([with_body(GOOD, stream=True)], [("streaming_unsupported", 1, "body.stream")]),
    "empty": ([], [("empty_file", None, None)]),
    "blank": ([b"", b"  "], [("empty_file", None, None)]),
    "too many": (chats(2001), [("too_many_lines", None, None)]),
    "several": (
        [b"x", GOOD, without(GOOD, "url"), chat("b", stream=True)],
        [
            ("invalid_json_line", 1, None),
            ("missing_required_parameter", 3, "url"),
            ("duplicate_custom_id", 3, "custom_id"),
            ("streaming_unsupported", 4, "body.stream"),
        ],
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_file_that_is_wrong_fails_as_a_whole(server: Server, name: str) -> None:
    lines, expected = TABLE[name]
    batch = server.submit(lines)
    assert batch.status == "validating"
    batch = server.ended(batch.id)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert batch.errors is not None
    assert batch.errors.object == "list"
    found = batch.errors.data or []
    assert [(error.code, error.line, error.param) for error in found] == expected
    assert all(error.message and "/tmp" not in error.message for error in found)


def test_an_unknown_file_fails_the_batch(server: Server) -> None:
    batch = server.client.batches.create(
        input_file_id="file-none", endpoint=CHAT_URL, completion_window="24h"
    )
    batch = server.ended(batch.id)
    assert batch.errors is not None
    (error,) = batch.errors.data or []
    assert (error.code, error.line, error.param) == ("invalid_request", None, "file_id")


def envelope(server: Server, status: int, method: str, path: str, **request: Any) -> dict[str, Any]:
    """The error that a request is answered with, whose form is checked."""
    found, body, _ = server.raw(method, path, **request)
    assert found == status, body
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    text = json.dumps(body)
    assert "Traceback" not in text
    assert str(server.folder) not in text
    return body["error"]


def creating(server: Server, **values: Any) -> dict[str, Any]:
    body = {"input_file_id": "file-x", "endpoint": CHAT_URL, "completion_window": "24h"} | values
    body = {name: value for name, value in body.items() if value is not None}
    return envelope(server, 400, "POST", "/v1/batches", json=body)


@pytest.mark.parametrize(
    ("values", "code", "param"),
    [
        ({"endpoint": "/v1/none"}, "invalid_value", "endpoint"),
        ({"endpoint": 3}, "invalid_value", "endpoint"),
        ({"endpoint": None}, "missing_required_parameter", "endpoint"),
        ({"input_file_id": None}, "missing_required_parameter", "input_file_id"),
        ({"completion_window": "25"}, "invalid_value", "completion_window"),
        ({"completion_window": "999999d"}, "invalid_value", "completion_window"),
        ({"metadata": {"a": 1}}, "invalid_value", "metadata.a"),
        ({"metadata": {"a" * 65: "b"}}, "invalid_value", None),
        ({"metadata": {"a": "b" * 513}}, "invalid_value", "metadata.a"),
        ({"metadata": {str(i): "b" for i in range(17)}}, "invalid_value", "metadata"),
        ({"colour": "red"}, "unknown_parameter", "colour"),
        ({"priority": "high"}, "invalid_value", "priority"),
        ({"priority": True}, "invalid_value", "priority"),
    ],
)
def test_a_batch_that_is_asked_for_wrongly(
    server: Server, values: dict[str, Any], code: str, param: str | None
) -> None:
    error = creating(server, **values)
    assert error["code"] == code
    assert param is None or error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("status", "method", "path"),
    [
        (404, "GET", "/v1/files/file-none"),
        (404, "DELETE", "/v1/files/file-none"),
        (404, "GET", "/v1/files/file-none/content"),
        (404, "GET", "/v1/files/..%2F..%2Fshoal.db/content"),
        (404, "GET", "/v1/batches/batch_none"),
        (404, "POST", "/v1/batches/batch_none/cancel"),
        (404, "GET", "/v1/models/none"),
        (404, "GET", "/v1/nothing"),
        (404, "GET", "/docs"),
        (405, "PUT", "/v1/batches"),
        (400, "GET", "/v1/batches?limit=0"),
        (400, "GET", "/v1/batches?limit=101"),
        (400, "GET", "/v1/batches?limit=x"),
        (404, "GET", "/v1/batches?after=batch_none"),
        (400, "GET", "/v1/files?limit=10001"),
        (400, "GET", "/v1/files?order=up"),
        (404, "GET", "/v1/files?after=file-none"),
    ],
)
def test_other_requests_that_are_wrong(server: Server, status: int, method: str, path: str) -> None:
    envelope(server, status, method, path)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"[]", b"\xff\xfe", b"null", b'"a"'])
def test_bodies_that_are_no_batch(server: Server, body: bytes) -> None:
    envelope(
        server,
        400,
        "POST",
        "/v1/batches",
        content=body,
        headers={"content-type": "application/json"},
    )


def test_a_body_that_is_too_large(server: Server) -> None:
    body = b'{"input_file_id": "' + b"x" * 300_000 + b'"}'
    headers = {"content-type": "application/json"}
    envelope(server, 413, "POST", "/v1/batches", content=body, headers=headers)


def test_an_upload_that_is_too_large(server: Server) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        server.upload([b"x" * 5_000_000])
    assert caught.value.status_code == 413
    names = [path.name for path in (server.folder / "data" / "files").iterdir()]
    assert not [name for name in names if name.startswith(".")]


@pytest.mark.parametrize(
    ("form", "param", "code"),
    [
        ({"files": {"file": ("a.txt", b"{}")}}, "file", "invalid_file_format"),
        ({"files": {"file": ("a.jsonl", b"{}")}, "data": {}}, "purpose", None),
        ({"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "vision"}}, "purpose", None),
        ({"files": {"other": ("a.jsonl", b"{}")}}, None, None),
        (
            {"files": [("file", ("a.jsonl", b"{}")), ("file", ("b.jsonl", b"{}"))]},
            "file",
            "invalid_value",
        ),
        (
            {
                "files": {"file": ("a.jsonl", b"{}")},
                "data": {
                    "purpose": "batch",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": "10",
                },
            },
            "expires_after[seconds]",
            "invalid_value",
        ),
        ({"data": {"purpose": "batch"}}, None, None),
        ({"content": b"hello"}, None, "invalid_multipart"),
        (
            {
                "content": b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n',
                "headers": {"content-type": "multipart/form-data; boundary=b"},
            },
            None,
            "invalid_multipart",
        ),
    ],
)
def test_forms_that_are_wrong(
    server: Server, form: dict[str, Any], param: str | None, code: str | None
) -> None:
    if "content" not in form:
        form.setdefault("data", {"purpose": "batch"})
    error = envelope(server, 400, "POST", "/v1/files", **form)
    assert param is None or error["param"] == param
    assert code is None or error["code"] == code


def test_the_message_about_a_files_format_is_openais(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="Invalid file format for Batch API"):
        server.upload([GOOD], "lines.json")


def test_cancelling_what_has_ended(server: Server) -> None:
    done = server.ended(server.submit([GOOD]).id)
    for batch in (done, server.ended(server.submit([b"x"]).id)):
        with pytest.raises(openai.ConflictError) as caught:
            server.client.batches.cancel(batch.id)
        assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_result_is_no_input(server: Server) -> None:
    done = server.ended(server.submit([GOOD]).id)
    error = creating(server, input_file_id=done.output_file_id)
    assert error["param"] == "input_file_id"
