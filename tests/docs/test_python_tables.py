"""The examples of docs/python.md with tables, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = dict(
    re.findall(
        r"<!-- run: (\w+) -->\n```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S
    )
)


@pytest.fixture(scope="module")
def begun() -> dict[str, Any]:
    """The names that the examples begin with."""
    names: dict[str, Any] = {}
    exec(EXAMPLES["tables"], names)
    return names


@pytest.mark.long
@pytest.mark.parametrize("library", ["pandas", "polars", "datasets"])
def test_five_lines_of_each(
    library: str, begun: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    monkeypatch.chdir(ROOT)
    names = dict(begun)
    exec(EXAMPLES[library], names)
    table = names["data" if library == "datasets" else "df"]
    answers = names["answers"] if library != "pandas" else list(table["answer"])
    given = [str(prompt) for prompt in table["text"]]
    expected = begun["llm"].generate(given, begun["params"])
    assert answers == [output.outputs[0].text for output in expected]
    assert len(answers) == 4


def test_each_takes_five_lines() -> None:
    for library in ("pandas", "polars", "datasets"):
        assert len([line for line in EXAMPLES[library].splitlines() if line]) <= 5
