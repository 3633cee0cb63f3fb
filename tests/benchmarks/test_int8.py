from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.client import ROOT
from tests.model.test_int8 import needs_int8


@needs_int8
def test_int8_beside_the_models_own_format(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.int8", "--model", "smoke", "--scale", "0.1"]
    where = ["--rounds", "1", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    done = subprocess.run(command + where, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    [file] = (tmp_path / "results").iterdir()
    assert file.name.startswith("int8-cpu-")
    assert json.loads(file.read_text()) == record
    assert record["workload"] == "shared-2k"
    assert record["speedup"] > 0
    assert 0 <= record["agreement"]["shoal-int8"]["common_prefix"] <= 1
    assert set(record["accuracy"]) == {"none", "int8"}
    assert min(record["accuracy"].values()) >= 0.95
    assert record["same_answers"] >= 0.95
