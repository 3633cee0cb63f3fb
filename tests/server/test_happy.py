"""Upload, create, poll, download, with the official client against a real server."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types import Batch, FileObject

from tests.server.server_process import CHAT_URL, Server, chat, chats


def strictly(kind: type, value: Any) -> None:
    """What the server sent is what the client's type says: no field more, none of another type."""
    sent = value.model_dump(mode="python")
    kind.model_validate(sent, strict=True)
    assert set(sent) - set(kind.model_fields) - {"_request_id"} == set()


def test_a_batch_from_upload_to_results(server: Server) -> None:
    lines = [*chats(6), chat("bad", temperature=9), chat("seeded", seed=3, n=2, temperature=1)]
    batch = server.submit(lines, metadata={"who": "me"})
    strictly(Batch, batch)
    assert (batch.status, batch.endpoint, batch.metadata) == ("validating", CHAT_URL, {"who": "me"})
    batch = server.ended(batch.id)
    strictly(Batch, batch)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (8, 7, 1)
    records = server.records(batch.output_file_id)
    assert [r["custom_id"] for r in records] == [f"c{i}" for i in range(6)] + ["seeded"]
    assert all(r["response"]["status_code"] == 200 and r["error"] is None for r in records)
    (failure,) = server.records(batch.error_file_id)
    assert failure["custom_id"] == "bad"
    assert failure["response"]["status_code"] == 400
    assert failure["response"]["body"]["error"]["param"] == "body.temperature"
    times = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert None not in times
    assert times == sorted(times, key=int)
    usage = [r["response"]["body"]["usage"] for r in records]
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(u["prompt_tokens"] for u in usage)
    assert batch.usage.output_tokens == sum(u["completion_tokens"] for u in usage)
    assert batch.usage.total_tokens == sum(u["total_tokens"] for u in usage)
    assert batch.model == "shoal-tiny"


def test_a_batch_of_completions(server: Server) -> None:
    body = {"model": "shoal-tiny", "prompt": ["once", "twice"], "max_tokens": 3}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    batch = server.ended(server.submit([line], "/v1/completions").id)
    (record,) = server.records(batch.output_file_id)
    assert len(record["response"]["body"]["choices"]) == 2
    assert batch.error_file_id is None


def test_all_requests_may_fail(server: Server) -> None:
    batch = server.ended(server.submit([chat("a", temperature=9), chat("b", top_p=7)]).id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert len(server.records(batch.error_file_id)) == 2


def test_files(server: Server) -> None:
    file = server.upload(chats(2), "../../etc/pass\u00e9wd.jsonl")
    strictly(FileObject, file)
    assert file.filename == "pass\u00e9wd.jsonl"
    assert server.client.files.retrieve(file.id) == file
    assert file.expires_at == file.created_at + 30 * 86400
    content = server.client.files.content(file.id).content
    assert len(content) == file.bytes
    assert server.client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        server.client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        server.client.files.content(file.id)
    assert file.id not in [f.id for f in server.client.files.list(limit=1000)]


def test_a_file_may_be_asked_to_expire_earlier(server: Server) -> None:
    file = server.client.files.create(
        file=("a.jsonl", b"{}"),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600


def test_models(server: Server) -> None:
    assert [model.id for model in server.client.models.list()] == ["shoal-tiny"]
    assert server.client.models.retrieve("shoal-tiny").object == "model"
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("other")
