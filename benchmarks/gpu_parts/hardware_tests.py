"""The tests that only a GPU can run, as a part of the benchmark: what passed, what failed."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.gpu_parts.clock import Deadline
from benchmarks.gpu_parts.records import Recorder
from benchmarks.peers.client import ROOT
from benchmarks.runner import say


@dataclass(frozen=True)
class Suite:
    """Test files that one pytest runs.

    Attributes:
        processes: that share the device; memory is measured by one alone.
    """

    name: str
    files: tuple[str, ...]
    processes: int


SUITES = (
    Suite("device", ("tests/cuda/test_on_device.py",), 1),
    Suite("sampling", ("tests/sampling/test_draw_hardware.py",), 4),
    Suite("attention", ("tests/attention/triton/test_hardware.py",), 14),
)
"""Those that use the whole memory first, alone. The others compile one kernel after another, on as
many cores as there are."""
MOST_FAILURES = 12
"""Kept of a suite, with the last line of each."""


def run_suites(suites: tuple[Suite, ...], recorder: Recorder, deadline: Deadline) -> None:
    """A record per suite; one that the time does not suffice for is stopped, and says so."""
    for suite in suites:
        if recorder.knows("tests", suite=suite.name):
            continue
        if deadline.left == 0:
            recorder.add("tests", suite=suite.name, skipped=[suite.name], reason="no time left")
            continue
        say(f"tests: {suite.name}")
        recorder.add("tests", suite=suite.name, **_run(suite, deadline.left))


def _run(suite: Suite, seconds: float) -> dict[str, object]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short"]
    if suite.processes > 1:
        command += ["-n", str(suite.processes)]
    try:
        done = subprocess.run(
            [*command, *suite.files],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        return {"error": f"stopped after {seconds:.0f} s", "tail": text[-600:]}
    print(done.stdout[-6000:], file=sys.stderr, flush=True)
    figures: dict[str, object] = {"counts": outcome(done.stdout)}
    if done.returncode:
        figures["error"] = f"pytest ended with {done.returncode}"
        figures["failures"] = re.findall(r"^(?:FAILED|ERROR) (.*)$", done.stdout, re.MULTILINE)[
            :MOST_FAILURES
        ]
        figures["tail"] = (done.stdout + done.stderr)[-600:]
    return figures


def outcome(output: str) -> dict[str, int]:
    """Counts of pytest's last line: passed, failed, skipped, errors."""
    last = output.strip().splitlines()[-1] if output.strip() else ""
    return {name: int(count) for count, name in re.findall(r"(\d+) (\w+)", last)}
