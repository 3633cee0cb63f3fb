"""The best field orders of a small table, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import groupby, pairwise

import numpy as np

from shoal.tables.table_fields import FieldTable, Int16Array

_Rows = frozenset[int]
_Fields = frozenset[int]


def exact_work(table: FieldTable) -> float:
    """About how many combinations `exact_orders` looks at: 3^N * 2^F * F."""
    fields = table.num_fields
    return 3.0 ** min(table.num_rows, 600) * 2.0 ** min(fields, 400) * fields


def exact_orders(table: FieldTable) -> Int16Array:
    """Field orders that save most, int16 [N, F], by a recursion over sets of rows.

    For rows R that agree so far and the fields C they have not named yet,

        S(R, C) = max over c in C and sets U with min(R) in U, all of which name c next, of
                  shared(U, c) + sum over values v of S(U with v, C - c) + S(R - U, C)

    where shared(U, c) is what the pieces of c in U save among themselves. Every assignment of
    orders to rows is such a choice, and it is counted in full when U is all that name c; so the
    maximum is exact. It takes `exact_work` steps. The published exact recursion (OPHR) lets U be
    all rows with one value: fewer steps, but about one small table in a hundred loses by it.
    """

    @cache
    def best(rows: _Rows, fields: _Fields) -> tuple[int, tuple[tuple[_Rows, int], ...]]:
        """What is saved, and who names which field next."""
        if not fields or not rows:
            return 0, ()
        if len(rows) == 1:
            return 0, ((rows, min(fields)),)
        options = (
            (_shared(table, users, c) + below(users, c, fields) + rest[0], ((users, c), *rest[1]))
            for users in _subsets_with_first(rows)
            for rest in [best(rows - users, fields)]
            for c in sorted(fields)
        )
        return max(options, key=lambda option: option[0])

    def below(users: _Rows, field: int, fields: _Fields) -> int:
        return sum(best(same, fields - {field})[0] for same in _by_value(table, users, field))

    def follow(rows: _Rows, fields: _Fields) -> Iterator[tuple[int, int]]:
        """(row, field) as named, from the first to the last."""
        for users, c in best(rows, fields)[1]:
            yield from ((row, c) for row in users)
            for same in _by_value(table, users, c):
                yield from follow(same, fields - {c})

    orders: list[list[int]] = [[] for _ in range(table.num_rows)]
    for g in np.unique(table.group):
        rows = frozenset(np.flatnonzero(table.group == g).tolist())
        for row, c in follow(rows, frozenset(range(table.num_fields))):
            orders[row].append(c)
    return np.array(orders, dtype=np.int16).reshape(table.num_rows, table.num_fields)


def _subsets_with_first(rows: _Rows) -> Iterator[_Rows]:
    """All sets of the rows that hold the lowest one, the largest first."""
    first, *others = sorted(rows)
    for chosen in range(2 ** len(others) - 1, -1, -1):
        yield frozenset([first, *(r for i, r in enumerate(others) if chosen >> i & 1)])


def _by_value(table: FieldTable, rows: _Rows, field: int) -> list[_Rows]:
    """The rows with each value of a field, by value."""
    code = table.codes[field]
    by_code = sorted(rows, key=lambda row: int(code[row]))
    return [frozenset(same) for _, same in groupby(by_code, key=lambda row: int(code[row]))]


def _shared(table: FieldTable, rows: _Rows, field: int) -> int:
    """What the rows' pieces of one field save when they stand at the same place."""
    codes = np.sort(table.codes[field, sorted(rows)])
    common = table.common[field]
    saved = 0
    for before, after in pairwise(codes.tolist()):
        if before == after:
            saved += int(table.lengths[field][after])
        else:
            saved += int(common[before + 1 : after + 1].min())
    return saved
