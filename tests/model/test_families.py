"""docs/models.md says what becomes of each family: its rows are made anew and compared.

That those which run are right show `test_architectures.py`, `test_kinds.py` and
`test_composites.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.kernels import load_kernels
from tests.helpers.families import HEADS, count, families, row

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
ALL = [(table, family) for table in HEADS for family in families(table)]

pytestmark = pytest.mark.long


@pytest.mark.skipif(load_kernels() is None, reason="modules are fused with the C++ kernels")
@pytest.mark.parametrize(("table", "family"), ALL)
def test_its_row_is_up_to_date(tmp_path: Path, table: str, family: str) -> None:
    lines = PAGE.split(f"<!-- table: {table} -->")[1].split("<!-- end -->")[0].splitlines()
    assert row(table, family, tmp_path) in lines, "run python tools/make_models_docs.py"


def test_the_count_is_up_to_date() -> None:
    assert count() in PAGE, "run python tools/make_models_docs.py"


@pytest.mark.parametrize("table", HEADS)
def test_the_tables_hold_nothing_else(table: str) -> None:
    lines = PAGE.split(f"<!-- table: {table} -->")[1].split("<!-- end -->")[0].split("\n")[3:-1]
    assert [line.split(" | ")[0] for line in lines] == [f"| {name}" for name in families(table)]
