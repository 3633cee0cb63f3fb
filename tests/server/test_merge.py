"""Batches that run together, and every endpoint that files know."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from openai.types import Batch

from shoal.config import EngineOptions
from shoal.errors import OptionError
from shoal.jobs import JobSpec, run_job
from shoal.server.database import StoredBatch
from shoal.server.gathering import MOST_BATCHES, MOST_REQUESTS, Gathering
from shoal.server.server_options import ServerOptions
from shoal.types import CHAT_URL, EMBEDDINGS_URL
from tests.helpers.job_files import answers, write_lines
from tests.server.server_process import Server, chat, serving

DOCUMENT = "The parcel left the depot on Monday and came back on Friday. " * 8
TOGETHER = re.compile(r"(\d+) batches ran together: (\d+) prompt tokens, of which (\d+) were")


def stored(
    number: int, priority: int = 0, endpoint: str = CHAT_URL, stalls: int = 0, total: int = 5
) -> StoredBatch:
    return StoredBatch(
        id=str(number), priority=priority, endpoint=endpoint, stalls=stalls, total=total
    )


def chosen(gathering: Gathering, waiting: list[StoredBatch], now: float) -> list[str]:
    return [batch.id for batch in gathering.choose(waiting, now)]


def test_batches_gather_until_no_more_come() -> None:
    gathering = Gathering(1.0)
    first = [stored(0)]
    assert chosen(gathering, [], 0.0) == []
    assert chosen(gathering, first, 5.0) == []
    both = [*first, stored(1)]
    assert chosen(gathering, both, 5.9) == []
    assert chosen(gathering, both, 6.5) == []
    assert chosen(gathering, both, 6.9) == ["0", "1"]
    assert chosen(gathering, both, 7.0) == []  # the next run gathers anew
    waiting: list[StoredBatch] = []
    assert chosen(gathering, waiting, 19.0) == []
    for number in range(10):  # one comes after another, and the first does not wait for ever
        waiting.append(stored(number))
        assert chosen(gathering, waiting, 20.0 + 0.9 * number) == []
    assert len(chosen(gathering, waiting, 30.0)) == 10
    assert chosen(Gathering(None), both, 0.0) == ["0"]


def test_which_batches_go_together() -> None:
    def together(*waiting: StoredBatch) -> list[str]:
        return chosen(Gathering(0.0), list(waiting), 0.0)

    assert together(stored(0, -1), stored(2, -1), stored(1)) == ["0", "2"]
    vectors = stored(1, endpoint=EMBEDDINGS_URL)
    assert together(stored(0), vectors, stored(2, endpoint="/v1/responses")) == ["0", "2"]
    assert together(vectors, stored(2), stored(3, endpoint=EMBEDDINGS_URL)) == ["1", "3"]
    assert together(stored(0, stalls=2), stored(1)) == ["0"]  # it may be what ends the engine
    assert together(stored(0, stalls=1), stored(1, stalls=2), stored(2)) == ["0", "2"]
    large = stored(1, total=MOST_REQUESTS)
    assert together(stored(0), large, stored(2)) == ["0", "2"]
    assert together(large, stored(2)) == ["1"]
    assert len(together(*map(stored, range(1000)))) == MOST_BATCHES


def test_a_wrong_gathering_time_is_refused() -> None:
    with pytest.raises(OptionError, match="merge_wait"):
        ServerOptions(merge_wait=-1.0)


def about_documents(name: str, count: int = 20, **body: Any) -> list[dict[str, Any]]:
    return [chat(f"{name}{i}", f"{DOCUMENT} {i % 2} Question {i}?", **body) for i in range(count)]


def test_batches_about_the_same_documents(server: Server) -> None:
    before = len(TOGETHER.findall(server.log.read_text()))
    batches = [server.submit(about_documents(name, temperature=1)) for name in "ab"]
    ends = [server.ended(batch.id) for batch in batches]
    assert [batch.status for batch in ends] == ["completed"] * 2
    for name, batch in zip("ab", ends, strict=True):
        ids = [record["custom_id"] for record in server.records(batch.output_file_id)]
        assert ids == [f"{name}{i}" for i in range(20)]
    found = TOGETHER.findall(server.log.read_text())[before:]
    assert len(found) == 1
    batch_count, prompt, computed = map(int, found[0])
    assert batch_count == 2
    assert computed < prompt / 4


def test_one_of_two_is_cancelled(server: Server) -> None:
    def begun(batch: Batch) -> bool:
        return batch.request_counts is not None and batch.request_counts.completed > 0

    lines = [about_documents(name, 200, ignore_eos=True) for name in "ab"]
    for each in lines:
        for number, line in enumerate(each):
            line["body"]["max_tokens"] = 300 if number % 8 else 4
    first, second = (server.submit(each) for each in lines)
    server.until(first.id, begun)
    server.until(second.id, begun)
    server.client.batches.cancel(first.id)
    first = server.ended(first.id)
    assert first.status == "cancelled"
    assert server.client.batches.retrieve(second.id).status == "in_progress"
    done, failed = server.records(first.output_file_id), server.records(first.error_file_id)
    assert done
    assert {record["error"]["code"] for record in failed} == {"batch_cancelled"}
    assert len(done) + len(failed) == 200
    second = server.ended(second.id)
    assert second.status == "completed"
    assert len(server.records(second.output_file_id)) == 200


LINES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Say hello.", "max_output_tokens": 8},
    "/v1/completions": {"prompt": "Once", "max_tokens": 8},
    "/v1/embeddings": {"input": ["Say hello.", "Say goodbye."]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 8},
}


def line(url: str, **body: Any) -> dict[str, Any]:
    body = {"model": "shoal-tiny"} | body
    return {"custom_id": "a", "method": "POST", "url": url, "body": body}


@pytest.mark.parametrize("url", LINES)
def test_every_endpoint_of_a_model_that_answers(server: Server, tmp_path: Path, url: str) -> None:
    lines = [line(url, **LINES[url])]
    batch = server.ended(server.submit(lines, url).id)
    assert batch.status == "completed", server.log.read_text()[-2000:]
    output = tmp_path / "served.jsonl"
    output.write_bytes(server.client.files.content(batch.output_file_id or "").content)
    path = write_lines(tmp_path / "in.jsonl", lines)
    alone = run_job(JobSpec(input=path, output=tmp_path / "out.jsonl", quiet=True))
    (served,), (expected,) = answers(output), answers(alone.output)
    assert _without_ids(served) == _without_ids(expected)
    assert batch.usage is not None
    assert batch.usage.total_tokens > 0


def _without_ids(value: Any) -> Any:
    """What two jobs have in common: ids and times are their own."""
    if isinstance(value, dict):
        own = {"id", "created", "created_at", "completed_at"}
        return {key: _without_ids(each) for key, each in value.items() if key not in own}
    return [_without_ids(each) for each in value] if isinstance(value, list) else value


def test_an_endpoint_that_the_model_cannot_serve(server: Server) -> None:
    batch = server.ended(server.submit([line("/v1/classify", input="x")], "/v1/classify").id)
    assert batch.errors is not None
    (error,) = batch.errors.data or []
    assert (error.code, error.param) == ("unsupported_endpoint", "endpoint")
    assert str(server.folder) not in str(error.message)


def test_a_model_that_gives_vectors_alone(tmp_path: Path) -> None:
    from tests.helpers.pooled import save_embedder

    folder = save_embedder(tmp_path / "model", "qwen3", "lasttoken")
    with serving(tmp_path / "served", "--model", str(folder)) as server:
        url = "/v1/embeddings"
        lines = [line(url, input=["one", "two"], model=str(folder))]
        batch = server.ended(server.submit(lines, url).id)
        assert batch.status == "completed", server.log.read_text()[-2000:]
        (record,) = server.records(batch.output_file_id)
    path = write_lines(tmp_path / "in.jsonl", lines)
    options = EngineOptions.create()
    spec = JobSpec(
        input=path, output=tmp_path / "o.jsonl", model=str(folder), options=options, quiet=True
    )
    (expected,) = answers(run_job(spec).output)
    vectors = [each["embedding"] for each in record["response"]["body"]["data"]]
    assert vectors == [each["embedding"] for each in expected["response"]["body"]["data"]]
