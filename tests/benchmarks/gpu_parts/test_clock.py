from __future__ import annotations

import pytest

from benchmarks.gpu_parts.clock import (
    LEAST_CALLS,
    MOST_CALLS,
    WARM_UP_CALLS,
    Deadline,
    EventStopwatch,
    HostStopwatch,
    OutOfTimeError,
)


class Device:
    """Stands in for a device: work takes what it is said to take, in the order it is given."""

    def __init__(self) -> None:
        self.milliseconds = 0.0
        self.log: list[str] = []
        self.durations = [9.0] * WARM_UP_CALLS

    def event(self) -> Event:
        return Event(self)

    def lead(self) -> None:
        self.log.append("lead")
        self.milliseconds += 100.0

    def call(self) -> None:
        self.log.append("call")
        self.milliseconds += self.durations.pop(0) if self.durations else 2.0


class Event:
    def __init__(self, device: Device) -> None:
        self.device, self.at = device, -1.0

    def record(self) -> None:
        self.device.log.append("event")
        self.at = self.device.milliseconds

    def elapsed_time(self, end: Event) -> float:
        assert "synchronize" in self.device.log
        return end.at - self.at


def test_events_time_the_call_alone_after_clearing_and_warming_up() -> None:
    device = Device()
    watch = EventStopwatch(device.event, lambda: device.log.append("synchronize"), device.lead)
    assert watch.seconds(device.call, most=0.0) == pytest.approx(2e-3)
    log = device.log
    assert log[:WARM_UP_CALLS] == ["call"] * WARM_UP_CALLS
    timed = [entry for entry in log[WARM_UP_CALLS:] if entry != "synchronize"]
    assert timed == ["lead", "event", "call", "event"] * LEAST_CALLS
    assert log[-1] == "synchronize"


def test_events_take_the_median() -> None:
    device = Device()
    device.durations += [1.0, 7.0, 3.0, 3.0, 50.0]
    watch = EventStopwatch(device.event, lambda: device.log.append("synchronize"), device.lead)
    assert watch.seconds(device.call, most=0.0) == pytest.approx(3e-3)


def test_events_are_not_taken_for_ever() -> None:
    device = Device()
    watch = EventStopwatch(device.event, lambda: device.log.append("synchronize"), device.lead)
    watch.seconds(device.call, most=1e9)
    assert device.log.count("call") == WARM_UP_CALLS + MOST_CALLS


def test_the_host_times_a_few_calls() -> None:
    calls = []
    assert HostStopwatch().seconds(lambda: calls.append(1), most=0.0) >= 0
    assert 2 <= len(calls) <= MOST_CALLS + 1


def test_a_deadline() -> None:
    now = 10.0
    deadline = Deadline(5.0, lambda: now)
    sooner = deadline.within(2.0)
    later = deadline.within(60.0)
    now = 12.0
    assert (deadline.left, sooner.left, later.left) == (3.0, 0.0, 3.0)
    deadline.check()
    with pytest.raises(OutOfTimeError):
        sooner.check()
    now = 99.0
    assert deadline.left == 0.0
