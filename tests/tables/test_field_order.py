from __future__ import annotations

import time
from itertools import pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.tables.exact_order import exact_orders, exact_work
from shoal.tables.field_order import FieldTable, choose_orders, saved_length
from shoal.tables.greedy_order import Greed, dependence, greedy_orders
from shoal.tables.table_fields import fixed_orders

Rows = list[list[str]]
"""Texts by row and field; those of different fields begin with different letters."""


def alike(before: str, after: str) -> int:
    length = 0
    while length < min(len(before), len(after)) and before[length] == after[length]:
        length += 1
    return length


def field_table(rows: Rows, group: list[int] | None = None) -> FieldTable:
    codes, lengths, common = [], [], []
    for texts in zip(*rows, strict=True):
        pieces = sorted(set(texts))
        codes.append([pieces.index(text) for text in texts])
        lengths.append(np.array([len(p) for p in pieces], dtype=np.int32))
        pairs = pairwise(pieces)
        common.append(np.array([0, *(alike(*pair) for pair in pairs)], dtype=np.int32))
    return FieldTable(
        codes=np.array(codes, dtype=np.int32),
        lengths=lengths,
        common=common,
        group=np.array(group or [0] * len(rows), dtype=np.int32),
    )


def naive_saved(rows: Rows, orders: object, group: list[int] | None = None) -> int:
    """Characters of all prompts less the nodes of their trie, one character each."""
    saved, nodes = 0, set()
    for i, (row, order) in enumerate(zip(rows, np.asarray(orders).tolist(), strict=True)):
        prompt = "".join(row[f] for f in order)
        saved += len(prompt)
        nodes |= {(group[i] if group else 0, prompt[:n]) for n in range(1, len(prompt) + 1)}
    return saved - len(nodes)


@st.composite
def tables(draw: st.DrawFn, max_rows: int, max_fields: int) -> Rows:
    """Few values per field, of letters that begin alike; each ends in a stop of its own."""
    fields = draw(st.integers(1, max_fields))
    words = st.text("ab", max_size=3)
    pools = [
        [f"{'xyzuvw'[f] * draw(st.integers(1, 2))}{word}." for word in pool]
        for f in range(fields)
        for pool in [draw(st.lists(words, min_size=1, max_size=3, unique=True))]
    ]
    row = st.tuples(*(st.sampled_from(pool) for pool in pools)).map(list)
    return draw(st.lists(row, min_size=1, max_size=max_rows))


@st.composite
def grouped(draw: st.DrawFn, max_rows: int, max_fields: int) -> tuple[Rows, list[int]]:
    rows = draw(tables(max_rows, max_fields))
    group = st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows))
    return rows, draw(group)


@settings(deadline=None)
@given(grouped(8, 4), st.data())
def test_saved_length_is_that_of_the_naive_trie(
    drawn: tuple[Rows, list[int]], data: st.DataObject
) -> None:
    rows, group = drawn
    order = st.permutations(range(len(rows[0])))
    orders = np.array(data.draw(st.lists(order, min_size=len(rows), max_size=len(rows))))
    found = saved_length(field_table(rows, group), orders.astype(np.int16))
    assert found == naive_saved(rows, orders, group)


@settings(deadline=None, max_examples=60)
@given(grouped(4, 3))
def test_exact_orders_are_the_best_of_all(drawn: tuple[Rows, list[int]]) -> None:
    rows, group = drawn
    everything = product(permutations(range(len(rows[0]))), repeat=len(rows))
    best = max(naive_saved(rows, orders, group) for orders in everything)
    assert naive_saved(rows, exact_orders(field_table(rows, group)), group) == best


def coded_table(codes: object, lengths: list[list[int]]) -> FieldTable:
    """A table of which different values have nothing in common."""
    columns = np.array(codes, dtype=np.int32)
    return FieldTable(
        codes=columns,
        lengths=[np.array(each, dtype=np.int32) for each in lengths],
        common=[np.zeros(len(each), dtype=np.int32) for each in lengths],
        group=np.zeros(columns.shape[1], dtype=np.int32),
    )


def random_table(rng: np.random.Generator, rows: int, fields: int) -> FieldTable:
    codes = [rng.integers(0, rng.integers(1, rows + 1), rows) for _ in range(fields)]
    return coded_table(codes, [rng.integers(1, 20, rows).tolist() for _ in codes])


def best_of_all(table: FieldTable) -> int:
    """What the best of all permutations for all rows saves, by a trie of (field, value)."""
    fields, rows = range(table.num_fields), range(table.num_rows)
    paths = [
        [
            {
                tuple((f, int(table.codes[f, row])) for f in order[:n]): int(
                    table.lengths[order[n - 1]][table.codes[order[n - 1], row]]
                )
                for n in range(1, len(order) + 1)
            }
            for order in permutations(fields)
        ]
        for row in rows
    ]
    smallest = min(
        sum({node: length for path in chosen for node, length in path.items()}.values())
        for chosen in product(*paths)
    )
    return table.total_length() - smallest


def test_exact_orders_of_random_tables() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        table = random_table(rng, 4, 3)
        assert saved_length(table, exact_orders(table)) == best_of_all(table)


def test_exact_orders_need_not_give_a_value_all_its_rows() -> None:
    codes = [[1, 0, 1, 0, 1, 1], [1, 1, 2, 1, 1, 0], [0, 0, 2, 2, 1, 1]]
    table = coded_table(codes, [[4, 1], [1, 2, 5], [4, 3, 1]])
    assert saved_length(table, exact_orders(table)) == best_of_all(table) == 13


def test_the_best_of_what_was_tried_is_chosen() -> None:
    rng = np.random.default_rng(0)
    best_is = dict.fromkeys(Greed, 0)
    for _ in range(60):
        table = random_table(rng, 12, 4)
        found = {greed: saved_length(table, greedy_orders(table, greed)) for greed in Greed}
        fixed = saved_length(table, fixed_orders(table))
        assert choose_orders(table).saved == max(fixed, *found.values())
        best_is[max(found, key=found.__getitem__)] += len(set(found.values())) > 1
    assert all(best_is.values()), "each way must win somewhere, or it is of no use"


def test_rows_left_behind_choose_again() -> None:
    """Row 0 wants x with row 1, who leaves for y; what it gets then is z with row 9."""
    x = [0, 0, *range(1, 9)]
    y = [0, *[1] * 8, 2]
    z = [0, *range(1, 9), 0]
    table = coded_table([x, y, z], [[50] * 9, [90] * 3, [40] * 9])
    orders = greedy_orders(table, Greed.apart)
    assert orders[:, 0].tolist() == [2, *[1] * 8, 2]


@settings(deadline=None, max_examples=60)
@given(grouped(6, 3))
def test_greedy_is_between_nothing_and_exact(drawn: tuple[Rows, list[int]]) -> None:
    rows, group = drawn
    table = field_table(rows, group)
    best = saved_length(table, exact_orders(table))
    for greed in Greed:
        orders = greedy_orders(table, greed)
        assert naive_saved(rows, orders, group) <= best
    chosen = choose_orders(table)
    assert chosen.saved_fixed <= chosen.saved <= best
    assert chosen.saved == naive_saved(rows, chosen.orders, group)


@pytest.mark.long
@settings(deadline=None)
@given(grouped(40, 5))
def test_each_row_names_each_field_once(drawn: tuple[Rows, list[int]]) -> None:
    rows, group = drawn
    table = field_table(rows, group)
    fields = list(range(len(rows[0])))
    by_row: dict[tuple[object, ...], list[int]] = {}
    for orders in (*(greedy_orders(table, greed) for greed in Greed), choose_orders(table).orders):
        assert orders.shape == (len(rows), len(fields))
        assert all(sorted(order) == fields for order in orders.tolist())
        by_row.clear()
        for row, g, order in zip(rows, group, orders.tolist(), strict=True):
            assert by_row.setdefault((g, *row), order) == order, "equal rows, equal prompts"
    chosen = choose_orders(table)
    assert chosen.saved >= saved_length(table, fixed_orders(table)) == chosen.saved_fixed
    again = choose_orders(field_table(rows, group)).orders
    assert again.tolist() == chosen.orders.tolist()


def test_the_tables_own_order_stays_where_nothing_is_gained() -> None:
    table = field_table([[f"x{i}.", f"y{i}.", f"z{i}."] for i in range(50)])
    assert choose_orders(table).orders.tolist() == [[0, 1, 2]] * 50
    assert choose_orders(table, reorder=False).orders.tolist() == [[0, 1, 2]] * 50
    few = coded_table([[0, 1], [0, 1], [0, 0]], [[3, 3]] * 3)
    assert exact_orders(few).tolist() == [[2, 0, 1]] * 2
    assert exact_orders(coded_table([[0]] * 3, [[3]] * 3)).tolist() == [[0, 1, 2]]


def test_rows_may_need_orders_of_their_own() -> None:
    """Half of the rows share a long x, the others a long y: no one order serves both."""
    rows = [["x" * 90 + ".", f"y{i:04}."] for i in range(200)]
    rows += [[f"x{i:04}.", "y" * 90 + "."] for i in range(200, 400)]
    table = field_table(rows)
    one_order = max(saved_length(table, fixed_orders(table, p)) for p in ((0, 1), (1, 0)))
    chosen = choose_orders(table)
    assert chosen.orders.tolist() == [[0, 1]] * 200 + [[1, 0]] * 200
    assert chosen.saved > 1.8 * one_order


def test_a_short_determining_field_brings_what_it_determines() -> None:
    """The id is short, but with it comes the long text; the middling colour must wait."""
    rows = [[f"c{i % 5}" + "c" * 20 + ".", f"i{i % 7}.", f"t{i % 7}" + "t" * 60 + "."]
            for i in range(350)]  # fmt: skip
    table = field_table(rows)
    assert np.allclose(dependence(table)[1:, 1:], 1)
    assert dependence(table)[0, 1] < 1
    assert {tuple(order) for order in choose_orders(table).orders.tolist()} == {(1, 2, 0)}


def test_groups_share_nothing() -> None:
    rows = [["xa.", "yb."]] * 4
    assert saved_length(field_table(rows, [0, 0, 1, 1]), fixed_orders(field_table(rows))) == 12
    assert saved_length(field_table(rows), fixed_orders(field_table(rows))) == 18


def test_empty_tables() -> None:
    for shape in ((0, 5), (3, 0)):
        nothing = [np.zeros(0, dtype=np.int32)] * shape[0]
        codes = np.zeros(shape, dtype=np.int32)
        table = FieldTable(codes, nothing, nothing, np.zeros(shape[1], dtype=np.int32))
        assert choose_orders(table).orders.shape == shape[::-1]
        assert choose_orders(table).saved == 0


@pytest.mark.parametrize(("rows", "fields"), [(5, 3), (2, 9)])
def test_exact_work_is_an_estimate_in_bounds(rows: int, fields: int) -> None:
    table = field_table([[f"{'abcdefghi'[f]}{i}." for f in range(fields)] for i in range(rows)])
    assert exact_work(table) == 3**rows * 2**fields * fields


def test_fifty_thousand_rows_take_seconds() -> None:
    rng = np.random.default_rng(0)
    product_of = rng.integers(0, 1000, 50_000)
    columns = [np.arange(50_000), rng.integers(0, 5, 50_000), product_of, product_of // 10]
    columns += [rng.integers(0, 5_000, 50_000) for _ in range(3)]
    lengths = [np.full(int(c.max()) + 1, 20 + i, dtype=np.int32) for i, c in enumerate(columns)]
    common = [np.zeros(len(each), dtype=np.int32) for each in lengths]
    codes = np.array(columns, dtype=np.int32)
    table = FieldTable(codes, lengths, common, np.zeros(50_000, dtype=np.int32))
    began = time.perf_counter()
    chosen = choose_orders(table)
    assert time.perf_counter() - began < 10
    assert chosen.saved > 49_000 * (22 + 23)
