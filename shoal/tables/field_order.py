"""Prompts made of a table's fields: in which order should each row name its fields?

A prompt that names each field ("title: ...") may name them in any order when its author says so,
and rows whose fields begin alike share them. Every row may have an order of its own, the idea of
Liu et al., "Optimizing LLM Queries in Relational Data Analytics Workloads" (MLSys 2025, arXiv
2403.05821). The objective here is the planner's: what the prefix forest saves,

    sum over the nodes of the forest of length * (rows below - 1),

linear in length, over all rows at once. The order of the rows plays no part in it: a shared prefix
is computed once wherever its rows stand. Theirs adds squared lengths of what a row has in common
with the row just before it, for engines whose cache sees one row after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal.tables.exact_order import exact_orders, exact_work
from shoal.tables.greedy_order import Greed, dependence, greedy_orders
from shoal.tables.table_fields import (
    FieldTable,
    Int16Array,
    fixed_orders,
    saved_length,
)

MOST_EXACT_WORK = 30_000.0
"""A table that takes more steps is ordered greedily; about half a second."""

__all__ = ["FieldChoice", "FieldTable", "Int16Array", "choose_orders", "saved_length"]


@dataclass(frozen=True)
class FieldChoice:
    """Field orders and what they save, in the table's unit of length.

    Attributes:
        orders: int16 [N, F], a permutation of the fields per row.
        saved: what the prefix forest saves with them.
        saved_fixed: what it saves in the table's own order.
    """

    orders: Int16Array
    saved: int
    saved_fixed: int


def choose_orders(table: FieldTable, *, reorder: bool = True) -> FieldChoice:
    """The best of the orders we know how to find: never worse than the table's own. Deterministic.

    Args:
        reorder: False keeps the table's own order for all rows.
    """
    orders = fixed_orders(table)
    fixed = saved = saved_length(table, orders)
    if not reorder or table.num_fields < 2:
        return FieldChoice(orders, saved, fixed)
    if exact_work(table) <= MOST_EXACT_WORK:
        candidates = [exact_orders(table)]
    else:
        determines = dependence(table)
        candidates = [greedy_orders(table, greed, determines) for greed in Greed]
    for candidate in candidates:
        if (found := saved_length(table, candidate)) > saved:
            orders, saved = candidate, found
    return FieldChoice(orders, saved, fixed)
