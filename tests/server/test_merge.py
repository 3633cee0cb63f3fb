"""Batches that run together."""

from __future__ import annotations

import re
from typing import Any

import pytest

from shoal.errors import OptionError
from shoal.server.database import StoredBatch
from shoal.server.gathering import MOST_BATCHES, MOST_REQUESTS, Gathering
from shoal.server.server_options import ServerOptions
from shoal.types import CHAT_URL, EMBEDDINGS_URL
from tests.server.long_batches import another_running, begun, checked
from tests.server.server_process import Server, chat

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
    with another_running(server):
        batches = [server.submit(about_documents(name, temperature=1)) for name in "ab"]
        for batch in batches:
            server.until(batch.id, checked)
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
    lines = [about_documents(name, 200, ignore_eos=True) for name in "ab"]
    for each in lines:
        for number, line in enumerate(each):
            line["body"]["max_tokens"] = 300 if number % 8 else 4
    with another_running(server):
        first, second = (server.submit(each) for each in lines)
        for batch in (first, second):
            server.until(batch.id, checked)
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
