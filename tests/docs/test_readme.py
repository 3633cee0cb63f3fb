"""The README's example runs as it stands there."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_python_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the first two tickets instead of all."""
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.S | re.M)
    assert found is not None
    code = found[1]
    assert len([line for line in code.splitlines() if line]) <= 6
    tickets = ROOT / "examples" / "tickets.jsonl"
    with tickets.open() as file:
        (tmp_path / "two.jsonl").write_text("".join(islice(file, 2)))
    assert "examples/tickets.jsonl" in code
    exec(code.replace("examples/tickets.jsonl", str(tmp_path / "two.jsonl")), {})
    answer, _, saved = capsys.readouterr().out.strip().rpartition(" ")
    assert answer.startswith("{")
    assert int(saved) > 0
