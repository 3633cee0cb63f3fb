"""Batches that take the engine a while, and what must hold of any that has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openai.types import Batch

from tests.server.server_process import Server, chats


def long_lines(count: int = 400) -> list[dict[str, Any]]:
    """Lines that take the engine a while, the first results apart, which come soon."""
    lines = chats(count, ignore_eos=True)
    for number, line in enumerate(lines):
        line["body"]["max_tokens"] = 400 if number % 8 else 4
    return lines


def begun(batch: Batch) -> bool:
    assert batch.request_counts is not None
    return batch.request_counts.completed > 0


def one_record_per_line(server: Server, batch: Batch, lines: list[Any]) -> Counter[str]:
    """Checks that; the codes of the error records' errors, with how many there are."""
    done = server.records(batch.output_file_id)
    failed = server.records(batch.error_file_id)
    names = Counter(record["custom_id"] for record in [*done, *failed])
    assert names == Counter(line["custom_id"] for line in lines)
    counts = batch.request_counts
    assert counts is not None
    assert (counts.completed, counts.failed) == (len(done), len(failed))
    assert counts.total == len(lines)
    assert all(record["response"]["status_code"] == 200 for record in done)
    for record in failed:
        assert record["response"] is None or record["error"] is None
    return Counter(record["error"]["code"] for record in failed if record["error"] is not None)


@contextmanager
def another_running(server: Server) -> Iterator[None]:
    """What is submitted in this block waits until its end, and then runs together."""
    running = server.submit(long_lines())
    server.until(running.id, begun)
    yield
    server.client.batches.cancel(running.id)
    server.ended(running.id)


def checked(batch: Batch) -> bool:
    return batch.status != "validating"
