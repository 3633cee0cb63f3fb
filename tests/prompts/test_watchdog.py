from __future__ import annotations

import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from shoal.prompts import watchdog
from shoal.prompts.watchdog import TimeLimitError, Watchdog


def busy(seconds: float) -> str:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return "done"


def test_what_is_quick_returns_and_raises_as_it_does_alone() -> None:
    dog = Watchdog(5)
    assert dog.call(lambda: busy(0.01)) == "done"
    with pytest.raises(ZeroDivisionError):
        dog.call(lambda: 1 / 0)
    with pytest.raises(KeyboardInterrupt):
        dog.call(lambda: exec("raise KeyboardInterrupt"))
    assert not dog._calls


def test_waiting_is_not_counted() -> None:
    assert Watchdog(0.05).call(lambda: time.sleep(0.3)) is None


def test_code_that_catches_what_it_can_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_AGAIN_SECONDS", 0.05)
    caught = []

    def stubborn() -> None:
        while True:
            try:
                busy(100)
            except Exception:
                raise AssertionError("ordinary code could take it") from None
            except BaseException as error:
                caught.append(error)
                if len(caught) == 3:
                    raise

    with pytest.raises(TimeLimitError):
        Watchdog(0.05).call(stubborn)
    assert len(caught) == 3


@pytest.mark.long
def test_nothing_strikes_when_a_call_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that end just when their time is up, in several threads at once."""
    interval = sys.getswitchinterval()
    monkeypatch.setattr(watchdog, "_AGAIN_SECONDS", 0.001)
    dog = Watchdog(0.002)

    def many(seed: int) -> list[bool]:
        rng, stopped = random.Random(seed), []
        for _ in range(300):
            try:
                stopped.append(dog.call(lambda: busy(rng.uniform(0.001, 0.003))) != "done")
            except TimeLimitError:
                stopped.append(True)
            sum(range(1000))  # would be struck if something came late
        return stopped

    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as executor:
            results = [stopped for part in executor.map(many, range(3)) for stopped in part]
        results += many(3)
    finally:
        sys.setswitchinterval(interval)
    assert True in results
    assert False in results
    assert not dog._calls


def test_its_thread_ends_and_comes_back() -> None:
    dog = Watchdog(0.05)
    for _ in range(2):
        assert dog.call(lambda: "quick") == "quick"
        watcher = dog._watcher
        assert isinstance(watcher, threading.Thread)
        watcher.join(10)
        assert not watcher.is_alive()
        with pytest.raises(TimeLimitError):
            dog.call(lambda: busy(100))
