from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema

from benchmarks.peers.client import ROOT
from benchmarks.structured import schema_of_fields


def test_with_a_schema_and_without(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of_fields())
    command = [sys.executable, "-m", "benchmarks.structured", "--model", "smoke", "--scale", "0.1"]
    where = ["--rounds", "1", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    done = subprocess.run(command + where, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    [file] = (tmp_path / "results").iterdir()
    assert file.name.startswith("structured-cpu-")
    assert json.loads(file.read_text()) == record
    assert {name: len(found) for name, found in record["seconds"].items()} == {
        "none": 1,
        "schema": 1,
    }
    assert record["accuracy"]["schema"] >= record["accuracy"]["none"] >= 0.95
