"""Driving a run from Python: its outputs, its progress, Ctrl-C."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np

from shoal.devices import RunProtocol
from shoal.errors import GenerationInterrupted, InvalidRequestError, ShoalError
from shoal.progress import ProgressState, make_reporter
from shoal.signals import Interruption
from shoal.types import (
    Completion,
    Int32Array,
    PhaseSeconds,
    RequestCounts,
    RequestTable,
    RunSummary,
)


class Output(Protocol):
    """What a call returns for a prompt."""

    @property
    def error(self) -> InvalidRequestError | None:
        """Why there is nothing else."""


T = TypeVar("T", bound=Output)

MakeOutput = Callable[[int, Int32Array | None, Completion], T]
"""Of a prompt's index, its tokens and what became of it."""


def refused_outputs(
    refused: Mapping[int, Completion], count: int, make: MakeOutput[T]
) -> list[T | None]:
    """One entry per prompt: the outputs of those that were refused, None for the others."""
    done: list[T | None] = [None] * count
    for index, completion in refused.items():
        done[index] = make(index, None, completion)
    return done


def drive(
    run: RunProtocol,
    table: RequestTable,
    done: list[T | None],
    make: MakeOutput[T],
    progress: bool,
) -> None:
    """Drive a run to its end and put its outputs where their prompts are.

    Ctrl-C lets the iteration under way finish, a second one does not.
    """
    began = time.perf_counter()
    planned = run.planned.computed_prompt_tokens
    planned += int((table.expected_output.astype(np.int64) * table.choices).sum())
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    interruption = Interruption("interrupted", [signal.SIGINT] if ours else [])
    finished = len(done) - len(table)
    with (
        interruption.installed(),
        interruption.deferred(),
        make_reporter(quiet=not progress) as reporter,
    ):
        for completions in run:
            for completion in completions:
                request = completion.request_index
                index = int(table.line[request])
                done[index] = make(index, table.prompt(request), completion)
            finished += len(completions)
            tokens = run.stats.prompt_tokens_computed + run.stats.generated_tokens
            reporter.update(
                ProgressState(
                    done=finished,
                    total=len(done),
                    tokens=tokens,
                    remaining_tokens=max(0, planned - tokens),
                    seconds=time.perf_counter() - began,
                    kv_bytes=run.stats.kv_bytes_in_use,
                )
            )
            if interruption.requested:
                break
    interruption.check()


@contextmanager
def done_in_errors(done: Sequence[Output | None]) -> Iterator[None]:
    """Give what ends a run the outputs that are done, in its `outputs`."""
    try:
        yield
    except KeyboardInterrupt as error:
        count = sum(output is not None for output in done)
        raise GenerationInterrupted(
            f"interrupted with {count:,} of {len(done):,} prompts done; they are in "
            "`outputs` of this exception.",
            list(done),
        ) from error
    except ShoalError as error:
        error.outputs = list(done)
        count = sum(output is not None for output in done)
        error.add_note(
            f"From Python: {count:,} of {len(done):,} prompts were done before. They are in "
            "`outputs` of this exception, and saved nowhere else."
        )
        raise


def summary_of(
    run: RunProtocol, done: Sequence[Output | None], seconds: PhaseSeconds
) -> RunSummary:
    """What a run did for the prompts of a call."""
    errors = [output.error is not None for output in done if output is not None]
    summary = RunSummary(RequestCounts(len(done), errors.count(False), errors.count(True)))
    summary.seconds = seconds
    run.stats.summarise(run.planned, summary)
    return summary
