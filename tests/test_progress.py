from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from shoal import progress
from shoal.engine.run_stats import RunStats
from shoal.jobs.collect import Collector, remaining_tokens
from shoal.progress import LineReporter, ProgressState, make_reporter
from shoal.types import Choice, Completion, RequestParams, RequestTable

STATE = ProgressState(1200, 5000, 30_000, 60_000, 10.0, 64 * 2**20)


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


def test_state_in_words() -> None:
    assert str(STATE) == "1,200/5,000 requests, 3,000 tokens/s, 0:20 left, KV 64 MiB"
    long = ProgressState(0, 1, 1, 7300, 1.0, 0)
    assert "2:01:40 left" in str(long)
    start = ProgressState(0, 5, 0, 100, 0.0, 0)
    assert str(start) == "0/5 requests, 0 tokens/s, KV 0 MiB"


def test_lines_come_every_ten_seconds_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = console()
    with make_reporter(quiet=False, console=out) as reporter:
        assert isinstance(reporter, LineReporter)
        for second in range(25):
            now[0] = float(second)
            reporter.update(STATE)
        now[0] = 30.0
        reporter.reading(70_000)
        reporter.message("[bold]/a/path")
    lines = out.file.getvalue().splitlines()
    assert lines == [
        str(STATE), str(STATE), "reading: 70,000 lines", "[bold]/a/path", str(STATE)
    ]  # fmt: skip


def test_a_terminal_gets_a_bar() -> None:
    out = console(terminal=True)
    with make_reporter(quiet=False, console=out) as reporter:
        reporter.message("resuming")
        reporter.reading(70_000)
        reporter.update(STATE)
    text = out.file.getvalue()
    assert "resuming" in text
    assert "1200/5000" in text
    assert "3,000 tokens/s" in text


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with make_reporter(quiet=True) as reporter:
        reporter.message("x")
        reporter.update(STATE)
    assert capfd.readouterr() == ("", "")


def table(lines: list[int]) -> RequestTable:
    count = len(lines)
    return RequestTable(
        tokens=np.zeros(count, dtype=np.int32),
        offsets=np.arange(count + 1, dtype=np.int64),
        params=(RequestParams(n=2),),
        params_index=np.zeros(count, dtype=np.int32),
        max_new_tokens=np.full(count, 10, dtype=np.int32),
        expected_new_tokens=np.full(count, 10, dtype=np.int32),
        seeds=np.zeros(count, dtype=np.int64),
        has_seed=np.zeros(count, dtype=np.bool_),
        line=np.array(lines, dtype=np.int64),
    )


def completion(request: int) -> Completion:
    return Completion(request, 1, (Choice(0, "abc", (1, 2, 3), "stop"),))


def test_a_line_is_complete_with_its_last_prompt() -> None:
    collector = Collector(table([4, 7, 7, 9]))
    assert list(collector.take([completion(2)])) == []
    lines = list(collector.take([completion(0), completion(1)]))
    assert [(line, [c.request_index for c in parts]) for line, parts in lines] == [
        (4, [0]),
        (7, [1, 2]),
    ]
    assert collector.unfinished == 1


def test_work_left() -> None:
    collector = Collector(table([0, 1]))
    assert remaining_tokens(RunStats(), 100, [collector]) == 140
    running = RunStats(prompt_tokens_computed=60, generated_tokens=5)
    assert remaining_tokens(running, 100, [collector]) == 75
    list(collector.take([completion(0)]))
    assert remaining_tokens(running, 100, [collector]) == 40 + 20 - 2
