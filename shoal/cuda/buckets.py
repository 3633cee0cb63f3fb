"""Numbers of rows that graphs are captured for."""

from __future__ import annotations

from bisect import bisect_left

MAX_GRAPH_ROWS = 4096
"""Largest batch that is replayed. Launching an eager forward takes the host the same time whatever
the batch; a graph pays where the device would be done sooner. On an H100 machine that was about
1 ms a layer of transformers' own modules (33 ms for the 32 of an 8B model, docs/lab-notes.md), as
long as the device takes for 1,500 rows of it, or for 8,000 of a 1B model."""

LEAST_STEP = 8
"""Rows between buckets, at least, from 8 on: a product takes its rows in tiles of no fewer."""

MOST_STEP = 128
"""Rows between buckets, at most: as many as a tile of a large product has."""

STEPS_PER_DOUBLING = 8
"""From 64 rows on, the step is an eighth of the power of two below, up to `MOST_STEP`: padding
stays under 12 %, and under 128 rows."""

LEAST_LOGITS = 512
"""Batches of more rows have graphs by how many rows' logits are wanted, too: the head of a prefill
chunk would otherwise be computed for rows that nobody samples from."""


def buckets(most: int = MAX_GRAPH_ROWS) -> tuple[int, ...]:
    """Rows of the graphs, ascending: 1, 2, 4, 8, 16, 24, ... `most`."""
    found = [size for size in (1, 2, 4) if size < most]
    size = LEAST_STEP
    while size < most:
        found.append(size)
        eighth = (1 << (size.bit_length() - 1)) // STEPS_PER_DOUBLING
        size += min(MOST_STEP, max(LEAST_STEP, eighth))
    return (*found, most)


def logit_bucket(size: int, rows: int) -> int:
    """Logits that a graph of `size` rows gives where those of `rows` are wanted, at most `size`."""
    power = 1 << max(rows - 1, 0).bit_length()
    return min(size, max(LEAST_LOGITS, power))


def bucket_for(sizes: tuple[int, ...], rows: int) -> int | None:
    """The least of `sizes` that holds `rows`; None: none does."""
    index = bisect_left(sizes, rows)
    return sizes[index] if index < len(sizes) else None
