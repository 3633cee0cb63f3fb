"""What the engine is doing now, as pages and metrics show it; written by the runner alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from shoal.server.messages import ITERATION_BUCKETS, FinishedRequests, Telemetry, TracePoint

MOST_POINTS = 240
"""Of a run's curve; when there are more, neighbours are joined: it always shows the whole run."""


@dataclass
class EngineFigures:
    """What the engine is doing; `state` is `loading` or `ready`."""

    state: str = "loading"
    restarts: int = 0
    tokens_per_second: float = 0.0
    kv_bytes: int = 0
    kv_pool_bytes: int = 0


@dataclass(frozen=True)
class LiveRun:
    """The run under way, or the last one.

    Attributes:
        number: of the run, from 1; 0: there was none yet.
        batches: whose requests it runs; none: it has ended.
        points: its curve, each with a number that grows.
        latest: what was told last.
    """

    number: int = 0
    batches: tuple[str, ...] = ()
    points: tuple[tuple[int, TracePoint], ...] = ()
    latest: Telemetry | None = None

    def points_after(self, number: int) -> list[tuple[int, TracePoint]]:
        """What is new to somebody who has seen everything up to this number."""
        return [point for point in self.points if point[0] > number]


@dataclass(frozen=True)
class LiveTotals:
    """Counts since the server started."""

    prompt_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    buckets: tuple[int, ...] = field(default=(0,) * (len(ITERATION_BUCKETS) + 1))
    iteration_tokens: int = 0
    finished: FinishedRequests = field(default_factory=FinishedRequests)

    def plus(self, told: Telemetry) -> LiveTotals:
        """With what is new."""
        return LiveTotals(
            self.prompt_tokens + told.prompt_tokens,
            self.computed_tokens + told.computed_tokens,
            self.generated_tokens + told.generated_tokens,
            self.preemptions + told.preemptions,
            tuple(a + b for a, b in zip(self.buckets, told.buckets, strict=True)),
            self.iteration_tokens + told.iteration_tokens,
            self.finished.plus(told.finished),
        )


class Live:
    """The run and the totals; any thread may read them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run, self._totals, self._points = LiveRun(), LiveTotals(), 0

    @property
    def run(self) -> LiveRun:
        """As it is now."""
        with self._lock:
            return self._run

    @property
    def totals(self) -> LiveTotals:
        """As they are now."""
        with self._lock:
            return self._totals

    def begin(self, batches: tuple[str, ...]) -> None:
        """A run begins; its curve is empty."""
        with self._lock:
            self._run = LiveRun(self._run.number + 1, batches)

    def take(self, told: Telemetry) -> None:
        """Something was told."""
        with self._lock:
            points = self._run.points
            if told.point is not None:
                self._points += 1
                points = thinned((*points, (self._points, told.point)))
            self._run = replace(self._run, points=points, latest=told)
            self._totals = self._totals.plus(told)

    def leave(self, batch: str) -> None:
        """A batch has ended; the run goes on without it."""
        with self._lock:
            left = tuple(id for id in self._run.batches if id != batch)
            self._run = replace(self._run, batches=left)

    def end(self) -> None:
        """The run has ended; its curve stays until the next begins."""
        with self._lock:
            self._run = replace(self._run, batches=())


def thinned(
    points: tuple[tuple[int, TracePoint], ...], most: int = MOST_POINTS
) -> tuple[tuple[int, TracePoint], ...]:
    """At most so many points: where there are more, each two neighbours become one."""
    if len(points) <= most:
        return points
    pairs = zip(points[::2], points[1::2], strict=False)
    joined = tuple((last[0], _joined(first[1], last[1])) for first, last in pairs)
    return joined + points[len(joined) * 2 :]


def _joined(a: TracePoint, b: TracePoint) -> TracePoint:
    iterations = a.iterations + b.iterations
    return TracePoint(
        seconds=b.seconds,
        iterations=iterations,
        decode=(a.decode * a.iterations + b.decode * b.iterations) / iterations,
        prefill=(a.prefill * a.iterations + b.prefill * b.iterations) / iterations,
        kv_bytes=max(a.kv_bytes, b.kv_bytes),
    )
