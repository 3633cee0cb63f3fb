"""Which batches run together: those that wait for the same, after a short time to gather."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.server.store import MOST_STALLS, StoredBatch
from shoal.types import POOLED_URLS

MOST_WAITS = 10
"""So many times the gathering time passes at most, while one batch comes after another."""
MOST_BATCHES = 128
"""Of a run: each holds a few open files."""
MOST_REQUESTS = 500_000
"""Of a run, unless one batch alone has more: their tokens are in memory twice."""


class Gathering:
    """Chooses what runs next. No batch waits for others that are not there yet for long."""

    def __init__(self, wait_seconds: float | None) -> None:
        """`wait_seconds`: in which no further batch must have come; None: each runs alone."""
        self._wait = wait_seconds
        self._seen: list[str] = []
        self._began = self._changed = 0.0

    def choose(self, waiting: Sequence[StoredBatch], now: float) -> list[StoredBatch]:
        """The batches to run now; none: look again soon.

        Args:
            waiting: all that can run, the one whose turn it is first.
            now: seconds of a clock that is never set.
        """
        if not waiting:
            self._seen = []
            return []
        if self._wait is None:
            return [waiting[0]]
        group = _together(waiting)
        ids = [batch.id for batch in group]
        if not self._seen:
            self._began = now
        if ids != self._seen:
            self._seen, self._changed = ids, now
        quiet = now - self._changed >= self._wait
        if not quiet and now - self._began < MOST_WAITS * self._wait:
            return []
        self._seen = []
        return group


def _together(waiting: Sequence[StoredBatch]) -> list[StoredBatch]:
    """The first and those that may run with it.

    A batch during which the engine has died more than once runs alone: it may be why.
    """
    first = waiting[0]
    group, requests = [first], first.total
    if _suspect(first):
        return group
    for batch in waiting[1:]:
        alike = batch.priority == first.priority and _kind(batch) == _kind(first)
        if alike and not _suspect(batch) and requests + batch.total <= MOST_REQUESTS:
            group.append(batch)
            requests += batch.total
        if len(group) == MOST_BATCHES:
            break
    return group


def _suspect(batch: StoredBatch) -> bool:
    return batch.stalls >= MOST_STALLS - 1


def _kind(batch: StoredBatch) -> str:
    """What an engine must be for it: one answers at several endpoints."""
    return batch.endpoint if batch.endpoint in POOLED_URLS else ""
