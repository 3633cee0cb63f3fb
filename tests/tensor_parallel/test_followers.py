"""The first process's side of the talk, with made-up processes at the other end."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import BinaryIO

import pytest
import torch

from shoal.errors import DeviceLostError
from shoal.tensor_parallel import workers
from shoal.tensor_parallel.commands import Allocate, Free, Message, Stop, decode
from shoal.tensor_parallel.followers import Followers
from shoal.tensor_parallel.replies import Answer, Outcome
from shoal.tensor_parallel.workers import Worker, how_it_ended, start_worker

ORDER = Allocate(0, (1, 1, 1, 1, 1))
DONE = Answer(Outcome.done)


class Actor:
    """Stands in for a process: its end of the control, and an exit code set by the test."""

    def __init__(self, rank: int) -> None:
        control, self.control = Pipe()
        self.code: int | None = None
        self.pid, self.killed, self._ended = 0, False, threading.Event()
        output = tempfile.TemporaryFile()  # noqa: SIM115
        self.worker = Worker(rank, self, control, -1, output)

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise TimeoutError
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        self.killed = True
        self.end(-signal.SIGKILL)

    def end(self, code: int, words: str = "") -> None:
        self.worker.output.write(words.encode())
        self.code = code
        self.control.close()
        self._ended.set()

    def answer(self, answer: Answer) -> None:
        self.control.send_bytes(answer.encode())

    def heard(self) -> list[Message]:
        found = []
        with contextlib.suppress(EOFError):
            while self.control.poll():
                found.append(decode(self.control.recv_bytes()))
        return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.tensor_parallel.followers._GRACE_SECONDS", 0.3)
    monkeypatch.setattr(workers.os, "close", lambda lifeline: None)


@pytest.fixture
def actors() -> list[Actor]:
    return [Actor(1), Actor(2)]


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def followers(actors: list[Actor], events: list[str]) -> Iterator[Followers]:
    made = Followers(
        [actor.worker for actor in actors],
        patience=0.3,
        abort=lambda: events.append("abort"),
        leave=lambda: events.append("leave"),
    )
    yield made
    for actor in actors:
        actor.end(0)
    made.close()


def test_everyone_is_told_and_waited_for(followers: Followers, actors: list[Actor]) -> None:
    followers.free(7)
    followers.free(8)
    followers.tell(ORDER)
    followers.tell(ORDER)
    for actor in actors:
        assert actor.heard() == [Free((8, 7)), ORDER, ORDER]
        actor.answer(DONE)
    followers.agree()


@pytest.mark.parametrize(
    ("outcome", "error"),
    [(Outcome.failed, RuntimeError), (Outcome.out_of_memory, torch.OutOfMemoryError)],
)
def test_a_failure_is_told_after_all_have_answered(
    followers: Followers, actors: list[Actor], outcome: Outcome, error: type[Exception]
) -> None:
    actors[0].answer(Answer(outcome, "no luck"))
    actors[1].answer(DONE)
    with pytest.raises(error, match="process 2 of 3: no luck"):
        followers.agree()
    for actor in actors:
        actor.answer(DONE)
    followers.agree()


def test_one_that_is_killed_explains_those_it_takes_with_it(
    followers: Followers, actors: list[Actor], events: list[str]
) -> None:
    actors[0].answer(Answer(Outcome.lost, "RuntimeError: connection closed by peer"))
    actors[0].end(1)
    actors[1].end(-signal.SIGKILL)
    with pytest.raises(DeviceLostError, match=r"process 3 of 3 ended by SIGKILL \(killed; .*again"):
        followers.agree()
    assert events.count("abort") == 2
    assert events[-1] == "leave"
    with pytest.raises(DeviceLostError, match="SIGKILL"):
        followers.tell(ORDER)


def test_one_that_fails_says_why(followers: Followers, actors: list[Actor]) -> None:
    actors[0].answer(DONE)
    actors[1].answer(Answer(Outcome.lost, "OSError: no such file"))
    actors[1].end(1)
    with pytest.raises(DeviceLostError, match=r"process 3 of 3.*OSError: no such file"):
        followers.agree()


def test_one_that_crashes_shows_its_last_line(followers: Followers, actors: list[Actor]) -> None:
    actors[1].end(-signal.SIGSEGV, "loading\nFatal error: heap corrupted\n")
    with pytest.raises(DeviceLostError, match="3 of 3 ended by SIGSEGV: Fatal error: heap corr"):
        followers.agree()


def test_a_death_between_two_orders_is_noticed(followers: Followers, actors: list[Actor]) -> None:
    actors[0].end(3)
    followers._fate.noticed.wait(5)
    with pytest.raises(DeviceLostError, match="process 2 of 3 ended with exit code 3"):
        followers.check()
    with pytest.raises(DeviceLostError, match="process 2 of 3 ended with exit code 3"):
        followers.tell(ORDER)


def test_silence_is_a_loss(followers: Followers, actors: list[Actor]) -> None:
    actors[0].answer(DONE)
    with pytest.raises(DeviceLostError, match="process 3 did not answer for 0 s"):
        followers.agree()
    assert [actor.killed for actor in actors] == [True, True]


def test_closing_tells_and_kills_what_stays(
    followers: Followers, actors: list[Actor], events: list[str]
) -> None:
    def obey() -> None:
        if actors[0].control.poll(5) and actors[0].heard() == [Stop()]:
            actors[0].end(0)

    obedient = threading.Thread(target=obey)
    obedient.start()
    followers.close()
    obedient.join()
    assert [actor.killed for actor in actors] == [False, True]
    assert events == ["leave"]
    with pytest.raises(DeviceLostError, match="closed"):
        followers.tell(ORDER)


def test_words_for_exit_codes() -> None:
    assert how_it_ended(0) == "ended with exit code 0"
    assert how_it_ended(-signal.SIGTERM) == "ended by SIGTERM"
    assert how_it_ended(-250) == "ended by signal 250"


def test_a_worker_that_cannot_be_started_leaves_nothing_open() -> None:
    seen: list[Connection] = []

    def fail(control: Connection, watched: int, output: BinaryIO, env: dict[str, str]) -> object:
        seen.append(control)
        assert env["OMP_NUM_THREADS"] == "3"
        raise OSError("no more processes")

    launch: Callable[..., object] = fail
    with pytest.raises(OSError, match="no more"):
        start_worker(1, 3, 1.0, launch)
    assert seen[0].closed
