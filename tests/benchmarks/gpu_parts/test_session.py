"""Parts with no time left, and shapes that fail: nothing is lost, all is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_parts import session
from benchmarks.gpu_parts.ceilings import Ceilings, read_ceilings
from benchmarks.gpu_parts.cells import Cell
from benchmarks.gpu_parts.clock import Deadline, HostStopwatch
from benchmarks.gpu_parts.kernel import KernelBench
from benchmarks.gpu_parts.records import Machine, Recorder, earlier_records
from benchmarks.gpu_parts.session import Choice, Session
from benchmarks.shapes import Heads, Shape
from shoal.attention.reference import ReferenceAttention

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter is for processes of its own."""
    monkeypatch.setattr(session, "kernel_backend", lambda device, sizes: ReferenceAttention())


def kernel_bench() -> KernelBench:
    ceilings = Ceilings(1e9, {1: 1e9}, 1e9)
    heads = Heads(2, 1, 16)
    return KernelBench(ReferenceAttention(), heads, torch.float32, CPU, HostStopwatch(), ceilings)


def test_no_time_left_is_recorded(tmp_path: Path) -> None:
    parts = "equality", "ceilings", "tune", "kernel", "end-to-end", "peer", "tests"
    Session(0.0, tmp_path, smoke=True).run(Choice(parts))
    lines = (tmp_path / "gpu.jsonl").read_text().splitlines()
    skipped = [record for line in lines if "skipped" in (record := json.loads(line))]
    assert {record["part"] for record in skipped} == {
        "tests", "equality", "tune", "kernel", "end-to-end", "peer",
    }  # fmt: skip


def test_a_shape_that_fails_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench, measure = kernel_bench(), KernelBench.measure

    def fails(self: KernelBench, shape: Shape) -> dict[str, Any]:
        if shape.name == "bad":
            raise RuntimeError("out of resource: shared memory")
        return measure(self, shape)

    monkeypatch.setattr(KernelBench, "measure", fails)
    shapes = [Shape("bad", 1, 8, 2, 1, 4), Shape("good", 1, 8, 2, 1, 4)]
    recorder = Recorder(Machine(CPU, "CPU", smoke=True), None)
    bench.run(shapes, recorder, Deadline(60))
    bad, good = recorder.records
    assert bad["error"] == "RuntimeError: out of resource: shared memory"
    assert good["relative_error"]["torch"] < 1e-5
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_floor_of_a_shape() -> None:
    """8 rows of 2 heads over 8 shared and 4 own tokens each; the rates are 1e9."""
    figures = kernel_bench().measure(Shape("small", 1, 8, 8, 1, 4))
    moved = (8 + 8 * 4) * 2 * 16 * 4 + 8 * 2 * 16 * 4 * 2
    flops = 8 * 12 * 2 * 16 * 4
    assert figures["floor_seconds"] == pytest.approx(max(moved, flops) / 1e9)
    assert figures["bound"] == ("bytes" if moved > flops else "flops")


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    """But what failed is, and what was found on another device."""
    shapes = [Shape(name, 1, 8, 2, 1, 4) for name in ("measured", "failed", "elsewhere")]
    machine = Machine(CPU, "CPU", smoke=True)
    first = Recorder(machine, tmp_path)
    kernel_bench().run(shapes[:1], first, Deadline(60))
    first.add("kernel", shape="failed", error="RuntimeError: out of resource")
    Recorder(replace(machine, name="another"), tmp_path).add("kernel", shape="elsewhere")
    second = Recorder(machine, None, earlier_records(tmp_path / "gpu.jsonl"))
    kernel_bench().run(shapes, second, Deadline(60))
    assert [record["shape"] for record in second.records] == ["failed", "elsewhere"]


def test_chosen_policies_and_workloads() -> None:
    cells = [Cell("shared-2k"), Cell("none", policies=("shoal", "paper"))]
    assert Choice((), ("none",), ("paper",)).cells(cells) == [Cell("none", policies=("paper",))]
    assert Choice(()).cells(cells) == cells


def test_ceilings_are_read_as_they_were_written(tmp_path: Path) -> None:
    recorder = Recorder(Machine(CPU, "CPU", smoke=True), tmp_path)
    found = Ceilings(3.0e12, {16: 1.0e13, 8192: 8.0e14}, 7.9e14)
    recorder.add("ceilings", **found.record())
    (record,) = earlier_records(tmp_path / "gpu.jsonl")
    assert read_ceilings(record) == found
