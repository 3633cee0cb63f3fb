"""The tasks of a work list: every key of every row once, balanced, and cheap to make."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.attention.triton.launch_plan import (
    LEAST_KEYS,
    SHORT,
    Field,
    Geometry,
    TaskPlan,
    plan_tasks,
)
from shoal.work import SegmentWork
from tests.helpers.attention_work import one_segment, random_case

F = Field


def seen_by(plan: TaskPlan, geometry: Geometry, num_rows: int) -> list[list[tuple[int, int]]]:
    """Per row and head of a group: (block offset, key) of all that its tasks let it see."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(num_rows * geometry.group)]
    for record in plan.records.tolist():
        height = geometry.rows if record[F.TALL] else SHORT
        folds = record[F.ROWS] * geometry.group
        for fold in range(record[F.FOLD_FIRST], min(record[F.FOLD_FIRST] + height, folds)):
            row, head = divmod(fold, geometry.group)
            last = min(record[F.KEY_LAST], record[F.DIAGONAL] + row)
            place = (record[F.ROW_FIRST] + row) * geometry.group + head
            found[place] += [(record[F.BLOCKS], key) for key in range(record[F.KEY_FIRST], last)]
    return found


def written_by(
    plan: TaskPlan, geometry: Geometry, num_rows: int
) -> list[set[tuple[int, int, int]]]:
    """Per row: the slots its tasks write a result to, -1 for the output, and for which piece."""
    found: list[set[tuple[int, int, int]]] = [set() for _ in range(num_rows)]
    for record in plan.records.tolist():
        height = geometry.rows if record[F.TALL] else SHORT
        last = min(record[F.FOLD_FIRST] + height, record[F.ROWS] * geometry.group) - 1
        for row in range(record[F.FOLD_FIRST] // geometry.group, last // geometry.group + 1):
            if min(record[F.KEY_LAST], record[F.DIAGONAL] + row) > record[F.KEY_FIRST]:
                slot = record[F.SLOT]
                piece = record[F.BLOCKS], record[F.KEY_FIRST]
                found[record[F.ROW_FIRST] + row].add((slot if slot < 0 else slot + row, *piece))
    return found


geometries = st.builds(
    Geometry,
    kv_heads=st.sampled_from([1, 2]),
    group=st.sampled_from([1, 2, 3, 4, 7, 16]),
    rows=st.sampled_from([16, 32, 128]),
    keys=st.sampled_from([16, 64]),
    programs=st.sampled_from([1, 8, 100]),
)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), geometry=geometries)
def test_every_row_sees_its_keys_once(seed: int, geometry: Geometry) -> None:
    work = random_case(seed, block_size=16, scattered=False).work
    check_plan(work, geometry)


@pytest.mark.long
@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 80),
    tokens=st.integers(0, 2000),
    causal=st.booleans(),
    geometry=geometries,
)
@example(rows=600, tokens=700, causal=True, geometry=Geometry(1, 1, 128, 64, programs=100))
def test_split_segments_too(rows: int, tokens: int, causal: bool, geometry: Geometry) -> None:
    check_plan(one_segment(rows, tokens, causal=causal).work, geometry)


def check_plan(work: SegmentWork, geometry: Geometry) -> None:
    plan = plan_tasks(work, geometry)
    expected: list[list[tuple[int, int]]] = [[] for _ in range(work.num_rows)]
    for item in range(len(work)):
        first, last = int(work.row_first[item]), int(work.row_last[item])
        for row in range(first, last):
            hidden = last - row - 1 if work.causal[item] else 0
            block = int(work.block_offsets[item])
            expected[row] += [(block, k) for k in range(int(work.kv_tokens[item]) - hidden)]
    for place, found in enumerate(seen_by(plan, geometry, work.num_rows)):
        assert sorted(found) == sorted(expected[place // geometry.group])
    # Each row is either written whole by one task, or listed with exactly the slots it has.
    written = written_by(plan, geometry, work.num_rows)
    merged = dict(
        zip(
            plan.merge_rows.tolist(),
            np.split(plan.merge_slots, plan.merge_offsets[1:-1].tolist()),
            strict=True,
        )
        if len(plan.merge_rows)
        else ()
    )
    for row, results in enumerate(written):
        slots = [-1] if row not in merged else merged[row].tolist()
        assert sorted(slot for slot, *_ in results) == slots
    assert len(plan.merge_slots) == len(set(plan.merge_slots.tolist()))
    assert plan.merge_slots.max(initial=-1) < plan.num_slots
    lengths = plan.records[:, F.KEY_LAST] - plan.records[:, F.KEY_FIRST]
    steps = -(-lengths // geometry.keys)
    assert (np.diff(steps) <= 0).all()


def test_a_whole_result_is_not_merged() -> None:
    geometry = Geometry(kv_heads=8, group=4, rows=128, keys=64, programs=264)
    plan = plan_tasks(one_segment(5, 100, causal=True).work, geometry)
    assert plan.records[:, F.SLOT].tolist() == [-1]
    assert plan.num_slots == len(plan.merge_rows) == 0


def test_rows_beyond_the_work_are_merged_from_nothing() -> None:
    geometry = Geometry(kv_heads=8, group=4, rows=128, keys=64, programs=264)
    plan = plan_tasks(one_segment(5, 100, causal=True).work, geometry, num_rows=8)
    assert plan.merge_rows.tolist() == [5, 6, 7]
    assert plan.merge_offsets.tolist() == [0, 0, 0, 0]


def test_one_long_segment_fills_the_device() -> None:
    """A single row over 128k tokens: as many tasks as there are programs, and about two each."""
    geometry = Geometry(kv_heads=8, group=4, rows=128, keys=64, programs=264)
    plan = plan_tasks(one_segment(1, 131_072, causal=True).work, geometry)
    assert 264 <= len(plan.records) * 8 <= 3 * 264


@pytest.mark.parametrize("tokens", [255, 256, 300, 511, 513, 5000])
def test_splits_are_never_short(tokens: int) -> None:
    geometry = Geometry(kv_heads=1, group=1, rows=16, keys=16, programs=1000)
    plan = plan_tasks(one_segment(1, tokens, causal=False).work, geometry)
    lengths = plan.records[:, F.KEY_LAST] - plan.records[:, F.KEY_FIRST]
    assert len(lengths) == max(1, tokens // LEAST_KEYS)
    assert lengths[:-1].min(initial=LEAST_KEYS) >= LEAST_KEYS


def test_a_full_grid_is_not_split_further() -> None:
    geometry = Geometry(kv_heads=8, group=4, rows=128, keys=64, programs=264)
    work = SegmentWork(
        num_rows=2000,
        row_first=np.arange(2000, dtype=np.int32),
        row_last=np.arange(1, 2001, dtype=np.int32),
        kv_tokens=np.full(2000, 700, np.int32),
        starts=np.zeros(2000, np.int32),
        causal=np.ones(2000, np.bool_),
        block_offsets=np.arange(2001) * 22,
        blocks=np.zeros(2000 * 22, np.int32),
        block_size=32,
    )
    plan = plan_tasks(work, geometry)
    assert len(plan.records) == 2000
    assert len(plan.merge_rows) == 0
