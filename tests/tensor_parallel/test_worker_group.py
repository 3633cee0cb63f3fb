"""Rank 0's side of the talk, with made-up processes at the other end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import BinaryIO

import pytest
import torch

from shoal.errors import DeviceLostError
from shoal.processes import Parent, workers
from shoal.tensor_parallel.commands import Allocate, Answer, Command, Free, Outcome
from shoal.tensor_parallel.worker_group import WorkerGroup

COMMAND = Allocate(0, (1, 1, 1, 1, 1))
DONE = Answer(Outcome.done)


class Actor:
    """Stands in for a process: its end of the control, and an exit code set by the test."""

    def __init__(
        self, control: Connection, lifeline: int, output: BinaryIO | None, env: Mapping[str, str]
    ) -> None:
        assert output is not None
        self.control, self._output = Connection(os.dup(control.fileno())), output
        self.rank_0 = Parent(self.control)
        self.code: int | None = None
        self.pid, self.killed, self._ended = 0, False, threading.Event()

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("actor", timeout or 0.0)
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        self.killed = True
        self.end(-signal.SIGKILL)

    def end(self, code: int, words: str = "") -> None:
        self._output.write(words.encode())
        self._output.flush()
        self.code = code
        self.control.close()
        self._ended.set()

    def answer(self, answer: Answer) -> None:
        self.rank_0.send(answer)

    def heard(self) -> list[Command]:
        found = []
        with contextlib.suppress(SystemExit):
            while (command := self.rank_0.poll()) is not None:
                found.append(command)
        return found


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> list[Actor]:
    """Those that were spawned."""
    spawned: list[Actor] = []

    def spawn(
        control: Connection, lifeline: int, output: BinaryIO | None, env: Mapping[str, str]
    ) -> Actor:
        spawned.append(Actor(control, lifeline, output, env))
        return spawned[-1]

    monkeypatch.setattr(workers, "spawn", spawn)
    monkeypatch.setattr(workers, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr("shoal.tensor_parallel.worker_group._NOTICE_SECONDS", 0.3)
    return spawned


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def group(actors: list[Actor], events: list[str]) -> Iterator[WorkerGroup]:
    made = WorkerGroup(
        3,
        patience=0.3,
        abort=lambda: events.append("abort"),
        leave=lambda: events.append("leave"),
    )
    made.start(print, "argument", threads=3)  # type: ignore[arg-type]
    for rank, actor in enumerate(actors, 1):
        assert actor.heard() == [(print, (rank, "argument"))]
    yield made
    for actor in actors:
        actor.end(0)
    made.close()


def test_everyone_is_told_and_waited_for(group: WorkerGroup, actors: list[Actor]) -> None:
    group.free(7)
    group.free(8)
    group.tell(COMMAND)
    group.tell(COMMAND)
    for actor in actors:
        assert actor.heard() == [Free((8, 7)), COMMAND, COMMAND]
        actor.answer(DONE)
    group.agree()


@pytest.mark.parametrize(
    ("outcome", "error"),
    [(Outcome.failed, RuntimeError), (Outcome.out_of_memory, torch.OutOfMemoryError)],
)
def test_a_failure_is_told_after_all_have_answered(
    group: WorkerGroup, actors: list[Actor], outcome: Outcome, error: type[Exception]
) -> None:
    actors[0].answer(Answer(outcome, "no luck"))
    actors[1].answer(DONE)
    with pytest.raises(error, match="process 2 of 3: no luck"):
        group.agree()
    for actor in actors:
        actor.answer(DONE)
    group.agree()


def test_one_that_is_killed_explains_those_it_takes_with_it(
    group: WorkerGroup, actors: list[Actor], events: list[str]
) -> None:
    actors[0].answer(Answer(Outcome.lost, "RuntimeError: connection closed by peer"))
    actors[0].end(1)
    actors[1].end(-signal.SIGKILL)
    with pytest.raises(DeviceLostError, match=r"process 3 of 3 was killed by SIGKILL, as .*again"):
        group.agree()
    assert events.count("abort") == 2
    assert events[-1] == "leave"
    with pytest.raises(DeviceLostError, match="SIGKILL"):
        group.tell(COMMAND)


def test_one_that_fails_says_why(group: WorkerGroup, actors: list[Actor]) -> None:
    actors[0].answer(DONE)
    actors[1].answer(Answer(Outcome.lost, "OSError: no such file"))
    actors[1].end(1)
    with pytest.raises(DeviceLostError, match=r"process 3 of 3.*OSError: no such file"):
        group.agree()


def test_one_that_crashes_shows_its_last_line(group: WorkerGroup, actors: list[Actor]) -> None:
    actors[1].end(-signal.SIGSEGV, "loading\nFatal error: heap corrupted\n")
    with pytest.raises(DeviceLostError, match="killed by SIGSEGV: Fatal error: heap corr"):
        group.agree()


def test_a_death_between_two_orders_is_noticed(group: WorkerGroup, actors: list[Actor]) -> None:
    actors[0].end(3)
    group._ends.noticed.wait(5)
    with pytest.raises(DeviceLostError, match="process 2 of 3 ended with exit code 3"):
        group.check()
    with pytest.raises(DeviceLostError, match="process 2 of 3 ended with exit code 3"):
        group.tell(COMMAND)


def test_silence_is_a_loss(group: WorkerGroup, actors: list[Actor]) -> None:
    actors[0].answer(DONE)
    with pytest.raises(DeviceLostError, match="process 3 did not answer for 0 s"):
        group.agree()
    assert [actor.killed for actor in actors] == [True, True]


def test_closing_kills_what_stays(
    group: WorkerGroup, actors: list[Actor], events: list[str]
) -> None:
    def obey() -> None:
        with contextlib.suppress(SystemExit):
            actors[0].rank_0.receive()
        actors[0].end(0)

    obedient = threading.Thread(target=obey)
    obedient.start()
    group.close()
    obedient.join()
    assert [actor.killed for actor in actors] == [False, True]
    assert events == ["leave"]
    with pytest.raises(DeviceLostError, match="closed"):
        group.tell(COMMAND)
