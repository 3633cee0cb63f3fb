"""Numbers of rows that graphs are captured for."""

from __future__ import annotations

from bisect import bisect_left

MAX_GRAPH_ROWS = 512
"""Largest batch that is replayed. Launching an eager forward takes the host some time whatever the
batch; a graph pays where the device would be done sooner. An estimate, to be replaced by a
measurement: a layer of transformers is some 20 launches of about 20 us each with Python around
them, 13 ms for 32 layers; that is what an H200 takes for 512 rows of an 8B model (16 GFLOP each, at
650 of the 770 to 800 TFLOP/s measured for a large product)."""

LEAST_STEP = 8
"""Rows between buckets, at least, from 8 on: a product takes its rows in tiles of no fewer."""

STEPS_PER_DOUBLING = 8
"""From 64 rows on, the step is an eighth of the power of two below: padding stays under 12 %."""


def buckets(most: int = MAX_GRAPH_ROWS) -> tuple[int, ...]:
    """Rows of the graphs, ascending: 1, 2, 4, 8, 16, 24, ... `most`."""
    found = [size for size in (1, 2, 4) if size < most]
    size = LEAST_STEP
    while size < most:
        found.append(size)
        size += max(LEAST_STEP, (1 << (size.bit_length() - 1)) // STEPS_PER_DOUBLING)
    return (*found, most)


def bucket_for(sizes: tuple[int, ...], rows: int) -> int | None:
    """The least of `sizes` that holds `rows`; None: none does."""
    index = bisect_left(sizes, rows)
    return sizes[index] if index < len(sizes) else None
