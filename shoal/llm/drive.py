"""Driving a run from Python: its outputs, its progress, Ctrl-C."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from shoal.devices import RunProtocol
from shoal.llm.request_output import RequestOutput
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

MakeOutput = Callable[[int, Int32Array | None, Completion], RequestOutput]
"""Of a prompt's index, its tokens and what became of it."""


def refused_outputs(
    refused: Mapping[int, Completion], count: int, make: MakeOutput
) -> list[RequestOutput | None]:
    """One entry per prompt: the outputs of those that were refused, None for the others."""
    done: list[RequestOutput | None] = [None] * count
    for index, completion in refused.items():
        done[index] = make(index, None, completion)
    return done


def drive(
    run: RunProtocol,
    table: RequestTable,
    done: list[RequestOutput | None],
    make: MakeOutput,
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


def summary_of(
    run: RunProtocol, done: Sequence[RequestOutput | None], seconds: PhaseSeconds
) -> RunSummary:
    """What a run did for the prompts of a call."""
    errors = [output.error is not None for output in done if output is not None]
    summary = RunSummary(RequestCounts(len(done), errors.count(False), errors.count(True)))
    summary.seconds = seconds
    run.stats.summarise(run.planned, summary)
    return summary
