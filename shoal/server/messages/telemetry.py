"""What the engine's process tells of its run twice a second, besides counts of requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.server.messages.finished_requests import FinishedRequests

ITERATION_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Upper bounds of the histogram of tokens per iteration, as vLLM's."""


@dataclass(frozen=True)
class TracePoint:
    """What the iterations since the point before held, on average.

    Attributes:
        seconds: of the run, at the end of the last of them.
        iterations: how many there were.
        decode, prefill: tokens per iteration.
        kv_bytes: KV memory in use after the last of them.
    """

    seconds: float
    iterations: int
    decode: float
    prefill: float
    kv_bytes: int


@dataclass(frozen=True)
class Telemetry:
    """What happened in a run since it was last told.

    Attributes:
        point: None before the first iteration.
        running: sequences that are computed.
        remaining_seconds: until the run's end, as far as expected; None: not known yet.
        part: of the run's work that is done, 0 to 1, as far as expected.
        prompt_tokens: of the prompts that were processed, those shared among them.
        computed_tokens: of `prompt_tokens`, those that were computed.
        generated_tokens: new ones.
        preemptions: sequences that had to make room.
        buckets: iterations by their tokens, one count per `ITERATION_BUCKETS` and one beyond.
        iteration_tokens: of all these iterations.
        finished: requests that have finished.
    """

    point: TracePoint | None
    running: int
    remaining_seconds: float | None
    part: float
    prompt_tokens: int
    computed_tokens: int
    generated_tokens: int
    preemptions: int
    buckets: tuple[int, ...]
    iteration_tokens: int
    finished: FinishedRequests = field(default_factory=FinishedRequests)
