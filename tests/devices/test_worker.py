"""How a worker's process ends, in forks of this one that have no engine."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from typing import NoReturn

import pytest

from shoal.devices.messages import Hello, Release, WorkerFailed
from shoal.devices.versions import versions_here
from shoal.devices.worker import EXIT_LOST, Worker, main
from shoal.errors import DeviceLostError, InternalError
from shoal.processes import EXIT_FAILED, Parent
from tests.helpers.job_files import ForkedProcess


def forked(serve: Callable[[Worker], NoReturn] = Worker.serve) -> tuple[Parent, ForkedProcess]:
    """A worker that says hello and then does `serve`, and this end of its pipe."""
    here, there = Pipe()

    def work() -> int:
        here.close()
        Worker.serve = serve  # type: ignore[method-assign]
        return main(Parent(there), "test:0")

    process = ForkedProcess(work)
    there.close()
    pipe = Parent(here)
    assert pipe.receive() == Hello(versions_here())
    return pipe, process


def raises(error: Exception) -> Callable[[Worker], NoReturn]:
    def serve(self: Worker) -> NoReturn:
        raise error

    return serve


def test_a_lost_device_has_an_exit_code_of_its_own() -> None:
    here, process = forked(raises(DeviceLostError("cuda is lost")))
    with pytest.raises(SystemExit):
        here.receive()
    assert process.wait(20) == EXIT_LOST


def test_an_error_is_told_before_the_end() -> None:
    here, process = forked(raises(ZeroDivisionError("nought")))
    failed = here.receive()
    assert isinstance(failed, WorkerFailed)
    assert isinstance(failed.error, InternalError)
    assert "nought" in str(failed.error)
    assert process.wait(20) == EXIT_FAILED


def test_requests_asked_for_too_late_or_messages_too_early() -> None:
    here, process = forked()
    here.send(Release(1))
    released = here.receive()
    assert len(released.requests) == 0
    here.send(Hello({}))
    failed = here.receive()
    assert isinstance(failed, WorkerFailed)
    assert "Hello came too early" in str(failed.error)
    assert process.wait(20) == EXIT_FAILED
