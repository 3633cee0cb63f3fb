"""The batches of a run: planned, launched, collected in order, and tried again when they fail.

Where the executor runs ahead, the next batch is planned and launched while one runs, so that the
device always has something to do. A batch that fails is tried again, and all launched after it:

- out of memory: in smaller batches, from then on for the whole run;
- otherwise: its sequences one by one, so that one bad request takes no other down.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from shoal.errors import DeviceLostError
from shoal.executor.executor import Executor, PendingResult
from shoal.model.memory import out_of_memory
from shoal.sampling.results import StepResult
from shoal.scheduler import Launched, Scheduler, TokenBatch

LEAST_BUDGET = 16
"""Tokens that a batch is not made smaller than when memory is short."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collected:
    """The oldest batch has its tokens; `Scheduler.settle` is due."""

    launched: Launched
    result: StepResult

    @property
    def batch(self) -> TokenBatch:
        """The batch."""
        return self.launched.batch


@dataclass(frozen=True)
class RequestFailed:
    """The single sequence of a batch failed again: its request is to be given up."""

    batch: TokenBatch
    error: Exception


@dataclass(frozen=True)
class TriedAgain:
    """A batch failed; its sequences are tried again."""


@dataclass(frozen=True)
class _Flight:
    """A batch launched and not collected: the scheduler's and the executor's half of it."""

    launched: Launched
    pending: PendingResult
    alone: bool
    """Whether it is of one suspected sequence."""


@dataclass(frozen=True)
class _Failure:
    """A batch that failed: at its launch, or with all that were under way by then."""

    batch: TokenBatch
    error: Exception
    alone: bool
    launched: tuple[Launched, ...] = ()


class Pipeline:
    """Drives a scheduler and an executor; the only one to know which batches are under way."""

    def __init__(self, scheduler: Scheduler, executor: Executor) -> None:
        self._scheduler, self._executor = scheduler, executor
        self._flights: deque[_Flight] = deque()
        """The batches under way, oldest first."""
        self._failure: _Failure | None = None
        """A batch that could not be launched, while older ones are under way."""

    def next(self) -> Collected | RequestFailed | TriedAgain | None:
        """What became of the oldest batch; None at the end of the run.

        Raises:
            DeviceLostError: the device, or a process that computes too, is gone.
        """
        if self._failure is None:
            self._fill()
        if self._flights:
            return self._collect()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            return self._recover(failure)
        return None

    def _fill(self) -> None:
        """Launch batches, until as many are under way as may be."""
        while len(self._flights) < (2 if self._executor.runs_ahead else 1):
            alone = self._scheduler.isolating
            batch = self._scheduler.step(self._flights[0].launched if self._flights else None)
            if batch is None:
                return
            try:
                pending = self._executor.launch(batch)
            except Exception as error:
                self._failure = _Failure(batch, error, alone)
                return
            self._flights.append(_Flight(self._scheduler.advance(batch), pending, alone))

    def _collect(self) -> Collected | RequestFailed | TriedAgain:
        flight = self._flights.popleft()
        launched = flight.launched
        try:
            return Collected(launched, self._executor.collect(flight.pending))
        except Exception as error:
            later = (each.launched for each in self._flights)
            failure = _Failure(launched.batch, error, flight.alone, (launched, *later))
        # What is pending holds tensors, whose memory `recover` is to free.
        del flight
        self._flights.clear()
        return self._recover(failure)

    def _recover(self, failure: _Failure) -> RequestFailed | TriedAgain:
        """Undo a batch, and what was launched after it, and see what to do about it."""
        batch, error = failure.batch, failure.error
        if isinstance(error, DeviceLostError):
            raise error
        smaller = out_of_memory(error) and self._scheduler.token_budget > LEAST_BUDGET
        if smaller:
            self._shrink(batch, error)
        else:
            shown = None if failure.alone else error
            kind = type(error).__name__
            _log.warning("an iteration failed: %s: %s", kind, error, exc_info=shown)
        _let_go(error)
        self._executor.recover(error)
        self._scheduler.retry(batch, failure.launched, one_by_one=not smaller)
        return RequestFailed(batch, error) if failure.alone and not smaller else TriedAgain()

    def _shrink(self, batch: TokenBatch, error: Exception) -> None:
        """Make batches smaller than one that memory was too short for."""
        half = min(self._scheduler.token_budget, batch.num_tokens) // 2
        self._scheduler.shrink(max(LEAST_BUDGET, half))
        _log.warning(
            "out of memory in a batch of %d tokens: batches have at most %d from now on, which is "
            "slower; less KV memory or a smaller token budget leaves more for them (%s)",
            batch.num_tokens,
            self._scheduler.token_budget,
            error,
        )


def _let_go(error: BaseException | None) -> None:
    """Drop the frames of a failed call, which hold its tensors."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
