from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from shoal.report.summary import summary_rows, summary_table
from shoal.types import LengthCounts, RequestCounts, RunSummary, TokenCounts
from tests.helpers.report_runs import SUMMARY


def printed(summary: RunSummary, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(summary))
    return capture.get()


def test_every_figure_is_there() -> None:
    rows = dict(summary_rows(SUMMARY))
    assert rows == {
        "Requests": "1,318 succeeded, 2 failed",
        "Prompt tokens": "171,333",
        "  computed": "20,123",
        "  saved": "151,210 (88.3%)",
        "Generated tokens": "12,345, 1,122 per second",
        "Iterations": "1,234, with 138.7 tokens on average",
        "KV peak": "117.7 MiB (124.0 MiB forecast), 0 preemptions",
        "Time": "3 min 12 s: plan 0.40 s, load 0.90 s, run 11.0 s",
    }
    text = printed(SUMMARY)
    assert all(name in text and figures in text for name, figures in rows.items())


def test_tokens_computed_again_are_said() -> None:
    again = replace(SUMMARY.tokens, recomputed=1_500)
    text = printed(replace(SUMMARY, tokens=again, preemptions=1))
    assert "20,123, and 1,500 again" in text
    assert any(line.rstrip().endswith(" 1 preemption") for line in text.splitlines())


def test_predicted_lengths_are_told_where_there_were_any() -> None:
    lengths = LengthCounts(answers=40, pilots=4, within_10=0.12, within_50=0.5, within_90=0.925)
    text = printed(replace(SUMMARY, lengths=lengths))
    assert "Answer lengths     predicted 10/50/90% quantiles held 12/50/92% of them" in text
    assert replace(SUMMARY, lengths=lengths).to_dict()["lengths"]["pilots"] == 4


def test_how_long_devices_were_busy() -> None:
    text = printed(replace(SUMMARY, device_seconds=[SUMMARY.seconds.run, SUMMARY.seconds.run / 2]))
    assert "Devices            2, busy for 50% to 100% of the run" in text
    assert "Devices" not in printed(SUMMARY)


def test_a_huge_run_fits_eighty_columns() -> None:
    many = 123_456_789_012
    huge = RunSummary(
        requests=RequestCounts(many, many, many),
        tokens=TokenCounts(many, many, many, many, many),
        throughput=many,
        peak_kv_bytes=many,
        kv_peak_bytes_forecast=many,
        iterations=many,
        preemptions=many,
        mean_tokens_per_iteration=many,
        lengths=LengthCounts(many, many, 1.0, 1.0, 1.0),
        device_seconds=[4e5] * 64,
    )
    huge.seconds = replace(SUMMARY.seconds, plan=30, load=45, run=4e5, total=4e5)
    lines = printed(huge).splitlines()
    assert len(lines) == len(list(summary_rows(huge))), "no row is broken"
    assert max(len(line.rstrip()) for line in lines) <= 80


def test_a_run_that_did_nothing() -> None:
    assert "0 (0.0%)" in printed(RunSummary())
