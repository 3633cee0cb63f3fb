"""What keeps the server from going on is said in one line, and in one more when it is over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

DATABASE_REFUSALS = (DBAPIError, PoolTimeout)
"""What a database raises that is locked, full, damaged or gone; see `is_refusal`."""
CALM_SECONDS = 10.0
"""Without a setback, after which it is said that something goes on: a try is no success yet."""
_OUR_OWN_FAULT = (DataError, IntegrityError, ProgrammingError)

_log = logging.getLogger(__name__)


def is_refusal(error: BaseException) -> bool:
    """Whether the machine or the database refuses, which may pass; anything else is a defect."""
    if isinstance(error, _OUR_OWN_FAULT):
        return False
    return isinstance(error, (*DATABASE_REFUSALS, OSError))


def reason(error: BaseException) -> str:
    """In one line, without the statement that SQLAlchemy adds."""
    why = getattr(error, "orig", None) if isinstance(error, SQLAlchemyError) else None
    return " ".join(str(why or error).split()) or type(error).__name__


class Setbacks:
    """What does not go on at present, and what was said of it. One thread uses it."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._said: dict[str, tuple[str, float]] = {}
        """The reason, and when it was met last."""

    def met(self, what: str, error: BaseException, **about: Any) -> None:
        """Say that something waits, unless that was said; a defect is said with its traceback.

        Args:
            what: "the clerk", "batch ID".
            about: what lines of JSON have besides.
        """
        if is_refusal(error):
            self.waits(what, reason(error), **about)
        elif self._is_new(what, repr(error)):
            _log.error("%s failed; it is tried again", what, exc_info=error, extra=about)

    def waits(self, what: str, why: str, **about: Any) -> None:
        """The same, of what another process told."""
        if self._is_new(what, why):
            _log.warning("%s waits: %s", what, why, extra=about)

    def none(self, what: str, **about: Any) -> None:
        """Nothing keeps it; say so if it was said to wait, and the last setback is long ago."""
        if what in self._said and self._clock() - self._said[what][1] >= CALM_SECONDS:
            del self._said[what]
            _log.info("%s goes on", what, extra=about)

    def forget(self, what: str) -> None:
        """It is at its end, which is said elsewhere."""
        self._said.pop(what, None)

    def __contains__(self, what: str) -> bool:
        return what in self._said

    def _is_new(self, what: str, why: str) -> bool:
        known = self._said.get(what)
        self._said[what] = (why, self._clock())
        return known is None or known[0] != why
