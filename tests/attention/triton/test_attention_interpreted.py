"""The Triton kernels under Triton's interpreter, against attention by its definition in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.attention import KVLayer, KVShape
from shoal.attention.reference import merge
from shoal.attention.triton import Capacity, Tiles, TritonAttention
from shoal.errors import InternalError
from shoal.work import SegmentWork
from tests.helpers.attention_work import (
    CPU,
    TOLERANCE,
    Case,
    dense_attention,
    filled,
    one_segment,
    random_case,
    random_inputs,
    used_slots,
)

SMALL = Tiles(rows=32, keys=32, warps=4, stages=2, programs=1, sideways=True)
"""Small tiles, so that small cases have many of them."""
UPRIGHT = replace(SMALL, sideways=False)
NUMBERS = [torch.float32, torch.float16]


def check(
    backend: TritonAttention,
    case: Case,
    heads: tuple[int, int],
    dims: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    lse_too: bool = False,
) -> None:
    """The backend's output (and its LSE) for random inputs, in a pool that is NaN elsewhere."""
    query, keys, values = random_inputs(case, heads, dims, dtype)
    layer = damaged(backend, case, keys, values)
    prepared, scale = backend.prepare(case.work, CPU), dims[0] ** -0.5
    expected = dense_attention(case, query, keys, values, scale)
    out = backend(query, layer, prepared, scale)
    assert (out.dtype, out.shape) == (dtype, expected.shape)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)
    if not lse_too:
        return
    found, lse = backend.partial(query, layer, prepared, scale)
    torch.testing.assert_close(found.double(), expected, atol=TOLERANCE[dtype], rtol=0)
    expected_lse = dense_lse(case, query, keys, scale)
    torch.testing.assert_close(lse.double(), expected_lse, atol=TOLERANCE[dtype], rtol=0)


def damaged(
    backend: TritonAttention, case: Case, keys: torch.Tensor, values: torch.Tensor
) -> KVLayer:
    """A pool that holds what `case` needs, and NaN everywhere else."""
    empty = replace(case, work=replace(case.work, kv_tokens=np.zeros_like(case.work.kv_tokens)))
    layer = filled(backend, empty, keys, values)
    layer.keys.fill_(torch.nan)
    layer.values.fill_(torch.nan)
    slots = torch.from_numpy(used_slots(case.work))
    backend.store(layer, slots, keys[:, slots], values[:, slots])
    return layer


def dense_lse(case: Case, query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    group = len(query) // len(keys)
    lse = torch.empty(query.shape[1], len(query), dtype=torch.float64)
    for row, slots in enumerate(case.row_slots):
        k = keys[:, torch.from_numpy(slots)].double().repeat_interleave(group, dim=0)
        lse[row] = torch.einsum("hd,hsd->hs", query[:, row].double(), k).mul(scale).logsumexp(-1)
    return lse


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (8, 2), (7, 1), (16, 1)])
def test_every_group_size(heads: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(heads[0])
    check(
        TritonAttention(SMALL),
        random_case(3, block_size=16, scattered=True),
        heads,
        (16, 16),
        dtype,
    )


@pytest.mark.parametrize(
    "dims", [(64, 64), (80, 80), (96, 96), (128, 128), (256, 256), (8, 8), (72, 24), (16, 120)]
)
@pytest.mark.parametrize("tiles", [SMALL, UPRIGHT], ids=["sideways", "upright"])
def test_every_head_dimension(dims: tuple[int, int], tiles: Tiles) -> None:
    """80, 96, 72 are held in two halves, 8, 24, 120 are padded."""
    torch.manual_seed(dims[0])
    check(TritonAttention(tiles), random_case(5, block_size=32, scattered=True), (4, 2), dims)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_tiles_of_the_table(dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(dim)
    check(TritonAttention(), one_segment(70, 150, causal=True), (4, 2), (dim, dim), dtype)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    block_size=st.sampled_from([16, 32, 64]),
    scattered=st.booleans(),
    heads=st.sampled_from([(2, 2), (4, 1), (3, 1), (6, 2)]),
    programs=st.sampled_from([1, 2, 5]),
    tiles=st.sampled_from([SMALL, UPRIGHT]),
)
def test_any_forest(
    seed: int,
    block_size: int,
    scattered: bool,
    heads: tuple[int, int],
    programs: int,
    tiles: Tiles,
) -> None:
    torch.manual_seed(seed)
    case = random_case(seed, block_size=block_size, scattered=scattered)
    check(TritonAttention(tiles, programs), case, heads, (16, 16), lse_too=True)


@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 70])
@pytest.mark.parametrize("tokens", [0, 1, 15, 16, 17, 90])
@pytest.mark.parametrize("causal", [False, True])
def test_odd_lengths(rows: int, tokens: int, causal: bool) -> None:
    """Of a causal item, `tokens` lie before the chunk; its diagonal crosses tiles at any place."""
    torch.manual_seed(rows)
    case = one_segment(rows, tokens + rows * causal, causal=causal)
    if tokens == 0 and not causal:
        backend = TritonAttention(SMALL)
        query, keys, values = random_inputs(case, (2, 1), (16, 16), torch.float32)
        layer = filled(backend, case, keys, values)
        out, lse = backend.partial(query, layer, backend.prepare(case.work, CPU), 0.25)
        assert torch.equal(out, torch.zeros_like(out))
        assert torch.equal(lse, torch.full_like(lse, -torch.inf))
    else:
        check(TritonAttention(SMALL), case, (3, 1), (16, 16), lse_too=True)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1100), (5, 1100), (70, 900)])
@pytest.mark.parametrize("causal", [False, True])
def test_split_keys(rows: int, tokens: int, causal: bool) -> None:
    """Many programs, little work: ranges of the least length, merged afterwards."""
    torch.manual_seed(rows)
    tiles = replace(SMALL if rows == 1 else UPRIGHT, keys=64)
    case = one_segment(rows, tokens, causal=causal)
    backend = TritonAttention(tiles, programs=64)
    check(backend, case, (3, 1), (16, 16), lse_too=True)


def test_a_chunk_longer_than_a_range_of_keys() -> None:
    """Its first rows see nothing of the later ranges."""
    torch.manual_seed(0)
    backend = TritonAttention(replace(SMALL, keys=64, rows=128), programs=64)
    check(backend, one_segment(600, 700, causal=True), (1, 1), (16, 16), lse_too=True)


def test_nothing_at_all() -> None:
    backend = TritonAttention(SMALL)
    case = one_segment(0, 0, causal=False)
    query, keys, values = random_inputs(case, (2, 1), (16, 16), torch.float32)
    layer = filled(backend, case, keys, values)
    assert backend(query, layer, backend.prepare(case.work, CPU), 1.0).shape == (0, 2, 16)


def test_rows_that_no_item_covers_are_zeros() -> None:
    backend = TritonAttention(SMALL)
    case = one_segment(5, 40, causal=True)
    case = Case(
        replace(case.work, num_rows=8), case.row_slots + [case.row_slots[0][:0]] * 3, case.num_slots
    )
    query, keys, values = random_inputs(case, (2, 1), (16, 16), torch.float32)
    layer = filled(backend, case, keys, values)
    out = backend(query, layer, backend.prepare(case.work, CPU), 0.25)
    torch.testing.assert_close(
        out.double(), dense_attention(case, query, keys, values, 0.25), atol=2e-5, rtol=0
    )
    assert torch.equal(out[5:], torch.zeros(3, 2, 16))


def test_first_rows_of_a_chunk_longer_than_its_keys_see_nothing() -> None:
    case = one_segment(6, 4, causal=True)
    seen = [case.work.slots(0)[: max(row - 1, 0)] for row in range(6)]
    check_without_lse(Case(case.work, seen, case.num_slots))


def check_without_lse(case: Case) -> None:
    backend = TritonAttention(SMALL)
    query, keys, values = random_inputs(case, (2, 1), (16, 16), torch.float32)
    out = backend(
        query, damaged(backend, case, keys, values), backend.prepare(case.work, CPU), 0.25
    )
    expected = dense_attention(case, query, keys, values, 0.25)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:All-NaN slice")
@pytest.mark.parametrize("rows", [4, 40])
@pytest.mark.parametrize("tiles", [SMALL, UPRIGHT], ids=["sideways", "upright"])
@pytest.mark.parametrize("programs", [1, 64])
def test_nan_is_not_swallowed(rows: int, tiles: Tiles, programs: int) -> None:
    case = one_segment(rows, 550, causal=False)
    query, keys, values = random_inputs(case, (2, 2), (16, 16), torch.float32)
    query[1, 2, 3] = torch.nan
    lost = torch.zeros(rows, 2, dtype=torch.bool)
    lost[2, 1] = True
    backend = TritonAttention(tiles, programs)
    layer = filled(backend, case, keys, values)
    out = backend(query, layer, backend.prepare(case.work, CPU), 0.25)
    assert torch.equal(out.isnan().any(dim=-1), lost)


@pytest.mark.parametrize("rows", [2, 40])
def test_large_scores(rows: int) -> None:
    torch.manual_seed(0)
    case = one_segment(rows, 550, causal=True)
    query, keys, values = random_inputs(case, (4, 2), (32, 48), torch.float32)
    query *= 40
    for programs in (1, 64):
        backend = TritonAttention(SMALL, programs)
        layer = filled(backend, case, keys, values)
        out = backend(query, layer, backend.prepare(case.work, CPU), 1.0)
        expected = dense_attention(case, query, keys, values, 1.0)
        # Scores of some hundreds: float32 itself errs by 1e-4 in the exponent.
        torch.testing.assert_close(out.double(), expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("tiles", [SMALL, UPRIGHT], ids=["sideways", "upright"])
@pytest.mark.parametrize("rows", [2, 40])
def test_keys_that_get_no_weight_at_all(rows: int, tiles: Tiles) -> None:
    """Scores of -inf in the whole first step."""
    case = one_segment(rows, 70, causal=False)
    query, keys, values = random_inputs(case, (2, 2), (16, 16), torch.float32)
    query[..., 0] = 1
    keys[:, case.work.slots(0)[:33], 0] = -torch.inf
    backend = TritonAttention(tiles)
    layer = filled(backend, case, keys, values)
    out = backend(query, layer, backend.prepare(case.work, CPU), 0.25)
    expected = dense_attention(case, query, keys, values, 0.25)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("columns", [1, 2])
def test_reads_any_strides(columns: int) -> None:
    """Queries, keys and values as views of one fused product, rows outermost; also every other
    column of one."""
    case = one_segment(30, 90, causal=True)
    fused = torch.randn(30, (4 + 2 + 2) * 16 * columns)[:, ::columns]
    query, key, value = (
        part.unflatten(1, (-1, 16)).transpose(0, 1) for part in fused.split([64, 32, 32], dim=1)
    )
    _, keys, values = random_inputs(case, (4, 2), (16, 16), torch.float32)
    backend = TritonAttention(SMALL)
    layer = filled(backend, case, keys, values)
    every = torch.from_numpy(case.work.slots(0).repeat(2))
    slots = every[::2][60:]
    assert slots.stride(0) == 2
    backend.store(layer, slots, key, value)
    keys[:, slots], values[:, slots] = key, value
    out = backend(query, layer, backend.prepare(case.work, CPU), 0.25)
    expected = dense_attention(case, query, keys, values, 0.25)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("key_dim", "value_dim"), [(16, 16), (80, 24), (5, 7)])
@pytest.mark.parametrize("rows", [0, 1, 16, 37])
def test_store_writes_its_slots_and_no_others(
    dtype: torch.dtype, key_dim: int, value_dim: int, rows: int
) -> None:
    backend = TritonAttention()
    shape = KVShape(3, key_dim, value_dim, 5, 16, dtype, CPU)
    layer = backend.allocate(shape)
    slots = torch.randperm(80)[:rows]
    key, value = torch.randn(3, rows, key_dim).to(dtype), torch.randn(3, rows, value_dim).to(dtype)
    backend.store(layer, slots, key, value)
    for pool, new in ((layer.keys, key), (layer.values, value)):
        flat = pool.transpose(0, 1).reshape(3, 80, -1)
        expected = torch.zeros_like(flat)
        expected[:, slots] = new
        assert torch.equal(flat, expected)


def test_two_launches_merged_are_one() -> None:
    """Shared segments and own ones apart, as a kernel without one launch for all would do it."""
    case = random_case(11, block_size=16, scattered=True)
    query, keys, values = random_inputs(case, (4, 2), (16, 16), torch.float32)
    backend = TritonAttention(SMALL)
    layer = filled(backend, case, keys, values)
    out = torch.zeros(case.work.num_rows, 4, 16)
    lse = torch.full((case.work.num_rows, 4), -torch.inf)
    for chosen in (case.work.causal, ~case.work.causal):
        prepared = backend.prepare(some_items(case.work, np.flatnonzero(chosen)), CPU)
        merge(out, lse, *backend.partial(query, layer, prepared, 0.25))
    expected = dense_attention(case, query, keys, values, 0.25)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


def some_items(work: SegmentWork, items: np.ndarray) -> SegmentWork:
    spans = [work.blocks[work.block_offsets[i] : work.block_offsets[i + 1]] for i in items]
    lengths = [len(span) for span in spans]
    return replace(
        work,
        row_first=work.row_first[items],
        row_last=work.row_last[items],
        kv_tokens=work.kv_tokens[items],
        starts=work.starts[items],
        causal=work.causal[items],
        block_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        blocks=np.concatenate([np.zeros(0, np.int32), *spans]),
    )


def test_fixed_buffers_are_the_same_for_batch_after_batch() -> None:
    """Large and small in turn; what the larger left behind is not seen. Rows beyond the work's
    are zeros."""
    backend = TritonAttention(SMALL)
    fixed = backend.fixed(Capacity(rows=100, blocks=400), CPU)
    addresses = set()
    for seed in (8, 1, 5, 8, 2):
        case = random_case(seed, block_size=16, scattered=True)
        query, keys, values = random_inputs(case, (4, 2), (16, 16), torch.float32)
        layer = damaged(backend, case, keys, values)
        assert fixed.fill(case.work)
        rows = case.work.num_rows
        padded = torch.full((4, 100, 16), torch.nan)
        padded[:, :rows] = query
        out = backend(padded, layer, fixed, 0.25)
        expected = dense_attention(case, query, keys, values, 0.25)
        torch.testing.assert_close(out[:rows].double(), expected, atol=2e-5, rtol=0)
        assert torch.equal(out[rows:], torch.zeros_like(out[rows:]))
        (tasks,) = fixed._tasks.values()
        (space,) = fixed._workspaces.values()
        addresses.add((tasks.counts.data_ptr(), tasks.blocks.data_ptr(), space.out.data_ptr()))
    assert len(addresses) == 1


def test_fixed_buffers_take_fewer_query_rows_than_they_could() -> None:
    backend = TritonAttention(SMALL)
    fixed = backend.fixed(Capacity(rows=64, blocks=50), CPU)
    case = one_segment(7, 40, causal=True)
    query, keys, values = random_inputs(case, (4, 2), (16, 16), torch.float32)
    layer = filled(backend, case, keys, values)
    assert fixed.fill(case.work)
    out = backend(query, layer, fixed, 0.25)
    expected = dense_attention(case, query, keys, values, 0.25)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


def test_fixed_buffers_refuse_what_does_not_fit() -> None:
    backend = TritonAttention(SMALL)
    fixed = backend.fixed(Capacity(rows=8, blocks=6, parts_per_row=1), CPU)
    small, many_rows = one_segment(8, 90, causal=False), one_segment(9, 90, causal=False)
    query, keys, values = random_inputs(small, (2, 1), (16, 16), torch.float32)
    layer = filled(backend, small, keys, values)
    with pytest.raises(InternalError, match="before a work list"):
        backend(query, layer, fixed, 0.25)
    assert not fixed.fill(many_rows.work)
    assert not fixed.fill(one_segment(8, 32 * 6 + 1, causal=False).work)
    assert fixed.fill(small.work)
    expected = backend(query, layer, fixed, 0.25)
    many_items = some_items(small.work, np.zeros(200, np.int64))
    assert not fixed.fill(replace(many_items, blocks=small.work.blocks))
    assert torch.equal(backend(query, layer, fixed, 0.25), expected)
    fresh = backend.fixed(Capacity(rows=8, blocks=6, parts_per_row=1), CPU)
    assert fresh.fill(replace(many_items, blocks=small.work.blocks))
    with pytest.raises(InternalError, match="fill a smaller one first"):
        backend(query, layer, fresh, 0.25)
