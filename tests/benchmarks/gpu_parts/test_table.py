"""Every record of a whole run, and of one where all failed, has its line in the table."""

from __future__ import annotations

import pytest

from benchmarks.gpu_parts.records import Record
from benchmarks.gpu_parts.table import table


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"part": "tests", "suite": "device", "counts": {"passed": 7, "skipped": 2}},
         "device                   7 passed, 2 skipped"),
        ({"part": "tests", "suite": "device", "counts": {}, "error": "pytest ended with 1"},
         "device  FAILED  pytest ended with 1"),
        ({"part": "equality", "model": "qwen", "way": "forest", "equal": 24, "of": 25},
         "qwen forest              24 of 25 equal"),
        ({"part": "kernel", "skipped": ["a", "b"], "reason": "no time left"},
         "a b  left out: no time left"),
        ({"part": "ceilings", "copy_bytes_per_second": 3.029e12, "flops_per_second": 8.086e14},
         "copy 3.03 TB/s, products 809 TFLOP/s"),
    ],
)  # fmt: skip
def test_lines(record: Record, line: str) -> None:
    assert table([record]) == f"{record['part']:<11} {line}"


def test_a_record_without_a_figure_has_none() -> None:
    assert table([{"part": "machine"}]) == ""
