"""What runs in the process of one device: an engine that takes its requests from a pipe."""

from __future__ import annotations

import copy
import logging
import os
import signal
import time
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np
import torch

from shoal.devices.channel import Channel
from shoal.devices.messages import (
    Ended,
    Failed,
    Gave,
    Hello,
    Load,
    Piece,
    Prepare,
    Prepared,
    Ready,
    Spare,
    Started,
    Update,
)
from shoal.engine.engine import Engine, Run
from shoal.errors import DeviceLostError, InternalError, ShoalError
from shoal.machine.calibration_cache import remembered
from shoal.types import Completion

UPDATE_SECONDS = 0.05
"""Between two updates, at least."""
EXIT_FAILED, EXIT_LOST = 1, 75

_log = logging.getLogger(__name__)


def main(fd: int, threads: int, name: str) -> None:
    """Serve the front until it is gone.

    Args:
        fd: the worker's end of the pipe.
        threads: for what is computed on the CPU.
        name: of the device, for messages.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front decides what Ctrl-C does
    logging.basicConfig(format=f"{name}: %(message)s")
    torch.set_num_threads(threads)
    channel = Channel(Connection(fd))
    channel.send(Hello())
    try:
        Worker(channel).serve()
    except DeviceLostError as error:
        _log.warning("%s", error)
        code = EXIT_LOST
    except Exception as error:
        channel.send(Failed(_portable(error)))
        code = EXIT_FAILED
    channel.flush()
    os._exit(code)


class Worker:
    """Runs pieces one after another."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def serve(self) -> None:
        """Answer messages for ever; raises what the engine raises."""
        prepare: Prepare | None = None
        engine: Engine | None = None
        while True:
            match self._channel.receive():
                case Prepare() as prepare:
                    self._channel.send(Prepared(_measured(prepare)))
                case Load() if prepare is not None:
                    engine = Engine(prepare.description, prepare.options)
                    self._channel.send(Ready(engine.machine))
                case Piece() as piece if engine is not None:
                    self._run(engine, piece)
                case Spare():
                    # It crossed the end of the piece.
                    self._channel.send(Gave(np.zeros(0, dtype=np.int64)))
                case message:
                    raise InternalError(f"{type(message).__name__} came too early")

    def _run(self, engine: Engine, piece: Piece) -> None:
        run = engine.run(piece.table)
        self._channel.send(Started(run.planned))
        updates = _Updates(self._channel, run, piece)
        for completions in run:
            updates.add(completions)
            match self._channel.poll():
                case Spare(parts):
                    self._channel.send(Gave(piece.requests[run.release(parts)]))
                case None:
                    pass
                case message:
                    raise InternalError(f"{type(message).__name__} came during a piece")
        updates.send()
        self._channel.send(Ended())


class _Updates:
    """Tells the front what a run does, not too often."""

    def __init__(self, channel: Channel, run: Run, piece: Piece) -> None:
        self._channel, self._run, self._piece = channel, run, piece
        self._completions: list[Completion] = []
        self._traced = 0
        self._sent_at = time.monotonic()

    def add(self, completions: list[Completion]) -> None:
        """Take what an iteration finished."""
        for completion in completions:
            number = int(self._piece.requests[completion.request_index])
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


def _measured(prepare: Prepare) -> bool:
    """Whether loading measures nothing."""
    return prepare.options.token_budget is not None or remembered(prepare.description) is not None


def _portable(error: Exception) -> Exception:
    """The error, for another process to raise: as it is if it was raised on purpose."""
    if isinstance(error, ShoalError):
        return error
    return InternalError("".join(traceback.format_exception(error)))
