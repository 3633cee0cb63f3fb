"""Concurrency against servers that are simulated: answers come as a rate law says."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from shoal.endpoints.concurrency import FIRST, Concurrency


def limits(seconds: Callable[[int], float], answers: int, most: int = 256) -> list[int]:
    """Limits after each answer of a server that takes `seconds(at once)` for a request."""
    concurrency, now, ends = Concurrency(most), 0.0, list[float]()
    seen = []
    for _ in range(answers):
        while len(ends) < concurrency.limit:
            heapq.heappush(ends, now + seconds(len(ends) + 1))
        now = heapq.heappop(ends)
        concurrency.answered(100, now)
        seen.append(concurrency.limit)
    return seen


def test_it_grows_while_that_helps() -> None:
    seen = limits(lambda n: 1.0, 3000)
    assert (seen[0], seen[-1]) == (FIRST, 256)


def test_it_stays_where_more_does_not_help() -> None:
    seen = limits(lambda n: max(1.0, n / 16), 4000)
    assert 16 <= sorted(seen)[len(seen) // 2] <= 64


def test_it_goes_back_where_more_harms() -> None:
    seen = limits(lambda n: 1.0 if n <= 16 else (n / 16) ** 2, 4000)
    assert 8 <= sorted(seen)[len(seen) // 2] <= 32


def test_a_refusal_halves_it_once_for_all_that_were_under_way() -> None:
    concurrency = Concurrency(256)
    concurrency.limit = 64
    for _ in range(20):
        concurrency.refused(sent=1.0, now=2.0)
    assert concurrency.limit == 32
    concurrency.refused(sent=3.0, now=4.0)
    assert concurrency.limit == 16
