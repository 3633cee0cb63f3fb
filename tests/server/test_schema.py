"""The OpenAPI document says what the server takes and gives: schemathesis finds nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.server_process import serving

COMMAND = "from schemathesis.cli import schemathesis; schemathesis()"
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_schemathesis_finds_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    pytest.importorskip("schemathesis")
    with serving(tmp_path, "--max-rate", "100000", "--max-batches", "1000000") as server:
        arguments = ["--config-file", str(CONFIG), "run", f"{server.url}/openapi.json"]
        arguments += ["--max-examples", "100", "--header", "authorization: Bearer none"]
        arguments += ["--continue-on-failure"]
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        found = re.search(r"([\d,]+) generated", done.stdout)
        assert found is not None
        record_property("tries", int(found[1].replace(",", "")))
        assert "Traceback" not in server.log.read_text()
