"""How many requests a key may make: a bucket of tokens for each, filled at a steady rate."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from time import monotonic

from shoal.server.store import ApiError

BURST_SECONDS = 5
"""A key that was quiet so long may make all the requests of that time at once."""


class RateLimit:
    """A limit for each owner by itself. Threads share it."""

    def __init__(self, per_second: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._clock = per_second, clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}
        """Tokens, and when they were counted."""

    def take(self, owner: str) -> None:
        """Count a request.

        Raises:
            ApiError: 429, with `retry-after`: too many came.
        """
        most, now = float(self._rate * BURST_SECONDS), self._clock()
        with self._lock:
            tokens, counted = self._buckets.get(owner, (most, now))
            tokens = min(most, tokens + (now - counted) * self._rate)
            allowed = tokens >= 1
            self._buckets[owner] = (tokens - allowed, now)
        if not allowed:
            seconds = math.ceil((1 - tokens) / self._rate)
            raise ApiError(
                429,
                f"You make more than {self._rate} requests per second; wait {seconds} s.",
                code="rate_limit_exceeded",
                headers={"retry-after": str(seconds)},
            )
