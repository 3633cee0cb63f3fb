"""A part of a request table, as a table of its own."""

from __future__ import annotations

import numpy as np

from shoal.types import Int32Array, Int64Array, RequestTable


def part_of(table: RequestTable, requests: Int64Array) -> RequestTable:
    """The table of some requests, copied.

    They draw the same random numbers as in the whole table: lines keep their numbers, and
    `place` says where in its line a request stood.

    Args:
        requests: int64 [R], ascending, at least one.
    """
    lengths = table.lengths[requests]
    distinct, index = np.unique(table.params_index[requests], return_inverse=True)
    line = table.line[requests]
    place = table.place
    return RequestTable(
        tokens=_tokens(table, requests),
        offsets=np.append(0, np.cumsum(lengths)).astype(np.int64),
        params=[table.params[number] for number in distinct.tolist()],
        params_index=index.reshape(-1).astype(np.int32),
        max_new_tokens=table.max_new_tokens[requests],
        expected_new_tokens=table.expected_new_tokens[requests],
        seeds=table.seeds[requests],
        has_seed=table.has_seed[requests],
        line=line,
        job_seed=table.job_seed,
        place=requests - np.searchsorted(table.line, line) if place is None else place[requests],
    )


def _tokens(table: RequestTable, requests: Int64Array) -> Int32Array:
    """Their prompts one after another; requests that follow each other are copied together."""
    heads = np.flatnonzero(np.diff(requests, prepend=-2) != 1)
    tails = np.append(heads[1:], len(requests)) - 1
    begin, end = table.offsets[requests[heads]], table.offsets[requests[tails] + 1]
    runs = [table.tokens[a:b] for a, b in zip(begin.tolist(), end.tolist(), strict=True)]
    return np.concatenate(runs)
