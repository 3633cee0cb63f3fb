"""What a run did, in a few lines: for the terminal after `shoal run`, and for the report."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table

from shoal.report.units import plural, readable_bytes, readable_seconds
from shoal.types import RunSummary


def summary_table(summary: RunSummary) -> RenderableType:
    """The figures of a run as two columns, which fit 80 characters."""
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, figures in summary_rows(summary):
        table.add_row(name, figures)
    return table


def summary_rows(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """The figures of a run as (name, text), most important first."""
    requests, tokens, seconds = summary.requests, summary.tokens, summary.seconds
    yield "Requests", f"{requests.succeeded:,} succeeded, {requests.failed:,} failed"
    yield "Prompt tokens", f"{tokens.prompt:,}"
    again = f", and {tokens.recomputed:,} again" if tokens.recomputed else ""
    yield "  computed", f"{tokens.prompt_computed:,}{again}"
    share = tokens.prompt_saved / max(tokens.prompt, 1)
    yield "  saved", f"{tokens.prompt_saved:,} ({share:.1%})"
    yield "Generated tokens", f"{tokens.generated:,}, {summary.throughput:,.0f} per second"
    if summary.iterations:  # of servers nobody knows
        yield from _engine_rows(summary)
    if summary.lengths.answers:
        of = summary.lengths
        held = "/".join(f"{100 * w:.0f}" for w in (of.within_10, of.within_50, of.within_90))
        yield "Answer lengths", f"predicted 10/50/90% quantiles held {held}% of them"
    if summary.device_seconds:
        run = max(seconds.run, 1e-9)
        least, most = (min(f(summary.device_seconds) / run, 1) for f in (min, max))
        busy = f"busy for {least:.0%} to {most:.0%} of the run"
        yield "Devices", f"{len(summary.device_seconds)}, {busy}"
    phases = (
        f"plan {readable_seconds(seconds.plan)}, load {readable_seconds(seconds.load)}, "
        f"run {readable_seconds(seconds.run)}"
    )
    yield "Time", f"{readable_seconds(seconds.total)}: {phases}"


def _engine_rows(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """What an engine of ours did in its iterations."""
    mean = f"{summary.mean_tokens_per_iteration:,.1f}"
    yield "Iterations", f"{summary.iterations:,}, with {mean} tokens on average"
    preempted = f"{summary.preemptions:,} {plural('preemption', summary.preemptions)}"
    forecast = readable_bytes(summary.kv_peak_bytes_forecast)
    yield "KV peak", f"{readable_bytes(summary.peak_kv_bytes)} ({forecast} forecast), {preempted}"
