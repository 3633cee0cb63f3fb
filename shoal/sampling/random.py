"""Random numbers that are a function of (stream, position), with no state to lose.

A stream is a 64-bit key, one per choice of a request; its p-th number is splitmix64 (Steele, Lea
and Flood, OOPSLA 2014) at counter p. So the draw for a token depends neither on the batch it ran
in, nor on the schedule, nor on whether the run was interrupted: only on key and position.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import numpy.typing as npt

from shoal.types import Int32Array, Int64Array, RequestTable

UInt64Array = npt.NDArray[np.uint64]
Float64Array = npt.NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stream_key(table: RequestTable, request: int, choice: int) -> int:
    """The 64-bit key of one choice's stream.

    With a seed it is a function of (seed, prompt tokens, choice) alone: the request draws the same
    numbers alone, in any batch, in any order and after a resume, and two prompts under one seed
    draw unrelated ones. Without a seed it is a function of (job seed, line, index within the
    line's prompts, choice), so that identical requests of a job differ. Choices of one request are
    unrelated either way.
    """
    if table.has_seed[request]:
        return seeded_key(int(table.seeds[request]), table.prompt(request), choice)
    line, index = int(table.line[request]), table.prompt_index_of(request)
    return _digest(b"line", table.job_seed_of(request), line, index, choice)


def seeded_key(seed: int, prompt: Int32Array, choice: int) -> int:
    """The key of a request with a seed; see `stream_key`."""
    tokens = np.ascontiguousarray(prompt, dtype="<i4").tobytes()
    return _digest(b"seed" + tokens, seed, choice)


def uniform(keys: UInt64Array, positions: Int32Array | Int64Array) -> Float64Array:
    """The number at each position of each stream.

    Args:
        keys: uint64 [S].
        positions: int32 or int64 [S], at least 0.

    Returns:
        float64 [S], strictly between 0 and 1, multiples of 2**-53.
    """
    state = keys + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    bits: UInt64Array = (state ^ (state >> np.uint64(31))) >> np.uint64(12)
    # 52 bits and a half: 53 bits and a half would round up to 1.
    numbers: Float64Array = (bits.astype(np.float64) + 0.5) * 2.0**-52
    return numbers


def _digest(head: bytes, *numbers: int) -> int:
    """64 bits of BLAKE2b over the head and the numbers, the same on every machine."""
    packed = struct.pack(f"<{len(numbers)}Q", *(number % 2**64 for number in numbers))
    return int.from_bytes(hashlib.blake2b(head + packed, digest_size=8).digest(), "little")
