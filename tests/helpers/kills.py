"""Kill a process again and again, at random moments, as a crash would."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Process(Protocol):
    """What `subprocess.Popen` offers."""

    pid: int

    def poll(self) -> int | None: ...


@dataclass(frozen=True)
class KillReport:
    """How often the process was killed, and how it ended when it was left alone."""

    kills: int
    exit_code: int


def run_with_kills(
    start: Callable[[], Process],
    *,
    kills: int,
    longest_seconds: float | Callable[[], float],
    rng: random.Random,
    ready: Callable[[], bool] = lambda: True,
    timeout_seconds: float = 300.0,
) -> KillReport:
    """Start a process until it ends by itself, killing (SIGKILL) the first `kills` of them.

    Each is killed after a random time of up to `longest_seconds` (or what that gives for it),
    counted from when `ready` says so. One that ends before that ends the run early: the report
    tells.
    """
    deadline = time.monotonic() + timeout_seconds
    for number in range(kills + 1):
        process = start()
        last = number == kills
        while not last and process.poll() is None and not ready():
            time.sleep(0.002)
        longest = longest_seconds() if callable(longest_seconds) else longest_seconds
        end = deadline if last else time.monotonic() + rng.uniform(0, longest)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        code = process.poll()
        if code is not None:
            return KillReport(number, code)
        assert not last, f"the process did not end within {timeout_seconds} s"
        os.kill(process.pid, signal.SIGKILL)
        while process.poll() is None:
            time.sleep(0.002)
    raise AssertionError("unreachable")
