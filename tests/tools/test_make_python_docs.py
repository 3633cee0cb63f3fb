"""docs/python.md says what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_are_up_to_date() -> None:
    tool = [sys.executable, ROOT / "tools" / "make_python_docs.py", "--check"]
    shown = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
