"""How many requests a server has at once: more while that makes it faster, fewer when it objects.

Windows of as many answers as requests are under way are compared by tokens per second. Answers to
requests that were under way when the number changed come before, and are not counted.
"""

from __future__ import annotations

FIRST = 8
"""Requests at once to begin with."""
_FASTER = 1.1
"""Throughput against that before, from which on more has helped."""
_HELD_WINDOWS = 8
"""Windows after which more is tried again, where more did not help."""


class Concurrency:
    """The limit of one server. Times are seconds of any clock."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.limit = min(FIRST, most)
        """Requests that the server may have at once."""
        self._before = self.limit
        self._rate = 0.0
        self._held = 0
        self._settling = self.limit
        self._answers, self._tokens, self._began = 0, 0, -1.0
        self._cut = -1.0

    def answered(self, tokens: int, now: float) -> None:
        """A request of so many tokens was answered."""
        if self._settling:
            self._settling -= 1
            self._open(now)
            return
        self._answers += 1
        self._tokens += tokens
        if self._answers < self.limit or now <= self._began:
            return
        rate = self._tokens / (now - self._began)
        self._open(now)
        self._judge(rate)

    def refused(self, sent: float, now: float) -> None:
        """The server said that it has too much, or took too long, of a request sent then.

        Of many that were under way together only the first one counts.
        """
        if sent <= self._cut:
            return
        self._cut = now
        self._set(max(1, self.limit // 2))
        self._rate, self._held = 0.0, _HELD_WINDOWS
        self._open(now)

    def _judge(self, rate: float) -> None:
        """Compare a window with what was before the last change."""
        if self._held:
            self._held -= 1
            self._rate = rate
            if not self._held:
                self._grow()
        elif rate >= self._rate * _FASTER:
            self._rate = rate
            self._grow()
        else:
            self._set(self._before)
            self._held = _HELD_WINDOWS

    def _grow(self) -> None:
        self._before = self.limit
        self._set(min(self._most, self.limit * 2))
        if self.limit == self._before:
            self._held = _HELD_WINDOWS

    def _set(self, limit: int) -> None:
        self._settling = 0 if limit == self.limit else self.limit
        self.limit = limit

    def _open(self, now: float) -> None:
        self._answers, self._tokens, self._began = 0, 0, now
