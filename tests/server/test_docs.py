"""The examples of docs/server.md run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from tests.server.server_process import Server

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("language", ["python", "sh"])
def test_example(server: Server, tmp_path: Path, language: str) -> None:
    """On the first two tickets instead of all, and at the server's port."""
    page = (ROOT / "docs" / "server.md").read_text()
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.S | re.M)
    assert "http://127.0.0.1:8000/v1" in code
    with (ROOT / "examples" / "tickets.jsonl").open() as file:
        (tmp_path / "examples").mkdir()
        (tmp_path / "examples" / "tickets.jsonl").write_text("".join(islice(file, 2)))
    code = code.replace("http://127.0.0.1:8000", server.url)
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
    done = subprocess.run(
        [*command, code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert '{"id":"batch_req_' in done.stdout
