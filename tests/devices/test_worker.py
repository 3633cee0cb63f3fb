"""How a worker's process ends, in forks of this one that have no engine."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from shoal.devices import worker
from shoal.devices.channel import FRONT_GONE
from shoal.devices.messages import Failed, Hello, Spare
from shoal.devices.wire import receive, send
from shoal.devices.worker import EXIT_FAILED, EXIT_LOST, Worker, main
from shoal.errors import DeviceLostError, InternalError
from tests.helpers.job_files import ForkedProcess


def forked(serve: Callable[[Worker], None] = Worker.serve) -> tuple[Connection, ForkedProcess]:
    """A worker that says hello and then does `serve`."""
    here, there = Pipe()

    def work() -> int:
        here.close()
        worker.torch.set_num_threads = lambda threads: None  # type: ignore[assignment]
        Worker.serve = serve  # type: ignore[method-assign]
        main(there.fileno(), 1, "test:0")
        return 99

    process = ForkedProcess(work)
    there.close()
    assert receive(here) == Hello()
    return here, process


def raises(error: Exception) -> Callable[[Worker], None]:
    def serve(self: Worker) -> None:
        raise error

    return serve


def test_it_ends_with_the_front() -> None:
    here, process = forked()
    assert process.poll() is None
    here.close()
    assert process.wait(20) == FRONT_GONE


def test_it_ends_with_the_front_whatever_it_does() -> None:
    def busy(self: Worker) -> None:
        while True:
            pass

    here, process = forked(busy)
    here.close()
    assert process.wait(20) == FRONT_GONE


def test_a_lost_device_has_an_exit_code_of_its_own() -> None:
    here, process = forked(raises(DeviceLostError("cuda is lost")))
    with pytest.raises(EOFError):
        receive(here)
    assert process.wait(20) == EXIT_LOST


def test_an_error_is_told_before_the_end() -> None:
    here, process = forked(raises(ZeroDivisionError("nought")))
    failed = receive(here)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, InternalError)
    assert "nought" in str(failed.error)
    assert process.wait(20) == EXIT_FAILED


def test_requests_asked_for_too_late_or_messages_too_early() -> None:
    here, process = forked()
    send(here, Spare(1))
    gave = receive(here)
    assert len(gave.requests) == 0
    send(here, Hello())
    failed = receive(here)
    assert isinstance(failed, Failed)
    assert "Hello came too early" in str(failed.error)
    assert process.wait(20) == EXIT_FAILED
