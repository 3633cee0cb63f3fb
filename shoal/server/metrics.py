"""The text of /metrics: vLLM's names where the thing is the same, ours (`shoal:`) otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shoal.server import states
from shoal.server.live import Live
from shoal.server.runner import EngineFigures
from shoal.server.telemetry import ITERATION_BUCKETS

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
    """All metrics, labelled with the model's name as vLLM's are."""
    metrics = [*_as_vllm(counts, figures, live), *_ours(counts, figures)]
    lines = [line for metric in metrics for line in metric.lines({"model_name": model})]
    return "\n".join([*lines, ""])


def _as_vllm(counts: Counts, figures: EngineFigures, live: Live) -> list[Metric]:
    run, totals = live.run, live.totals
    running = run.latest.running if run.latest is not None and run.batches else 0
    left = sum(
        total - completed - failed
        for status, (_, total, completed, failed) in counts.items()
        if status in states.RUNNING
    )
    pool = figures.kv_pool_bytes
    cumulative, seen = [], 0
    for bound, count in zip((*ITERATION_BUCKETS, None), totals.buckets, strict=True):
        seen += count
        le = "+Inf" if bound is None else f"{bound:.1f}"
        cumulative.append(("_bucket", {"le": le}, float(seen)))
    iterations = (
        *cumulative,
        ("_sum", {}, float(totals.iteration_tokens)),
        ("_count", {}, float(seen)),
    )
    hits = totals.prompt_tokens - totals.computed_tokens
    return [
        _gauge("vllm:num_requests_running", "Sequences in the engine's batch.", running),
        _gauge("vllm:num_requests_waiting", "Requests that wait.", max(left - running, 0)),
        _gauge(
            "vllm:kv_cache_usage_perc",
            "Part of the KV pool in use, 0 to 1.",
            figures.kv_bytes / pool if pool else 0.0,
        ),
        _counter("vllm:prompt_tokens_total", "Prompt tokens processed.", totals.prompt_tokens),
        _counter("vllm:generation_tokens_total", "Tokens generated.", totals.generated_tokens),
        _counter(
            "vllm:prefix_cache_queries_total",
            "Prompt tokens that could have been shared: all of them.",
            totals.prompt_tokens,
        ),
        _counter("vllm:prefix_cache_hits_total", "Prompt tokens not computed again.", hits),
        _counter("vllm:num_preemptions_total", "Sequences that made room.", totals.preemptions),
        Metric(
            "vllm:iteration_tokens_total", "histogram", "Tokens per iteration.", tuple(iterations)
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


def _number(value: float) -> str:
    """Whole numbers with all their digits: a counter that is rounded stands still."""
    return str(int(value)) if value.is_integer() else repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
