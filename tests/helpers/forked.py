"""Worker processes started from a fork server that has imported everything, in a tenth of a second.

The product starts a new Python (`shoal.processes.spawn`), which takes seconds to import torch; one
test in `tests/e2e` does it that way.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess, ForkServerProcess
from typing import BinaryIO

import pytest
import torch
from transformers.utils.import_utils import is_accelerate_available

from shoal.errors import UnsupportedModelError
from shoal.model.description import ModelDescription
from shoal.processes import parent
from shoal.tensor_parallel import rank_worker
from shoal.tensor_parallel.shard import Shard

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["shoal.cli", "shoal.jobs", "shoal.tables", "shoal.devices"])


class Forked:
    """What `spawn.Process` asks for, of a forked process."""

    def __init__(self, process: ForkServerProcess | ForkProcess) -> None:
        assert process.pid is not None
        self.pid, self._process, self._lock = process.pid, process, threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        if not connection.wait([self._process.sentinel], timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        with self._lock:  # The fork server tells the exit code once.
            self._process.join()
            assert self._process.exitcode is not None
            return self._process.exitcode

    def kill(self) -> None:
        os.kill(self.pid, 9)


def as_if_accelerate_were_installed(patch: pytest.MonkeyPatch) -> None:
    """transformers asks for the package wherever a device is named, but for one uses nothing of it.

    With this the tests run without it too; where it is installed nothing is changed.
    """
    if not is_accelerate_available():
        for place in (
            "transformers.integrations.accelerate",
            "shoal.tensor_parallel.sharded_model",
        ):
            patch.setattr(f"{place}.is_accelerate_available", lambda: True)


def launch(
    control: Connection,
    lifeline: int,
    output: BinaryIO | None,
    variables: Mapping[str, str],
    prepare: Callable[[], object] | None = None,
) -> Forked:
    """In place of `processes.spawn.spawn`; `prepare` is called in the process first."""
    assert output is not None
    pipes = (control, Connection(os.dup(lifeline)), Connection(os.dup(output.fileno())))
    threads = int(variables["OMP_NUM_THREADS"])
    process = CONTEXT.Process(target=_child, args=(*pipes, threads, prepare), daemon=True)
    process.start()
    for pipe in pipes[1:]:
        pipe.close()
    return Forked(process)


def launch_in_a_child(
    control: Connection, lifeline: int, output: BinaryIO | None, variables: Mapping[str, str]
) -> Forked:
    """As `launch`, by a fork: for a process that came from the fork server and computed nothing."""
    assert output is not None
    printed = output.fileno()
    kept = {0, 1, 2, control.fileno(), lifeline, printed}

    def run() -> None:
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        _child(control, Connection(lifeline), Connection(printed), 1, None)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    return Forked(process)


def spoilt(poison: int) -> Callable[..., Forked]:
    """A `launch` whose process fails at batches with a token, between two exchanges."""
    return partial(launch, prepare=partial(_spoil, poison))


def _child(
    control: Connection,
    lifeline: Connection,
    output: Connection,
    threads: int,
    prepare: Callable[[], object] | None,
) -> None:
    os.setsid()
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    torch.set_num_threads(threads)
    as_if_accelerate_were_installed(pytest.MonkeyPatch())
    if prepare is not None:
        prepare()
    parent.main(control.fileno(), lifeline.fileno())


def _spoil(poison: int) -> None:
    load_shard = rank_worker.load_shard

    def load_spoilt(description: ModelDescription, rank: int) -> Shard:
        shard = load_shard(description, rank)
        poisoned = False

        def look(module: torch.nn.Module, args: object, keywords: dict[str, torch.Tensor]) -> None:
            nonlocal poisoned
            poisoned = bool((keywords["input_ids"] == poison).any())

        def fail(*call: object) -> None:
            if poisoned:
                raise torch.OutOfMemoryError("no memory")

        shard.model.module.register_forward_pre_hook(look, with_kwargs=True)
        shard.model.module.model.layers[1].mlp.register_forward_pre_hook(fail)
        return shard

    rank_worker.load_shard = load_spoilt


def _lose_the_model() -> None:
    def load(description: ModelDescription, rank: int) -> Shard:
        raise OSError("no such weights")

    rank_worker.load_shard = load


launch_without_a_model = partial(launch, prepare=_lose_the_model)
"""A `launch` whose process cannot load its part."""


def refuse(*arguments: object) -> None:
    """In place of the probe of a model."""
    raise UnsupportedModelError("unknown", "an unknown feature")


def _refuse_the_model() -> None:
    pytest.MonkeyPatch().setattr("shoal.model.load.probe_attention", refuse)


launch_with_an_unknown_feature = partial(launch, prepare=_refuse_the_model)
"""A `launch` whose process finds that the model cannot be run."""
