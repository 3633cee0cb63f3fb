"""Messages arrive as they were sent; large arrays go by themselves."""

from __future__ import annotations

import threading
from multiprocessing import Pipe
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.processes.wire import LARGE_BYTES, decode, encode, receive_frames, send_frames

SIZES = st.sampled_from([0, 1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])


def sent(message: object) -> Any:
    """The message after its way through a pipe."""
    here, there = Pipe()
    sender = threading.Thread(target=send_frames, args=(here, encode(message)))
    sender.start()
    received = decode(receive_frames(there))
    sender.join()
    here.close()
    with pytest.raises(EOFError):
        receive_frames(there)
    return received


@settings(deadline=None)
@given(st.lists(SIZES, max_size=3))
def test_arrays_arrive_as_they_were(sizes: list[int]) -> None:
    arrays = [np.arange(size).astype(np.uint8) for size in sizes]
    assert len(encode(arrays)) == 1 + sum(size >= LARGE_BYTES for size in sizes)
    for ours, theirs in zip(arrays, sent(arrays), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert theirs.flags.writeable


def test_what_they_are_part_of_arrives_too() -> None:
    table = {"numbers": np.arange(10**5, dtype=np.int64)[::-1], "names": ("a", None), "one": 1.5}
    found = sent(table)
    assert found["numbers"].dtype == np.int64
    assert found["numbers"].tolist() == table["numbers"].tolist()  # type: ignore[union-attr]
    assert (found["names"], found["one"]) == (("a", None), 1.5)
