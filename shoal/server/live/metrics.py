"""The text of /metrics: vLLM's names where the thing is the same, ours (`shoal:`) otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from shoal.server.live.live import EngineFigures, Live, LiveTotals
from shoal.server.messages import (
    CHOICE_BUCKETS,
    ITERATION_BUCKETS,
    REASONS,
    TOKEN_BUCKETS,
    FinishedRequests,
    Tally,
)
from shoal.server.store import states

Counts = Mapping[str, tuple[int, int, int, int]]
"""By status: batches, and their requests in all, completed, failed."""


@dataclass(frozen=True)
class Metric:
    """One metric; `samples` are values by suffix and labels of their own."""

    name: str
    kind: str
    help: str
    samples: tuple[tuple[str, Mapping[str, str], float], ...]

    def lines(self, label: Mapping[str, str]) -> list[str]:
        """In Prometheus' text format, each sample with this label besides its own."""
        lines = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}"]
        for suffix, own, value in self.samples:
            labels = ",".join(f'{key}="{_escaped(text)}"' for key, text in {**own, **label}.items())
            lines.append(f"{self.name}{suffix}{{{labels}}} {_number(value)}")
        return lines


def metrics_text(counts: Counts, figures: EngineFigures, live: Live, model: str) -> str:
    """All metrics, labelled with the model's name as vLLM's are; its own have an engine, too."""
    totals = live.totals
    theirs = [
        *_engine(counts, figures, live),
        *_tokens(totals),
        *_finished(totals.finished),
    ]
    name = {"model_name": model}
    lines = [line for metric in theirs for line in metric.lines({"engine": "0"} | name)]
    lines += [line for metric in _ours(counts, figures) for line in metric.lines(name)]
    return "\n".join([*lines, ""])


def _engine(counts: Counts, figures: EngineFigures, live: Live) -> list[Metric]:
    """What it does now."""
    run, pool = live.run, figures.kv_pool_bytes
    running = run.latest.running if run.latest is not None and run.batches else 0
    left = sum(
        total - completed - failed
        for status, (_, total, completed, failed) in counts.items()
        if status in states.RUNNING
    )
    return [
        _gauge("vllm:num_requests_running", "Sequences in the engine's batch.", running),
        _gauge("vllm:num_requests_waiting", "Requests that wait.", max(left - running, 0)),
        _gauge(
            "vllm:kv_cache_usage_perc",
            "Part of the KV pool in use, 0 to 1.",
            figures.kv_bytes / pool if pool else 0.0,
        ),
    ]


def _tokens(totals: LiveTotals) -> list[Metric]:
    prompt, computed = totals.prompt_tokens, totals.computed_tokens
    sources = {"local_compute": computed, "local_cache_hit": prompt - computed}
    sources["external_kv_transfer"] = 0
    iterations = Tally(totals.buckets, totals.iteration_tokens)
    return [
        _counter("vllm:prompt_tokens_total", "Prompt tokens processed.", prompt),
        _counters(
            "vllm:prompt_tokens_by_source_total",
            "Prompt tokens that were computed, and that were shared.",
            "source",
            sources,
        ),
        _counter(
            "vllm:prompt_tokens_cached_total",
            "Prompt tokens not computed again.",
            prompt - computed,
        ),
        _counter("vllm:generation_tokens_total", "Tokens generated.", totals.generated_tokens),
        _counter(
            "vllm:prefix_cache_queries_total",
            "Prompt tokens that could have been shared: all of them.",
            prompt,
        ),
        _counter(
            "vllm:prefix_cache_hits_total", "Prompt tokens not computed again.", prompt - computed
        ),
        _counter("vllm:num_preemptions_total", "Sequences that made room.", totals.preemptions),
        _histogram(
            "vllm:iteration_tokens_total", "Tokens per iteration.", ITERATION_BUCKETS, iterations
        ),
    ]


def _finished(finished: FinishedRequests) -> list[Metric]:
    histograms = (
        ("prompt_tokens", "Prompt tokens.", TOKEN_BUCKETS, finished.prompt_tokens),
        ("generation_tokens", "Tokens generated.", TOKEN_BUCKETS, finished.generated_tokens),
        (
            "max_num_generation_tokens",
            "Tokens of a request's longest answer.",
            TOKEN_BUCKETS,
            finished.longest,
        ),
        ("params_max_tokens", "Most tokens to generate.", TOKEN_BUCKETS, finished.max_tokens),
        ("params_n", "Answers that were asked for.", CHOICE_BUCKETS, finished.choices),
    )
    return [
        _counters(
            "vllm:request_success_total",
            "Requests that have finished.",
            "finished_reason",
            dict(zip(REASONS, finished.reasons, strict=True)),
        ),
        *(
            _histogram(f"vllm:request_{name}", help, bounds, tally)
            for name, help, bounds, tally in histograms
        ),
    ]


def _ours(counts: Counts, figures: EngineFigures) -> list[Metric]:
    every = (*states.UNFINISHED, *states.FINISHED)
    batches = tuple(
        ("", {"status": status}, float(counts.get(status, (0,))[0])) for status in every
    )
    outcomes = tuple(
        ("", {"outcome": name}, float(sum(row[place] for row in counts.values())))
        for name, place in (("completed", 2), ("failed", 3))
    )
    return [
        Metric("shoal:batches", "gauge", "Batches by status.", batches),
        Metric("shoal:requests", "gauge", "Requests of all batches with a result.", outcomes),
        _gauge(
            "shoal:tokens_per_second",
            "Tokens computed and generated per second by the batch that runs.",
            figures.tokens_per_second,
        ),
        _gauge("shoal:engine_ready", "1: the model is loaded.", figures.state == "ready"),
        _counter("shoal:engine_restarts_total", "Ends of the engine's process.", figures.restarts),
    ]


def _gauge(name: str, help: str, value: float) -> Metric:
    return Metric(name, "gauge", help, (("", {}, float(value)),))


def _counter(name: str, help: str, value: float) -> Metric:
    return Metric(name, "counter", help, (("", {}, float(value)),))


def _counters(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    samples = tuple(("", {label: key}, float(value)) for key, value in values.items())
    return Metric(name, "counter", help, samples)


def _histogram(name: str, help: str, bounds: Sequence[int], tally: Tally) -> Metric:
    """Each bucket counts what is below its bound."""
    counts = tally.counts or (0,) * (len(bounds) + 1)
    keys = [*(f"{bound:.1f}" for bound in bounds), "+Inf"]
    below = [float(value) for value in accumulate(counts)]
    buckets = tuple(("_bucket", {"le": key}, value) for key, value in zip(keys, below, strict=True))
    total = ("_sum", dict[str, str](), float(tally.total))
    return Metric(name, "histogram", help, (*buckets, total, ("_count", {}, below[-1])))


def _number(value: float) -> str:
    """Whole numbers with all their digits: a counter that is rounded stands still."""
    return str(int(value)) if value.is_integer() else repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
