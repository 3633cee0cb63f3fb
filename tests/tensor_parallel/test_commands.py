"""Messages between the processes survive the way."""

from __future__ import annotations

from dataclasses import astuple, fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.processes.wire import decode, encode
from shoal.tensor_parallel.commands import Allocate, Answer, ForwardBatch, Free, Outcome
from shoal.work import SegmentWork

NUMBERS = st.integers(0, 2**31 - 1)


@st.composite
def works(draw: st.DrawFn) -> SegmentWork:
    items, blocks = draw(st.integers(0, 7)), draw(st.integers(0, 9))

    def column(count: int, dtype: type) -> np.ndarray:
        return np.array(draw(st.lists(NUMBERS, min_size=count, max_size=count)), dtype=dtype)

    return SegmentWork(
        num_rows=draw(NUMBERS),
        row_first=column(items, np.int32),
        row_last=column(items, np.int32),
        kv_tokens=column(items, np.int32),
        starts=column(items, np.int32),
        causal=column(items, np.int64) % 2 == 0,
        block_offsets=column(items + 1, np.int64),
        blocks=column(blocks, np.int32),
        block_size=draw(st.sampled_from([16, 32])),
    )


@given(works(), NUMBERS, st.none() | NUMBERS, st.lists(NUMBERS, max_size=5))
def test_a_batch_arrives_as_it_was(
    work: SegmentWork, tokens: int, rows: int | None, layers: list[int]
) -> None:
    sent = ForwardBatch(tokens, rows, np.array(layers, dtype=np.int64), work)
    got = decode(encode(sent))
    assert isinstance(got, ForwardBatch)
    assert (got.tokens, got.rows, got.layers.tolist()) == (tokens, rows, layers)
    for field in fields(SegmentWork):
        ours, theirs = getattr(work, field.name), getattr(got.work, field.name)
        if isinstance(ours, np.ndarray):
            assert theirs.dtype == ours.dtype
            assert theirs.flags.writeable
            assert theirs.flags.aligned
            np.testing.assert_array_equal(theirs, ours)
        else:
            assert theirs == ours


@given(st.lists(NUMBERS, max_size=4), NUMBERS, st.tuples(*[NUMBERS] * 5))
def test_other_commands_arrive_as_they_were(
    freed: list[int], number: int, shape: tuple[int, int, int, int, int]
) -> None:
    for message in (Free(tuple(freed)), Allocate(number, shape)):
        got = decode(encode(message))
        assert type(got) is type(message)
        assert astuple(got) == astuple(message)


def test_columns_of_a_batch() -> None:
    work = SegmentWork(2, *[np.zeros(0, np.int32)] * 4, np.zeros(0, np.bool_),
                       np.zeros(1, np.int64), np.zeros(0, np.int32), 32)  # fmt: skip
    assert ForwardBatch(5, 2, np.zeros(0, np.int64), work).num_columns == 17
    assert ForwardBatch(5, None, np.zeros(0, np.int64), work).num_columns == 15


@given(st.sampled_from(Outcome), st.text())
def test_answers_arrive_as_they_were(outcome: Outcome, text: str) -> None:
    assert decode(encode(Answer(outcome, text))) == Answer(outcome, text)
