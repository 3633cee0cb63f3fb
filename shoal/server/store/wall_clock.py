"""The time that clients are told."""

from __future__ import annotations

import time


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())
