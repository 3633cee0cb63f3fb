from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.client import ROOT


@pytest.mark.long
def test_adapters_beside_the_model_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.lora", "--model", "smoke", "--adapters", "1", "3"]
    sizes = ["--requests", "6", "--rank", "4", "--output", "4", "--rounds", "1"]
    where = ["--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    done = subprocess.run(
        command + sizes + where, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    [file] = (tmp_path / "results").iterdir()
    assert json.loads(file.read_text()) == record
    assert record["seconds"].keys() == {"base", "1", "3"}
    assert record["merged_seconds"].keys() == {"1", "3"}
