from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.planner import relational
from benchmarks.planner.relational import climb, field_table, published_recursion, reviews
from shoal.tables.exact_order import exact_orders
from shoal.tables.field_order import saved_length
from shoal.tables.table_fields import fixed_orders


def test_the_published_recursion_may_miss_the_optimum() -> None:
    columns = [[1, 0, 1, 0, 1, 1], [1, 1, 2, 1, 1, 0], [0, 0, 2, 2, 1, 1]]
    lengths = [[4, 1], [1, 2, 5], [4, 3, 1]]
    table = field_table([np.array(c) for c in columns], [np.array(each) for each in lengths])
    assert saved_length(table, exact_orders(table)) == 13
    assert published_recursion(table) == 12


def test_climbing_improves_on_the_own_order() -> None:
    table = reviews(400)
    order = climb(table)
    assert sorted(order) == list(range(table.num_fields))
    assert saved_length(table, fixed_orders(table, order)) > saved_length(
        table, fixed_orders(table)
    )


def test_it_ends_with_one_json_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["relational", "--rows", "600", "--small", "3"])
    relational.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [large["rows"] for large in record["large"]] == [600, 600]
    assert all(large["chosen"] >= large["own_order"] for large in record["large"])
    assert all(0 <= share <= 1 for share in record["small"].values())
