from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.planner import __main__ as command
from benchmarks.planner.curve import curve_figure
from benchmarks.planner.measure import measure
from benchmarks.planner.workload import default_length, shape_of, write_prompts

FIELDS = {"requests", "tokens", "seconds", "peak_bytes", "saved", "open_seconds", "anonymous_bytes"}


def test_shapes() -> None:
    assert (default_length(10**6), default_length(10**7)) == (512, 128)
    for length, shared in ((512, 400), (128, 96)):
        shape = shape_of(10**6, length)
        assert (shape.length, shape.family + shape.branch) == (length, shared)
    # 10,000 families and 100,000 branches are computed once.
    assert shape_of(10**6, 512).planned_saving == 990_000 * 300 + 900_000 * 100


def test_prompts_come_in_families_of_two_levels(tmp_path: Path) -> None:
    shape = shape_of(450, 128)
    write_prompts(shape, tmp_path / "a.npy")
    write_prompts(shape, tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    prompts = np.load(tmp_path / "a.npy")
    assert (prompts.shape, prompts.dtype) == ((450, 128), np.int32)
    for end, most in ((72, 100), (96, 10)):
        _, counts = np.unique(prompts[:, :end], axis=0, return_counts=True)
        assert counts.max() == most
        assert len(counts) == -(-450 // most)
    family = prompts[:, 0]
    assert (np.diff(family) != 0).mean() > 0.5, "shuffled"


def test_a_measured_size(tmp_path: Path) -> None:
    shape = shape_of(500, 128)
    record = measure(shape, tmp_path / "scratch")
    assert record.keys() == FIELDS
    assert (record["requests"], record["tokens"]) == (500, 500 * 128)
    # Chance shares a few first tokens more; a segment that is not worth its cost shares less.
    assert record["saved"] == pytest.approx(shape.planned_saving, rel=0.02)
    assert 0 < record["open_seconds"] < record["seconds"]
    assert record["peak_bytes"] > 10 << 20
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_failed_size_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.planner.measure.write_prompts", lambda shape, path: None)
    with pytest.raises(RuntimeError, match="500 requests failed"):
        measure(shape_of(500, 128), tmp_path)
    assert "cannot be read" in capfd.readouterr().err


def fake_record(requests: int, length: int) -> dict[str, object]:
    return {"requests": requests, "tokens": requests * length} | dict.fromkeys(
        FIELDS - {"requests", "tokens"}, requests / 1000
    )


def test_the_sweep_writes_records_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        command, "measure", lambda shape, scratch: fake_record(shape.requests, shape.length)
    )
    command.sweep(tmp_path, tmp_path / "planner.jsonl")
    records = [json.loads(line) for line in (tmp_path / "planner.jsonl").read_text().splitlines()]
    assert [(r["requests"], r["tokens"] // r["requests"]) for r in records] == [
        *[(10**k, 512) for k in range(3, 7)],
        *[(10**k, 128) for k in range(3, 8)],
    ]
    assert (tmp_path / "planner.png").stat().st_size > 1000
    assert (tmp_path / "planner.svg").stat().st_size > 1000
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in printed] == records


def test_the_curve_has_a_line_per_length() -> None:
    records = [fake_record(10**k, length) for length in (512, 128) for k in (3, 4)]
    left, right = curve_figure(records).axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["512 tokens each", "N log N, through 10^5", "128 tokens each"]
    assert left.get_xscale() == left.get_yscale() == right.get_yscale() == "log"


@pytest.mark.parametrize("arguments", [["--requests", "0"], ["--length", "128"], ["--x"]])
def test_usage(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.planner", *arguments])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 2


def test_one_size(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        command, "measure", lambda shape, scratch: fake_record(shape.requests, shape.length)
    )
    monkeypatch.setattr(sys, "argv", ["benchmarks.planner", "--requests", "10000000"])
    command.main()
    assert json.loads(capsys.readouterr().out)["tokens"] == 1_280_000_000
