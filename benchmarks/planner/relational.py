"""Field orders for prompts made of a table's rows: how near the optimum, how much, how fast.

python -m benchmarks.planner.relational [--rows N] [--small TABLES]

Lengths are tokens. Prints two tables in Markdown, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np

from shoal.tables.exact_order import exact_orders
from shoal.tables.field_order import FieldTable, choose_orders, saved_length
from shoal.tables.greedy_order import Greed, greedy_orders
from shoal.tables.table_fields import fixed_orders

SEED = 4
SEARCH_ROWS = 10_000
"""The best order for all rows is searched on a table of this size and used at every size."""
REVIEWS = (
    ("review_id", 8), ("review", 60), ("stars", 4), ("user", 6), ("city", 5), ("title", 14),
    ("description", 180), ("category", 8), ("brand", 6), ("price", 5),
)  # fmt: skip
"""Columns of the large tables and their mean length in tokens."""


def field_table(columns: list[np.ndarray], lengths: list[np.ndarray]) -> FieldTable:
    """A table whose different values have nothing in common."""
    return FieldTable(
        codes=np.array(columns, dtype=np.int32),
        lengths=[each.astype(np.int32) for each in lengths],
        common=[np.zeros(len(each), dtype=np.int32) for each in lengths],
        group=np.zeros(len(columns[0]), dtype=np.int32),
    )


def small_table(rng: np.random.Generator) -> FieldTable:
    """3 to 6 rows of 2 to 4 fields, some of which follow from an earlier one."""
    rows, fields = int(rng.integers(3, 7)), int(rng.integers(2, 5))
    columns: list[np.ndarray] = []
    lengths = []
    for f in range(fields):
        values = rng.integers(0, rng.integers(1, rows + 1), rows)
        if f and rng.random() < 0.4:
            values = rng.integers(0, 3, rows)[columns[rng.integers(f)]]
        distinct, codes = np.unique(values, return_inverse=True)
        columns.append(codes)
        lengths.append(rng.integers(1, rng.choice([3, 10, 40]), len(distinct)))
    return field_table(columns, lengths)


def published_recursion(table: FieldTable) -> int:
    """What the published exact recursion (OPHR) saves when it counts as we do.

    Its step gives one value all the rows that have it, and goes on with both parts.
    """

    @cache
    def best(rows: frozenset[int], fields: frozenset[int]) -> int:
        found = 0
        for f in fields:
            for value in {int(table.codes[f, row]) for row in rows}:
                same = frozenset(row for row in rows if table.codes[f, row] == value)
                if len(same) > 1:
                    saved = int(table.lengths[f][value]) * (len(same) - 1)
                    saved += best(same, fields - {f}) + best(rows - same, fields)
                    found = max(found, saved)
        return found

    return best(frozenset(range(table.num_rows)), frozenset(range(table.num_fields)))


def one_order(table: FieldTable) -> int:
    """What the best order for all rows saves, by trying them all."""
    orders = permutations(range(table.num_fields))
    return max(saved_length(table, fixed_orders(table, order)) for order in orders)


def small_tables(count: int) -> dict[str, list[float]]:
    """The share of the optimum that each way saves, per table on which there is one."""
    rng = np.random.default_rng(SEED)
    ways: dict[str, Callable[[FieldTable], int]] = {
        "table's own order": lambda t: saved_length(t, fixed_orders(t)),
        "best order for all rows": one_order,
        "greedy, together": lambda t: saved_length(t, greedy_orders(t, Greed.together)),
        "greedy, apart": lambda t: saved_length(t, greedy_orders(t, Greed.apart)),
        "published recursion": published_recursion,
    }
    shares: dict[str, list[float]] = {name: [] for name in ways}
    shares["better of both greedy"] = []
    while len(shares["greedy, apart"]) < count:
        table = small_table(rng)
        optimum = saved_length(table, exact_orders(table))
        if optimum:
            for name, way in ways.items():
                shares[name].append(way(table) / optimum)
            both = max(shares[f"greedy, {greed.value}"][-1] for greed in Greed)
            shares["better of both greedy"].append(max(both, shares["table's own order"][-1]))
    return shares


def reviews(rows: int) -> FieldTable:
    """Reviews joined with their products and users; a few of both are far more frequent."""
    rng = np.random.default_rng(SEED)
    products, users = max(rows // 50, 1), max(rows // 8, 1)
    product = (products * rng.random(rows) ** 2).astype(np.int64)
    user = (users * rng.random(rows) ** 2).astype(np.int64)
    of_product = [rng.integers(0, max(products // n, 1), products)[product] for n in (30, 10)]
    columns = [
        np.arange(rows), np.arange(rows), rng.integers(0, 5, rows), user,
        rng.integers(0, 1000, users)[user], product, product, *of_product,
        rng.integers(0, 500, products)[product],
    ]  # fmt: skip
    return _coded(rng, columns)


def two_kinds(rows: int) -> FieldTable:
    """The same columns, but every other review is about a user (long profile), not a product."""
    table = reviews(rows)
    codes = table.codes.copy()
    rng = np.random.default_rng(SEED)
    about_user = np.arange(rows) % 2 == 1
    for f, (name, _) in enumerate(REVIEWS):
        if name in ("title", "description", "category", "brand", "price"):
            codes[f, about_user] = rng.integers(0, rows, int(about_user.sum()))
        elif name in ("user", "city"):
            codes[f, ~about_user] = rng.integers(0, rows, int((~about_user).sum()))
    lengths = {"user": 120, "city": 40}
    return _coded(rng, list(codes), lengths)


def _coded(
    rng: np.random.Generator, columns: list[np.ndarray], means: dict[str, int] | None = None
) -> FieldTable:
    codes, lengths = [], []
    for (name, mean), column in zip(REVIEWS, columns, strict=True):
        distinct, code = np.unique(column, return_inverse=True)
        mean = (means or {}).get(name, mean)
        codes.append(code)
        lengths.append(np.maximum(3, rng.normal(mean, mean * 0.3, len(distinct))))
    return field_table(codes, lengths)


def climb(table: FieldTable) -> list[int]:
    """A good order for all rows: move single fields as long as it helps."""
    best = list(range(table.num_fields))
    saved = saved_length(table, fixed_orders(table, best))
    improved = True
    while improved:
        improved = False
        for f in range(table.num_fields):
            for place in range(table.num_fields):
                order = [other for other in best if other != f]
                order.insert(place, f)
                if (found := saved_length(table, fixed_orders(table, order))) > saved:
                    best, saved, improved = order, found, True
    return best


def large_table(make: Callable[[int], FieldTable], rows: int) -> dict[str, Any]:
    """Shares of all tokens saved, and what choosing the orders takes."""
    order = climb(make(min(rows, SEARCH_ROWS)))
    table = make(rows)
    total = table.total_length()
    began = time.perf_counter()
    choice = choose_orders(table)
    seconds = time.perf_counter() - began
    return {
        "table": make.__name__,
        "rows": rows,
        "tokens": total,
        "own_order": choice.saved_fixed / total,
        "one_order": saved_length(table, fixed_orders(table, order)) / total,
        "chosen": choice.saved / total,
        "orders": len(np.unique(choice.orders, axis=0)),
        "seconds": round(seconds, 1),
    }


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print both tables and the JSON line."""
    parser = argparse.ArgumentParser(description="Measure the choice of field orders.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large tables")
    parser.add_argument("--small", type=int, default=300, help="how many small tables")
    arguments = parser.parse_args()
    shares = small_tables(arguments.small)
    print("| way | mean share of the optimum | 5 % quantile | worst | optimal |")
    print("|---|---:|---:|---:|---:|")
    for name, values in shares.items():
        row = np.array(values)
        low = np.quantile(row, 0.05)
        print(
            f"| {name} | {row.mean():.2%} | {low:.1%} | {row.min():.1%} | {(row == 1).mean():.1%} |"
        )
    print()
    large = [large_table(make, arguments.rows) for make in (reviews, two_kinds)]
    print("| table | rows | own order | one order for all rows | chosen | orders | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for r in large:
        print(
            f"| {r['table']} | {r['rows']:,} | {r['own_order']:.1%} | {r['one_order']:.1%} "
            f"| {r['chosen']:.1%} | {r['orders']:,} | {r['seconds']} |"
        )
    means = {name: float(np.mean(values)) for name, values in shares.items()}
    record = {"small": means, "large": large, "peak_bytes": _peak_bytes()}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
