from __future__ import annotations

from typing import Any

import orjson
import pytest

from shoal.answers.detokenize import Detokenizer
from shoal.errors import InvalidRequestError
from shoal.requests.index import LineName
from shoal.results.logprob_records import chat_logprobs, completion_logprobs
from shoal.results.records import RecordWriter
from shoal.types import Choice, Completion, TokenLogprob
from tests.helpers.job_files import byte_tokenizer
from tests.helpers.request_tables import one, table

TOKENIZER = byte_tokenizer()
REQUESTS = table([one([5])] * 10)
CHAT, TEXT = LineName("é1", "/v1/chat/completions"), LineName("c", "/v1/completions")


@pytest.fixture
def writer() -> RecordWriter:
    return RecordWriter("job", "toy", Detokenizer(TOKENIZER))


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def completion(request: int, *texts: str, logprobs: bool = False) -> Completion:
    choices = []
    for index, text in enumerate(texts):
        scores = tuple(
            TokenLogprob(i, -0.5, ((i, -0.5), (ids("z")[0], float("-inf")))) for i in ids(text)
        )
        chosen = scores if logprobs else None
        choices.append(Choice(index, text, ids(text), "length", chosen))
    return Completion(request, 5, tuple(choices))


def test_chat_record(writer: RecordWriter) -> None:
    data = writer.success(3, CHAT, [completion(9, "hé", "no")], REQUESTS)
    assert b"\n" not in data
    record = orjson.loads(data)
    body: dict[str, Any] = record["response"]["body"]
    assert record.keys() == {"id", "custom_id", "response", "error"}
    assert record["custom_id"] == "é1"
    assert record["error"] is None
    assert record["id"].startswith("batch_req_")
    assert record["response"]["status_code"] == 200
    assert record["response"]["request_id"]
    assert body.keys() == {"id", "object", "created", "model", "choices", "usage"}
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "toy"
    assert body["choices"][1] == {
        "index": 1,
        "message": {"role": "assistant", "content": "no", "refusal": None},
        "logprobs": None,
        "finish_reason": "length",
    }
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}


def test_several_prompts_number_their_choices_through(writer: RecordWriter) -> None:
    prompts = [completion(4, "a", "b"), completion(5, "c", "d")]
    body = orjson.loads(writer.success(0, TEXT, prompts, REQUESTS))["response"]["body"]
    assert body["object"] == "text_completion"
    assert [(c["index"], c["text"]) for c in body["choices"]] == [
        (0, "a"), (1, "b"), (2, "c"), (3, "d"),
    ]  # fmt: skip
    assert body["usage"] == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


def test_ids_depend_on_job_and_line_alone(writer: RecordWriter) -> None:
    def identity(w: RecordWriter, line: int, text: str) -> tuple[str, str, str]:
        record = orjson.loads(w.success(line, CHAT, [completion(0, text)], REQUESTS))
        return record["id"], record["response"]["request_id"], record["response"]["body"]["id"]

    again = RecordWriter("job", "toy", Detokenizer(TOKENIZER))
    other = RecordWriter("other", "toy", Detokenizer(TOKENIZER))
    assert identity(writer, 1, "a") == identity(again, 1, "b")
    assert not set(identity(writer, 1, "a")) & set(identity(writer, 2, "a"))
    assert not set(identity(writer, 1, "a")) & set(identity(other, 1, "a"))


def test_chat_logprobs(writer: RecordWriter) -> None:
    data = writer.success(0, CHAT, [completion(0, "é", logprobs=True)], REQUESTS)
    logprobs = orjson.loads(data)["response"]["body"]["choices"][0]["logprobs"]
    assert logprobs["refusal"] is None
    first, second = logprobs["content"]
    assert (first["bytes"], second["bytes"]) == ([0xC3], [0xA9])
    assert first["token"] == "\ufffd"
    assert first["logprob"] == -0.5
    assert first["top_logprobs"] == [
        {"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]},
        {"token": "z", "logprob": -9999.0, "bytes": [0x7A]},
    ]


def test_named_tokens_stand_where_the_likeliest_do() -> None:
    detokenizer = Detokenizer(byte_tokenizer())
    a, b, c = ids("abc")
    entry = TokenLogprob(a, -1.0, rank=2, named=((c, -4.0), (b, -0.5)))
    (written,) = chat_logprobs([entry], detokenizer)["content"]
    found = [(top["token"], top["logprob"]) for top in written["top_logprobs"]]
    assert found == [("c", -4.0), ("b", -0.5)]
    choice = Choice(0, "a", (a,), "length", (entry,))
    logprobs = completion_logprobs([entry], choice, 0, REQUESTS, detokenizer)
    assert logprobs["top_logprobs"] == [{"c": -4.0, "b": -0.5, "a": -1.0}]


def test_completion_logprobs() -> None:
    tokens = [TokenLogprob(ids("a")[0], None)]
    tokens += [TokenLogprob(i, -1.0, ((ids("b")[0], -0.25),)) for i in ids("éb.")]

    def written(text: str) -> dict[str, Any]:
        choice = Choice(0, text, ids("aéb."), "stop")
        return completion_logprobs(tokens, choice, 0, REQUESTS, Detokenizer(TOKENIZER))

    logprobs = written("aéb")
    assert logprobs["token_logprobs"] == [None, -1.0, -1.0, -1.0, -1.0]
    assert logprobs["tokens"] == ["a", "\ufffd", "\ufffd", "b", "."]
    assert logprobs["text_offset"] == [0, 1, 1, 2, 3]
    assert written("aé")["text_offset"] == [0, 1, 1, 2, 2]
    assert logprobs["top_logprobs"] == [
        None,
        {"b": -0.25, "\ufffd": -1.0},
        {"b": -0.25, "\ufffd": -1.0},
        {"b": -0.25},
        {"b": -0.25, ".": -1.0},
    ]


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid_request_error"), (500, "server_error")]
)
def test_error_record(writer: RecordWriter, status: int, kind: str) -> None:
    error = InvalidRequestError("bad \ud800.", code="c", param="body.n", status_code=status)
    record = orjson.loads(writer.failure(6, None, error))
    assert record["custom_id"] is None
    assert record["error"] is None
    assert record["response"]["status_code"] == status
    assert record["response"]["body"] == {
        "error": {
            "message": "line 7: bad ?.",
            "type": kind,
            "param": "body.n",
            "code": "c",
            "line": 7,
        }
    }
