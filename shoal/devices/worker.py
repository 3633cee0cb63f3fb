"""What runs in the process of one device: an engine that takes its requests from a pipe."""

from __future__ import annotations

import copy
import logging
import queue
import threading
import time
import traceback
from dataclasses import replace
from typing import NoReturn

import numpy as np

from shoal.devices.messages import (
    Assign,
    Cancel,
    Configure,
    Configured,
    Ended,
    FromWorker,
    Hello,
    Load,
    Ready,
    Release,
    Released,
    Started,
    ToWorker,
    Update,
    WorkerFailed,
)
from shoal.devices.versions import refuse_other_files, versions_here
from shoal.engine.engine import Engine, Run
from shoal.errors import DeviceLostError, InternalError, ShoalError
from shoal.machine.calibration_cache import remembered
from shoal.processes import EXIT_FAILED, Parent
from shoal.types import Completion

UPDATE_SECONDS = 0.05
"""Between two updates, at least."""
EXIT_LOST = 75
"""The exit code of a worker whose device is lost."""

_log = logging.getLogger(__name__)


def main(parent: Parent, name: str) -> int:
    """Do what the parent says; the exit code after an error.

    Args:
        name: of the device, for messages.
    """
    logging.basicConfig(format=f"{name}: %(message)s")
    channel = Channel(parent)
    channel.send(Hello(versions_here()))
    code = EXIT_FAILED
    try:
        Worker(channel).serve()
    except DeviceLostError as error:
        _log.warning("%s", error)
        code = EXIT_LOST
    except Exception as error:
        channel.send(WorkerFailed(_portable(error)))
    channel.flush()
    return code


class Channel:
    """Messages from and to the parent; a thread sends, so that an iteration never waits for it."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._outbox: queue.SimpleQueue[FromWorker | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def send(self, message: FromWorker) -> None:
        """Queue a message; what it holds must not change any more."""
        self._outbox.put(message)

    def receive(self) -> ToWorker:
        """Wait for a message."""
        message: ToWorker = self._parent.receive()
        return message

    def poll(self) -> ToWorker | None:
        """A message if one has come."""
        message: ToWorker | None = self._parent.poll()
        return message

    def flush(self) -> None:
        """Wait until everything is sent; nothing can be sent afterwards."""
        self._outbox.put(None)
        self._sender.join()

    def _send(self) -> None:
        while (message := self._outbox.get()) is not None:
            self._parent.send(message)


class Worker:
    """Runs what it is assigned, one table after another."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def serve(self) -> NoReturn:
        """Answer messages for ever; raises what the engine raises."""
        configure: Configure | None = None
        engine: Engine | None = None
        while True:
            match self._channel.receive():
                case Configure() as configure:
                    if configure.compared:
                        refuse_other_files(configure.description)
                    self._channel.send(Configured(_measured(configure)))
                case Load() if configure is not None:
                    engine = Engine(configure.description, configure.options)
                    self._channel.send(Ready(engine.machine))
                case Assign() as assigned if engine is not None:
                    self._run(engine, assigned)
                case Release():
                    # It crossed the end of what was assigned.
                    self._channel.send(Released(np.zeros(0, dtype=np.int64)))
                case Cancel():
                    pass  # it crossed the end too
                case message:
                    raise InternalError(f"{type(message).__name__} came too early")

    def _run(self, engine: Engine, assigned: Assign) -> None:
        run = engine.run(assigned.table)
        self._channel.send(Started(run.planned))
        updates = _Updates(self._channel, run, assigned)
        kept = np.ones(len(assigned.requests), dtype=np.bool_)
        for completions in run:
            updates.add(completions)
            match self._channel.poll():
                case Release(parts):
                    released = run.release(parts)
                    kept[released] = False
                    self._channel.send(Released(assigned.requests[released]))
                case Cancel(requests):
                    run.cancel(np.flatnonzero(kept & np.isin(assigned.requests, requests)))
                case None:
                    pass
                case message:
                    raise InternalError(f"{type(message).__name__} came during a run")
        updates.send()
        self._channel.send(Ended())


class _Updates:
    """Tells the parent what a run does, not too often."""

    def __init__(self, channel: Channel, run: Run, assigned: Assign) -> None:
        self._channel, self._run, self._assigned = channel, run, assigned
        self._completions: list[Completion] = []
        self._traced = 0
        self._sent_at = time.monotonic()

    def add(self, completions: list[Completion]) -> None:
        """Take what an iteration finished."""
        for completion in completions:
            number = int(self._assigned.requests[completion.request_index])
            self._completions.append(replace(completion, request_index=number))
        if time.monotonic() - self._sent_at >= UPDATE_SECONDS:
            self.send()

    def send(self) -> None:
        """Send what there is."""
        rows = self._run.trace.rows(self._traced)
        self._traced += len(rows)
        self._channel.send(Update(self._completions, copy.deepcopy(self._run.stats), rows))
        self._completions = []
        self._sent_at = time.monotonic()


def _measured(configure: Configure) -> bool:
    """Whether loading measures nothing."""
    return (
        configure.options.token_budget is not None or remembered(configure.description) is not None
    )


def _portable(error: Exception) -> Exception:
    """The error, for another process to raise: as it is if it was raised on purpose."""
    if isinstance(error, ShoalError):
        return error
    return InternalError("".join(traceback.format_exception(error)))
