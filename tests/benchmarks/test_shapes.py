from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gpu_parts.kernel import DECODE_ROWS, DEGREES, PREFIXES, shapes
from benchmarks.shapes import BLOCK, Heads, Shape

SHAPE = Shape("odd", segments=2, shared=50, users=3, rows=4, own=37)
HEADS = Heads(6, 2, 8)


def test_items_and_pairs() -> None:
    work = SHAPE.work()
    assert len(work) == 2 * (3 + 1)
    assert work.num_rows == SHAPE.num_rows == 24
    rows = work.row_last - work.row_first
    seen = rows * work.kv_tokens - np.where(work.causal, rows * (rows - 1) // 2, 0)
    assert int(seen.sum()) == SHAPE.pairs
    assert SHAPE.flops(HEADS) == SHAPE.pairs * 6 * 4 * 8
    tokens = int(work.kv_tokens.sum())
    assert SHAPE.kv_bytes(HEADS, 4) == tokens * 2 * 8 * 2 * 4
    assert SHAPE.row_bytes(HEADS, 4) == 24 * 6 * 8 * 2 * 4


def test_blocks_are_used_once_in_a_random_order() -> None:
    work = SHAPE.work()
    assert sorted(work.blocks.tolist()) == list(range(SHAPE.num_blocks))
    assert work.blocks.tolist() != sorted(work.blocks.tolist())
    lengths = np.diff(work.block_offsets)
    assert np.array_equal(lengths, -(-work.kv_tokens // BLOCK))


def test_two_launches_divide_the_work() -> None:
    whole, own, shared = SHAPE.work(), SHAPE.work(True), SHAPE.work(False)
    assert own.causal.all()
    assert not shared.causal.any()
    parts = {}
    for work in (own, shared):
        assert work.num_rows == whole.num_rows
        for item in range(len(work)):
            key = int(work.row_first[item]), int(work.row_last[item]), bool(work.causal[item])
            parts[key] = work.slots(item).tolist()
    assert len(parts) == len(whole)
    for item in range(len(whole)):
        key = int(whole.row_first[item]), int(whole.row_last[item]), bool(whole.causal[item])
        assert parts[key] == whole.slots(item).tolist()


def test_nothing_shared() -> None:
    shape = Shape("alone", 1, 0, 1, 5, 9)
    assert len(shape.work()) == 1
    assert len(shape.work(False)) == 0
    assert shape.pairs == 5 + 6 + 7 + 8 + 9


def test_the_kernel_is_timed_over_all_prefixes_and_degrees() -> None:
    found = shapes()
    assert len({shape.name for shape in found}) == len(found)
    decodes = [shape for shape in found if shape.rows == 1]
    assert {(s.shared, s.users) for s in decodes} == {(p, d) for p in PREFIXES for d in DEGREES}
    assert all(shape.num_rows == DECODE_ROWS for shape in decodes)
    assert any(shape.rows > 1 and shape.shared for shape in found[:6])
    assert found[0] in decodes


@pytest.mark.parametrize("shape", shapes(), ids=lambda shape: shape.name)
def test_shapes_fit_a_gpu(shape: Shape) -> None:
    """Keys and values, with a dense copy for torch, in bfloat16."""
    heads = Heads(32, 8, 128)
    dense = shape.requests * (shape.shared + shape.own) * heads.kv_heads * heads.dim * 4
    assert shape.kv_bytes(heads) + 3 * dense < 70e9
