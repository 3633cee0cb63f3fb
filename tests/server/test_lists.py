"""Paging, and whose files and batches are whose."""

from __future__ import annotations

from pathlib import Path

import httpx2
import openai
import pytest

from shoal.server.http.rate_limit import BURST_SECONDS, RateLimit
from shoal.server.store.api_errors import ApiError
from tests.server.conftest import KEYS
from tests.server.server_process import CHAT_URL, Server, chat, serving


def test_keys_see_their_own(keyed: Server) -> None:
    batch = keyed.submit([chat("a")])
    other = keyed.client_with("beta")
    for look in (
        lambda: other.files.retrieve(batch.input_file_id),
        lambda: other.files.content(batch.input_file_id),
        lambda: other.files.delete(batch.input_file_id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
    ):
        with pytest.raises(openai.NotFoundError):
            look()
    assert list(other.files.list()) == []
    assert list(other.batches.list()) == []
    stolen = other.batches.create(
        input_file_id=batch.input_file_id, endpoint=CHAT_URL, completion_window="24h"
    )
    assert stolen.status == "failed"
    done = keyed.ended(batch.id)
    assert done.output_file_id is not None
    with pytest.raises(openai.NotFoundError):
        other.files.content(done.output_file_id)


@pytest.mark.parametrize("key", ["wrong", "ALPHA", "alph", "alphaa", "ä"])
def test_wrong_keys(keyed: Server, key: str) -> None:
    for path in ("/v1/files", "/v1/batches", "/v1/models"):
        headers = {"authorization": f"Bearer {key}".encode()}
        status, body, _ = keyed.raw("GET", path, headers=headers)
        assert status == 401
        assert body["error"]["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        keyed.client_with("wrong").models.list()


def test_no_key_is_kept(keyed: Server) -> None:
    keyed.submit([chat("a")])
    for path in (keyed.folder / "data").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [key for key in KEYS if key.encode() in content], path


def test_pages(keyed: Server) -> None:
    client = keyed.client_with("gamma")
    files = []
    for number in range(7):
        content = b'{"custom_id": "%d"}' % number
        made = client.files.create(file=(f"{number}.jsonl", content), purpose="batch")
        files.append(made.id)
    newest = files[::-1]
    assert [file.id for file in client.files.list()] == newest
    assert [file.id for file in client.files.list(limit=3)] == newest  # the client turns pages
    assert [file.id for file in client.files.list(order="asc", limit=2)] == files
    page = client.files.list(limit=3)
    assert ([file.id for file in page.data], page.has_more) == (newest[:3], True)
    page = client.files.list(limit=3, after=newest[3])
    assert ([file.id for file in page.data], page.has_more) == (newest[4:], False)
    assert list(client.files.list(purpose="batch_output")) == []
    batches = [
        client.batches.create(
            input_file_id=id, endpoint=CHAT_URL, completion_window="24h", metadata={"n": "1"}
        ).id
        for id in files[:5]
    ]
    assert [batch.id for batch in client.batches.list(limit=2)] == batches[::-1]
    page = client.batches.list(limit=2, after=batches[3])
    assert [batch.id for batch in page.data] == [batches[2], batches[1]]
    status, body, _ = keyed.raw(
        "GET", "/v1/batches?limit=2", headers={"authorization": "Bearer gamma"}
    )
    assert status == 200
    assert (body["object"], body["has_more"]) == ("list", True)
    assert (body["first_id"], body["last_id"]) == (batches[4], batches[3])


def test_a_key_has_so_many_batches_at_a_time(keyed: Server) -> None:
    client = keyed.client_with("delta")
    lines = b"\n".join(
        b'{"custom_id":"%d","method":"POST","url":"/v1/completions","body":{"model":"shoal-tiny",'
        b'"prompt":"a","max_tokens":400,"ignore_eos":true}}' % i
        for i in range(300)
    )
    file = client.files.create(file=("a.jsonl", lines), purpose="batch")

    def create() -> str:
        return client.batches.create(
            input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
        ).id

    ids = [create() for _ in range(5)]
    with pytest.raises(openai.RateLimitError):
        create()
    for id in ids:
        client.batches.cancel(id)
    keyed.wait(lambda: all(client.batches.retrieve(id).status == "cancelled" for id in ids))
    ids.append(create())
    client.batches.cancel(ids[-1])


def test_a_key_makes_so_many_requests_per_second(tmp_path: Path) -> None:
    """Of each by itself; the client waits as it is told, and gets its answer."""
    arguments = ["--max-rate", "1", "--api-key", "one", "--api-key", "two"]
    with serving(tmp_path, *arguments, key="one") as server:
        headers = {"authorization": "Bearer one"}
        with httpx2.Client(base_url=server.url, headers=headers) as client:
            answers = [client.get("/v1/batches") for _ in range(30)]
        assert [answer.status_code for answer in answers[:5]] == [200] * 5
        refused = next(answer for answer in answers if answer.status_code != 200)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["retry-after"] == "1"
        assert list(server.client_with("two").batches.list()) == []
        assert list(server.client_with("one", max_retries=5).batches.list()) == []
        assert server.raw("GET", "/healthz")[0] == 200


def test_buckets_fill_with_time() -> None:
    now = 0.0
    rate = RateLimit(10, lambda: now)

    def taken() -> int:
        for number in range(1000):
            try:
                rate.take("a")
            except ApiError:
                return number
        return 1000

    assert taken() == 10 * BURST_SECONDS
    now = 0.25
    assert taken() == 2
    now = 1000.0
    assert taken() == 10 * BURST_SECONDS
