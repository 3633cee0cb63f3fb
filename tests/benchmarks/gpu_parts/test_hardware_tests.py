"""Real runs of pytest, told apart: passed, failed, too slow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gpu_parts import hardware_tests
from benchmarks.gpu_parts.clock import Deadline
from benchmarks.gpu_parts.hardware_tests import Suite, run_suites
from benchmarks.gpu_parts.records import Machine, Recorder


def run(suite: Suite, seconds: float = 60.0) -> dict[str, object]:
    recorder = Recorder(Machine(torch.device("cpu"), "CPU", smoke=True), None)
    run_suites((suite,), recorder, Deadline(seconds))
    (record,) = recorder.records
    return record


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setattr(hardware_tests, "ROOT", tmp_path)
    tests = "def test_a(): pass\ndef test_b(): pass\ndef test_c(): assert 1 == 2, 'no'\n"
    (tmp_path / "test_some.py").write_text(tests)
    (tmp_path / "test_slow.py").write_text("import time\ndef test(): time.sleep(60)\n")
    return Suite("some", ("test_some.py",), 1)


def test_failures_are_named(suite: Suite) -> None:
    found = run(suite)
    assert found["counts"] == {"failed": 1, "passed": 2}
    assert found["error"] == "pytest ended with 1"
    assert found["failures"] == ["test_some.py::test_c - AssertionError: no"]


def test_one_that_takes_too_long_is_stopped(suite: Suite) -> None:
    found = run(Suite("slow", ("test_slow.py",), 1), seconds=3.0)
    assert found["error"] == "stopped after 3 s"
