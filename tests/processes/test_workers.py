"""Real processes: what they are told and tell, and that they end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shoal.processes import Exited, WorkerProcesses, workers
from shoal.processes.spawn import how_it_ended
from tests.helpers.job_files import ForkedProcess
from tests.helpers.processes import ends, lives
from tests.processes.functions import Spoilt, busy, echo, fail, stop_itself


@pytest.fixture
def processes() -> Iterator[WorkerProcesses]:
    processes = WorkerProcesses(captured=True)
    yield processes
    processes.stop()


def heard(processes: WorkerProcesses, count: int) -> list[tuple[int, Any]]:
    """The next so many events, by worker."""
    events: list[tuple[int, Any]] = []
    end = time.monotonic() + 60
    while len(events) < count and time.monotonic() < end:
        events += processes.events(1.0)
    return sorted(events, key=lambda event: event[0])


def test_they_are_told_apart(processes: WorkerProcesses) -> None:
    for worker in (3, 5):
        processes.start(worker, echo, worker, threads=2)
    assert heard(processes, 2) == [(3, (3, "2", "2")), (5, (5, "2", "2"))]
    processes.send(3, "hello")
    assert heard(processes, 1) == [(3, "hello")]
    assert list(processes.events(0.0)) == []
    processes.broadcast("end")
    exited = Exited(7, "ended with exit code 7: the last line")
    assert heard(processes, 2) == [(3, exited), (5, exited)]
    assert processes.running == {}
    with pytest.raises(ProcessLookupError):
        processes.send(3, "hello")


def test_one_that_is_killed_is_started_again(processes: WorkerProcesses) -> None:
    first = processes.start(0, echo, threads=1)
    heard(processes, 1)
    os.kill(first.pid, signal.SIGKILL)
    reason = "was killed by SIGKILL, as the system does when memory runs out"
    assert heard(processes, 1) == [(0, Exited(-9, reason))]
    again = processes.start(0, echo, "again", threads=1)
    assert again.pid != first.pid
    assert heard(processes, 1) == [(0, ("again", "1", "1"))]


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        ((fail,), "ZeroDivisionError"),
        ((echo, Spoilt(os.stat, "/no/such/file")), "FileNotFoundError"),
        ((echo, Spoilt(int, "x")), "ValueError"),
    ],
)
def test_one_that_fails_says_why(
    processes: WorkerProcesses, arguments: tuple[Any, ...], last: str
) -> None:
    processes.start(0, *arguments, threads=1)
    ((_, exited),) = heard(processes, 1)
    assert exited.code == 1
    assert last in exited.reason


@pytest.mark.long
def test_one_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no message; and it does not end when it is let go."""
    monkeypatch.setattr(workers, "GRACE_SECONDS", 0.2)
    processes = WorkerProcesses(patience=0.5)
    for worker in (0, 1):
        processes.start(worker, stop_itself, threads=1)
    (_, first), (_, second) = heard(processes, 2)
    with pytest.raises(BlockingIOError):
        processes.send(0, b"x" * 2**24)
    assert heard(processes, 1) == [(0, Exited(-9, "took no message for 0 s and was killed"))]
    processes.stop()
    assert not lives(first)
    assert not lives(second)


def test_they_end_with_this_process_whatever_they_do() -> None:
    """Also if it is killed, and they never look at their pipe again."""
    reading, writing = os.pipe()

    def work() -> int:
        processes = WorkerProcesses()
        for worker, function in enumerate((busy, busy, echo)):
            processes.start(worker, function, threads=1)
        events = heard(processes, 3)
        os.write(writing, b"".join(pid.to_bytes(8) for _, pid in events[:2]))
        signal.pause()
        return 0

    parent = ForkedProcess(work)
    data = os.read(reading, 16)
    pids = [int.from_bytes(data[:8]), int.from_bytes(data[8:])]
    assert all(lives(pid) for pid in pids)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert all(ends(pid) for pid in pids)


def test_ctrl_c_does_not_reach_them(processes: WorkerProcesses) -> None:
    process = processes.start(0, echo, threads=1)
    heard(processes, 1)
    os.kill(process.pid, signal.SIGINT)
    assert os.getsid(process.pid) != os.getsid(0)
    processes.send(0, "still here")
    assert heard(processes, 1) == [(0, "still here")]


def test_one_that_cannot_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = len(os.listdir("/proc/self/fd"))
    processes = WorkerProcesses()
    with pytest.raises(FileNotFoundError):
        processes.start(0, echo, threads=1)
    assert processes.running == {}
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (-9, "was killed by SIGKILL, as the system does when memory runs out"),
        (-11, "was killed by SIGSEGV"),
        (-250, "was killed by signal 250"),
    ],
)
def test_words_for_exit_codes(code: int, words: str) -> None:
    assert how_it_ended(code) == words
