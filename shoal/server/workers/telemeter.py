"""Looks at a run from within the engine's process, and tells the server twice a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from shoal.devices import RunProtocol, SharedRun
from shoal.engine.trace import TRACE_COLUMNS
from shoal.progress import ProgressState
from shoal.server.messages import ITERATION_BUCKETS, FinishedRequests, Telemetry, TracePoint
from shoal.server.workers.watched_run import WatchedRun
from shoal.types import Completion, RequestTable

TELL_SECONDS = 0.5
"""Between two tellings, at least."""


class Telemeter:
    """Tells of one run: `began`, `update` every iteration, `ended`."""

    def __init__(self, send: Callable[[Telemetry], None]) -> None:
        self._send = send
        self._run: RunProtocol | None = None
        self._table: RequestTable | None = None
        self._finished: list[Completion] = []
        """Since it was last told."""
        self._state: ProgressState | None = None
        self._next = 0.0
        self._told = (0, 0, 0, 0)
        self._rows = 0

    def began(self, run: SharedRun, table: RequestTable) -> SharedRun:
        """From here on it is about this run; what is returned is to be iterated over instead."""
        self._run, self._table = run, table
        self._told, self._rows, self._finished = (0, 0, 0, 0), 0, []
        return WatchedRun(run, self._finished.extend)

    def update(self, state: ProgressState) -> None:
        """Tell, unless it was done just now."""
        self._state = state
        if time.monotonic() >= self._next:
            self._tell()
            self._next = time.monotonic() + TELL_SECONDS

    def ended(self) -> None:
        """Tell the rest."""
        if self._run is not None and self._state is not None:
            self._tell()
        self._run = self._table = None

    def _tell(self) -> None:
        run, state = self._run, self._state
        if run is None or state is None or self._table is None:
            return
        stats, planned = run.stats, run.planned
        once = stats.prompt_tokens_computed - stats.prompt_tokens_recomputed
        # What is shared is processed in step with what is computed: exact at the run's end.
        share = once / max(planned.computed_prompt_tokens, 1)
        processed = max(round(planned.prompt_tokens * min(share, 1.0)), once)
        now = (processed, once, stats.generated_tokens, stats.preemptions)
        new = [b - a for a, b in zip(self._told, now, strict=True)]
        self._told = now
        rows = run.trace.rows(self._rows)
        self._rows += len(rows)
        column = dict(zip(TRACE_COLUMNS, rows.T, strict=True))
        prefill = column["shared"] + column["own"]
        tokens = column["decode"] + prefill
        point = None
        if len(rows):
            point = TracePoint(
                seconds=float(column["seconds"][-1]),
                iterations=len(rows),
                decode=float(column["decode"].mean()),
                prefill=float(prefill.mean()),
                kv_bytes=state.kv_bytes,
            )
        bucket = np.searchsorted(ITERATION_BUCKETS, tokens)
        counts = np.bincount(bucket, minlength=len(ITERATION_BUCKETS) + 1)
        finished = FinishedRequests.of(self._finished, self._table)
        self._finished.clear()
        self._send(
            Telemetry(
                point=point,
                running=stats.running_sequences,
                remaining_seconds=state.remaining_seconds,
                part=state.tokens / max(state.tokens + state.remaining_tokens, 1),
                prompt_tokens=new[0],
                computed_tokens=new[1],
                generated_tokens=new[2],
                preemptions=new[3],
                buckets=tuple(counts.tolist()),
                iteration_tokens=int(tokens.sum()),
                finished=finished,
            )
        )
