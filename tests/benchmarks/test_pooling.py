from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.client import ROOT
from benchmarks.pooling import pairs


def test_pairs_share_instruction_and_query() -> None:
    workload = pairs(1000, 1.0)
    assert len(workload.prompts) == 1000
    assert len({tuple(prompt[:64]) for prompt in workload.prompts}) == 1
    assert len({tuple(prompt[:112]) for prompt in workload.prompts}) == 20


def test_scores_beside_transformers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.pooling", "--model", "smoke", "--scale", "0.2"]
    where = ["--rounds", "1", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    peers = ["--peers", "transformers"]
    done = subprocess.run(
        [*command, *where, *peers], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["scores_differ"]["transformers"] < 0.02  # bfloat16
    assert record["seconds"].keys() == {"shoal", "transformers"}
    [file] = (tmp_path / "results").iterdir()
    assert json.loads(file.read_text()) == record
