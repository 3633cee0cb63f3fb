"""Field orders for tables of any size: greedy, level by level, all groups of rows at once.

A *group* is rows that agree in what they have named so far. What all its rows agree in is named
next, which is always right. Of the other fields, one promises a row

    gain = weight * (1 - 1 / count)

when `count` rows of the group have its value: `weight` is the length of the piece, and of the
pieces that are likely to follow it for nothing because this field (nearly) determines them. Then

- `together`: the group's rows all name the field whose gains add up to most; or
- `apart`: each row names the field that promises it most, and its group falls into smaller ones.

The look-ahead takes the place of the functional dependencies of the published greedy algorithm
(GGR): where a field determines another one the dependence is 1, and half a dependence counts half.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from shoal.tables.table_fields import FieldTable, Int16Array
from shoal.types import BoolArray, Int64Array

Float32Array = npt.NDArray[np.float32]

_MOST_ROUNDS = 8
"""Rounds in which rows of one group settle their fields; the last one takes what is there."""
_DENSE_KEYS = 4
"""A table of keys may be this many times as long as what is looked up in it; else it is sorted."""


class Greed(Enum):
    """Who chooses the next field: a group for all its rows, or each row for itself."""

    together = "together"
    apart = "apart"


def greedy_orders(
    table: FieldTable, greed: Greed, determines: Float32Array | None = None
) -> Int16Array:
    """A good field order for each row, int16 [N, F]. Deterministic; ties go to the earlier field.

    Rows that have nothing more to share name the rest in the table's own order. Work: a sort of
    the rows still in a group per field and level, F * F * N log N at worst.

    Args:
        determines: `dependence(table)` if it is known already.
    """
    return _Levels(table, greed, dependence(table) if determines is None else determines).run()


def dependence(table: FieldTable) -> Float32Array:
    """How far each field determines each other one, float32 [F, F], 1: it does.

    Of the rows that share their value of field a with an earlier row, entry (a, b) is the share
    that has the value of b in common with an earlier row of that value of a as well.
    """
    group = _dense(table.group.astype(np.int64), 0)
    keys = [_dense(group * len(d) + c, 0) for c, d in zip(table.codes, table.lengths, strict=True)]
    distinct = [int(key.max(initial=-1)) + 1 for key in keys]
    result = np.eye(table.num_fields, dtype=np.float32)
    for a, b in zip(*np.tril_indices(table.num_fields, -1), strict=True):
        repeated = table.num_rows - _count_distinct(keys[a] * distinct[b] + keys[b])
        result[a, b] = repeated / max(table.num_rows - distinct[a], 1)
        result[b, a] = repeated / max(table.num_rows - distinct[b], 1)
    return result


class _Levels:
    """Names one field or more of every row per level, until no two rows agree any more."""

    def __init__(self, table: FieldTable, greed: Greed, determines: Float32Array) -> None:
        self._table = table
        self._greed = greed
        self._dependence = determines
        shape = (table.num_fields, table.num_rows)
        self._unnamed = np.ones(shape, dtype=np.bool_)
        self._orders = np.zeros(shape[::-1], dtype=np.int16)
        self._named = np.zeros(table.num_rows, dtype=np.int64)

    def run(self) -> Int16Array:
        rows = np.arange(self._table.num_rows)
        rows, group = _with_company(rows, self._table.group.astype(np.int64))
        while len(rows):
            rows, group = self._level(rows, group)
        for field in range(self._table.num_fields):
            self._name(np.flatnonzero(self._unnamed[field]), field)
        return self._orders

    def _name(self, rows: Int64Array, field: int) -> None:
        self._orders[rows, self._named[rows]] = field
        self._named[rows] += 1
        self._unnamed[field, rows] = False

    def _level(self, rows: Int64Array, group: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Split the groups once; rows and groups that go on."""
        table = self._table
        value = np.zeros((table.num_fields, len(rows)), dtype=np.int64)
        count = np.ones((table.num_fields, len(rows)), dtype=np.int64)
        size = np.bincount(group)[group]
        for f in range(table.num_fields):
            unnamed = self._unnamed[f, rows]
            if not unnamed.any():
                continue
            distinct = len(table.lengths[f])
            value[f] = _dense(group * distinct + table.codes[f, rows], _DENSE_KEYS * len(rows))
            together = np.bincount(value[f])[value[f]]
            constant = unnamed & (together == size)
            self._name(rows[constant], f)
            count[f] = np.where(unnamed & ~constant, together, 1)
        choice = self._choose(rows, group, value, count)
        for f in range(table.num_fields):
            self._name(rows[choice == f], f)
        going = np.flatnonzero(choice >= 0)
        choice = choice[going]
        key = choice * (int(value.max()) + 1) + value[choice, going]
        return _with_company(rows[going], key)

    def _choose(
        self, rows: Int64Array, group: Int64Array, value: Int64Array, count: Int64Array
    ) -> Int64Array:
        """The field each row names next, int64 [rows]; -1: nothing is left to share.

        Args:
            value: int64 [F, rows], equal for rows of one group with one value.
            count: int64 [F, rows], rows that have it; 1 where the field cannot be named.
        """
        length = np.zeros(count.shape, dtype=np.float32)
        for f in range(self._table.num_fields):
            open_ = self._unnamed[f, rows]
            length[f, open_] = self._table.lengths[f][self._table.codes[f, rows[open_]]]
        weight = self._dependence @ length
        if self._greed is Greed.together:
            gains = [np.bincount(group, weights=g) for g in _gain(weight, count)]
            best = np.argmax(gains, axis=0)
            chosen: Int64Array = np.where(np.max(gains, axis=0) > 0, best, -1)[group]
            return chosen
        return _settle(weight, value, count)


def _gain(weight: Float32Array, count: Int64Array) -> Float32Array:
    gain: Float32Array = weight * (1 - 1 / count).astype(np.float32)
    return gain


def _settle(weight: Float32Array, value: Int64Array, count: Int64Array) -> Int64Array:
    """Each row's field of largest gain, int64 [rows], -1: none; rows that leave lower the counts.

    A value is settled when all rows that have it want it. That is the sequential greedy choice,
    the largest gain of all first, made for many values in a round: gains only ever fall, so
    nobody who comes later can outbid it.
    """
    choice = np.full(value.shape[1], -1, dtype=np.int64)
    left = np.arange(value.shape[1])
    sizes = value.max(axis=1, initial=0) + 1
    base = np.cumsum(sizes) - sizes
    closed = count == 1
    for number in range(_MOST_ROUNDS):
        gain = _gain(weight, count)
        best = gain.argmax(axis=0)
        at = np.arange(len(left))
        wanting = gain[best, at] > 0
        wanted = value[best, at] + base[best]
        votes = np.bincount(wanted[wanting], minlength=int(sizes.sum()))[wanted]
        needed = count[best, at] if number < _MOST_ROUNDS - 1 else 2
        settled = wanting & (votes >= needed)
        choice[left[settled]] = best[settled]
        stay = np.flatnonzero(wanting & ~settled)
        if not len(stay):
            break
        left, weight, value, closed = left[stay], weight[:, stay], value[:, stay], closed[:, stay]
        count = np.stack([np.bincount(row)[row] for row in value])
        count[closed] = 1
    return choice


def _with_company(rows: Int64Array, key: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The rows whose key is not theirs alone, and their groups, numbered from 0 without gaps."""
    group = _dense(key, 0)
    several = np.bincount(group) >= 2 if len(group) else np.zeros(0, dtype=np.bool_)
    number = np.cumsum(several) - 1
    kept: BoolArray = several[group]
    return rows[kept], number[group[kept]]


def _dense(key: Int64Array, limit: int) -> Int64Array:
    """Small numbers in place of large ones, in the same order; those below `limit` are kept."""
    if len(key) and int(key.max()) < limit:
        return key
    return np.unique(key, return_inverse=True)[1]


def _count_distinct(key: Int64Array) -> int:
    ordered = np.sort(key)
    return int(np.count_nonzero(np.diff(ordered))) + bool(len(ordered))
