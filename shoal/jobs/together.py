"""Several jobs in one run of the engine: planned together, each with its own journal and files.

What one shares with another is computed once. Each ends for itself, as soon as it can. While the
engine computes, a thread beside it journals what it gave: the disk of a hundred jobs takes long.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from shoal.errors import InternalError, Interrupted, ShoalError
from shoal.jobs.collect import remaining_tokens
from shoal.jobs.execute import kv_capacity_tokens, progress
from shoal.jobs.job import start_of
from shoal.jobs.job_result import JobResult
from shoal.jobs.job_start import Describe, JobStart
from shoal.jobs.journal import GROUP_SECONDS
from shoal.jobs.open_job import OpenJob
from shoal.jobs.spec import JobSpec
from shoal.progress import Reporter
from shoal.prompts.render import Renderer
from shoal.types import Completion, RunSummary, joined

if TYPE_CHECKING:
    from shoal.config import EngineOptions
    from shoal.devices import RunProtocol, SharedEngine, SharedRun
    from shoal.model.description import ModelDescription

SharedEngineFactory: TypeAlias = "Callable[[ModelDescription, EngineOptions], SharedEngine]"
"""Makes the engine of a run, which closes it."""
_SYNCED_AT_A_TIME = 8
"""Journals that may be synced every `GROUP_SECONDS`; of more jobs each is synced less often."""


@dataclass(frozen=True)
class JobOfSeveral:
    """One of the jobs.

    Attributes:
        reporter: shows how far it is; its rates are those of the whole run.
        asked: whether somebody wants this job interrupted, looked at in every iteration.
    """

    spec: JobSpec
    reporter: Reporter
    asked: Callable[[], bool] = lambda: False


Outcome: TypeAlias = JobResult | ShoalError | OSError | Interrupted
"""What became of a job, or why it did not come to its end; `Interrupted` if it was asked for."""


def run_together(
    jobs: Sequence[JobOfSeveral],
    engine: SharedEngineFactory,
    describe: Describe,
    ended: Callable[[int, Outcome], None],
) -> RunSummary:
    """Run jobs of one kind for one model, as `run_job` would run each: its texts are the same.

    One that cannot go on, or is interrupted, leaves the others going. Signals are not looked at.

    Args:
        engine: makes the engine, which is closed at the end.
        describe: the model; the same object for all jobs.
        ended: told the number of a job and what became of it, while the others may still run.

    Returns:
        The summary of the run; its requests count all jobs.
    """
    together = _Together(jobs, describe, ended)
    try:
        together.run(engine)
    except ShoalError as error:
        together.end_all(error)
    finally:
        together.close()
    return together.summary


class _Member:
    """A job that has not ended.

    Attributes:
        first: of its requests, in the table of all.
        work: what the thread beside the engine does for it; None: nothing.
    """

    def __init__(self, number: int, start: JobStart) -> None:
        self.number, self._start = number, start
        self.work: Future[JobResult | None] | None = None
        self._stack = ExitStack()
        self.first = 0
        self.opened = self._stack.enter_context(start.opened())
        self._stack.enter_context(start.reporter)

    @property
    def job(self) -> OpenJob:
        """It is under way."""
        if isinstance(self.opened, JobResult):
            raise InternalError("the job has finished")
        return self.opened

    @property
    def requests(self) -> range:
        """Its requests in the table of all."""
        return range(self.first, self.first + len(self.job.requests))

    def finish(self) -> JobResult:
        """Put its files in place."""
        summary = RunSummary(requests=self.job.finish())
        return self._start.result(summary, self.job.header, already_finished=False)

    def close(self) -> None:
        """Let go of its journal and input."""
        self._stack.close()


class _Together:
    """The jobs, and those of them that have not ended."""

    def __init__(
        self,
        jobs: Sequence[JobOfSeveral],
        describe: Describe,
        ended: Callable[[int, Outcome], None],
    ) -> None:
        self._jobs, self._describe, self._ended = jobs, describe, ended
        self._open: dict[int, _Member] = {}
        self._run: SharedRun | None = None
        self.summary = RunSummary()

    def run(self, make_engine: SharedEngineFactory) -> None:
        """Bring every job to its end."""
        for number, job in enumerate(self._jobs):
            self._open_one(number, job)
        if not self._open:
            return
        first = next(iter(self._open.values())).job
        if any(member.job.description is not first.description for member in self._members):
            raise InternalError("jobs for several models cannot be run together")
        options = self._jobs[0].spec.options
        began = time.perf_counter()
        engine = make_engine(first.description, options)
        try:
            self.summary.seconds.load = time.perf_counter() - began
            stated = kv_capacity_tokens(first.description, options)
            renderer = Renderer(first.description.tokenizer)  # what one job finds out, all know
            self._read(engine.machine.kv_tokens if stated is None else stated, renderer)
            if self._open:
                planning = time.perf_counter()
                tables = [member.job.requests for member in self._members]
                self._run = engine.run(joined(tables))
                self.summary.seconds.plan = time.perf_counter() - planning
                self._drive(self._run)
        finally:
            engine.close()

    @property
    def _members(self) -> list[_Member]:
        return list(self._open.values())

    def _open_one(self, number: int, job: JobOfSeveral) -> None:
        try:
            start = start_of(job.spec, job.reporter, job.asked, self._describe)
            member = _Member(number, start)
        except (ShoalError, OSError, Interrupted) as error:
            self._ended(number, error)
            return
        self._open[number] = member
        if isinstance(member.opened, JobResult):
            self._end(member, member.opened)
            return
        waits = max(1.0, len(self._jobs) / _SYNCED_AT_A_TIME)
        member.job.journal.group_seconds = waits * GROUP_SECONDS

    def _read(self, capacity_tokens: int, renderer: Renderer) -> None:
        first = 0
        for member in self._members:
            self._attempt(member, partial(_read, member, capacity_tokens, renderer))
            if member.number in self._open:
                member.first = first
                first += len(member.job.requests)

    def _drive(self, run: RunProtocol) -> None:
        """Every iteration of the run, also when all jobs have ended: their requests end with it.

        What an iteration gave is journaled while the next one is computed, and looked at after it.
        """
        began, members = time.perf_counter(), self._members
        firsts = [member.first for member in members]
        planned = run.planned.computed_prompt_tokens
        with ThreadPoolExecutor(1, thread_name_prefix="journals") as beside:

            def look() -> None:
                self._settle()
                collectors = [member.job.collector for member in self._members]
                left = remaining_tokens(run.stats, planned, collectors)
                seconds = time.perf_counter() - began
                for member in self._members:
                    look_at = partial(_look, member, run, left, seconds, beside)
                    self._attempt(member, look_at)

            for completions in run:
                look()
                parts = _parts(completions, firsts)
                for at, member in enumerate(members):
                    if member.number in self._open and member.work is None:
                        take = partial(_take, member, parts.get(at, ()))
                        member.work = beside.submit(take)
            look()
            self._settle()
        self.summary.seconds.run = time.perf_counter() - began
        run.stats.summarise(run.planned, self.summary)
        if self._open:
            raise InternalError(f"the engine ended with {len(self._open)} jobs unfinished")

    def _settle(self) -> None:
        """Wait for the thread beside the engine."""
        for member in self._members:
            if (work := member.work) is not None:
                member.work = None
                self._attempt(member, work.result)

    def _attempt(self, member: _Member, action: Callable[[], JobResult | None]) -> None:
        """Do something for one job. If it fails, or was the last there is, that job ends alone."""
        try:
            outcome: Outcome | None = action()
        except (ShoalError, OSError, Interrupted) as error:
            outcome = error
        if outcome is not None:
            self._end(member, outcome)

    def _end(self, member: _Member, outcome: Outcome) -> None:
        """A job has ended; what it has not finished is not run on."""
        del self._open[member.number]
        if isinstance(outcome, JobResult):
            counts, of_all = outcome.summary.requests, self.summary.requests
            of_all.total += counts.total
            of_all.succeeded += counts.succeeded
            of_all.failed += counts.failed
        elif self._run is not None:
            self._run.cancel(np.asarray(member.requests, dtype=np.int64))
        member.close()  # before anybody is told: they may want the files
        self._ended(member.number, outcome)

    def end_all(self, error: ShoalError) -> None:
        """The run cannot go on; what was done for jobs beside it counts."""
        self._run = None
        self._settle()
        for member in self._members:
            self._end(member, error)

    def close(self) -> None:
        """Let go of what is open still."""
        for member in self._members:
            member.close()


def _read(member: _Member, capacity_tokens: int, renderer: Renderer) -> JobResult | None:
    """Read a job; one of which nothing is left to run is finished."""
    member.job.read(capacity_tokens, renderer=renderer)
    return None if len(member.job.requests) else member.finish()


def _take(member: _Member, completions: Sequence[Completion]) -> JobResult | None:
    """Journal what an iteration gave; whether it was the last is looked at afterwards."""
    member.job.take(completions)
    return None


def _look(
    member: _Member, run: RunProtocol, remaining: int, seconds: float, beside: ThreadPoolExecutor
) -> None:
    """Say how far a job is, while nothing is done for it; its files are put in place at its end."""
    job = member.job
    job.reporter.update(progress(job, run, remaining, seconds))
    if not job.collector.unfinished:
        member.work = beside.submit(member.finish)
    elif job.interruption.requested:
        job.journal.flush()
        job.interruption.check()


def _parts(completions: Sequence[Completion], firsts: Sequence[int]) -> dict[int, list[Completion]]:
    """Completions by place in `firsts`, each numbered as in the table of its own job."""
    parts: dict[int, list[Completion]] = defaultdict(list)
    for completion in completions:
        at = bisect_right(firsts, completion.request_index) - 1
        own = completion.request_index - firsts[at]
        parts[at].append(replace(completion, request_index=own))
    return parts
