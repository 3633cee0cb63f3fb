"""No grammar takes an answer that its schema does not, over the suite of the standard's authors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_invalid_instance_is_taken() -> None:
    """Needs the package index: the suite is not part of this repository."""
    done = subprocess.run(
        [sys.executable, "tools/schema_suite.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = [
        line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| draft")
    ]
    drafts = {row[0].strip(): [int(number) for number in row[1:]] for row in table[1:]}
    assert set(drafts) == {"draft7", "draft2019-09", "draft2020-12"}
    for schemas, refused, invalid, taken, valid, valid_taken in drafts.values():
        assert refused < 0.6 * schemas
        assert invalid > 200
        assert taken <= 1
        assert valid_taken > 0.9 * valid
