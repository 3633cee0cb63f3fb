from pathlib import Path

import pytest

from benchmarks import runner, stolen
from benchmarks.peers.client import RunResult
from benchmarks.stolen import StolenTime, stolen_seconds


def write_stat(path: Path, ticks: int) -> None:
    path.write_text(f"cpu  1 2 3 4 5 6 7 {ticks} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")


def test_reads_the_stolen_column(tmp_path: Path) -> None:
    write_stat(tmp_path / "stat", 250)
    assert stolen_seconds(tmp_path / "stat") == pytest.approx(2.5)
    assert stolen_seconds(tmp_path / "missing") == 0


def test_share_of_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 14.0])
    taken = iter([1.0, 3.0])
    monkeypatch.setattr(stolen.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(stolen, "stolen_seconds", lambda: next(taken))
    monkeypatch.setattr(stolen.os, "cpu_count", lambda: 4)
    with StolenTime() as time:
        pass
    assert time.fraction == pytest.approx(2 / 16)


def test_a_disturbed_run_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scripted:
        """A worker whose runs are disturbed as the script says; it does no work."""

        def __init__(self, fractions: tuple[float, ...], first: float) -> None:
            self.fractions, self.first, self.runs = fractions, first, 0

        def run(self) -> RunResult:
            self.runs += 1
            return RunResult(self.first + self.runs - 1, [], 0)

        def __enter__(self) -> "Scripted":
            return self

        def __exit__(self, *exception: object) -> None:
            self.fraction = self.fractions[self.runs - 1]

    def run(*fractions: float, first: float = 1.0) -> tuple[float, float]:
        worker = Scripted(fractions, first)
        monkeypatch.setattr(runner, "StolenTime", lambda: worker)
        result, taken = runner.undisturbed(worker.run)
        return result.seconds, taken

    assert run(0.01) == (1.0, 0.01)
    assert run(0.5, 0.2, 0.02) == (3.0, 0.02)
    assert run(0.5, 0.2, 0.4, 0.3, 0.9) == (2.0, 0.2)
    # Runs of 399.0, 400.0 and 401.0 s are 1200 s together, those of 400.0 s and more are too long.
    assert run(0.5, 0.2, 0.02, first=399.0) == (401.0, 0.02)
    assert run(0.5, 0.2, 0.02, first=400.0) == (401.0, 0.2)
    assert run(0.5, 0.02, first=601.0) == (601.0, 0.5)
