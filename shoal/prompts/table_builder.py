"""Build a `RequestTable` column by column, in memory bounded by its token ids."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from shoal.prompts.length_rules import OutputLength
from shoal.types import (
    BASE_MODEL,
    Adapter,
    Int32Array,
    Int64Array,
    LengthSwitch,
    RequestParams,
    RequestTable,
)


class TableBuilder:
    """Collects requests; `build` may be called once, after the last `add`.

    The token ids live in one buffer that grows in place, and the table is a view of it: there is
    never a second copy.

    Args:
        padding: a token that no prompt ends with, but one of this token alone; None: any may.
    """

    def __init__(self, padding: int | None = None) -> None:
        self._padding = padding
        self._tokens = array("i")
        self._ends = array("q", [0])
        self._params: list[RequestParams] = []
        self._params_of_key: dict[bytes, int] = {}
        self._params_index = array("i")
        self._max_new = array("i")
        self._expected = array("i")
        self._seeds = array("q")
        self._has_seed = bytearray()
        self._line = array("q")
        self._adapter = array("i")

    def add(
        self,
        line: int,
        prompt: Sequence[int],
        params: RequestParams,
        params_key: bytes,
        seed: int | None,
        length: OutputLength,
        adapter: int = BASE_MODEL,
    ) -> None:
        """Append one request. `params` of equal `params_key` are stored once."""
        index = self._params_of_key.setdefault(params_key, len(self._params))
        if index == len(self._params):
            self._params.append(params)
        last = len(prompt)
        while last > 1 and prompt[last - 1] == self._padding:
            last -= 1
        self._tokens.extend(array("i", prompt[:last]))
        self._ends.append(len(self._tokens))
        self._params_index.append(index)
        self._max_new.append(length.limit)
        self._expected.append(length.expected)
        self._seeds.append(0 if seed is None else seed)
        self._has_seed.append(seed is not None)
        self._line.append(line)
        self._adapter.append(adapter)

    def lines_among(self, lines: Int64Array) -> Int64Array:
        """Those of `lines` that have a request here."""
        return lines[np.isin(lines, np.array(self._line, dtype=np.int64))]

    def build(
        self,
        *,
        job_seed: int,
        without_lines: Int64Array,
        switch: LengthSwitch | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> RequestTable:
        """The table of all requests but those of some lines.

        Args:
            adapters: that requests were added with, by their number.
        """
        line = np.frombuffer(self._line, dtype=np.int64)
        keep = ~np.isin(line, without_lines)
        tokens = np.frombuffer(self._tokens, dtype=np.int32)
        offsets = np.frombuffer(self._ends, dtype=np.int64)
        if not keep.all():
            tokens, offsets = _compact(tokens, offsets, keep.nonzero()[0])
        adapter = np.frombuffer(self._adapter, dtype=np.int32)[keep]
        named = bool((adapter != BASE_MODEL).any())
        return RequestTable(
            tokens=tokens,
            offsets=offsets,
            params=tuple(self._params),
            params_index=np.frombuffer(self._params_index, dtype=np.int32)[keep],
            max_new_tokens=np.frombuffer(self._max_new, dtype=np.int32)[keep],
            expected_new_tokens=np.frombuffer(self._expected, dtype=np.int32)[keep],
            seeds=np.frombuffer(self._seeds, dtype=np.int64)[keep],
            has_seed=np.frombuffer(self._has_seed, dtype=np.bool_)[keep],
            line=line[keep],
            job_seed=job_seed,
            switch=switch,
            adapters=tuple(adapters) if named else (),
            adapter=adapter if named else None,
        )


def _compact(
    tokens: Int32Array, offsets: Int64Array, kept: Int64Array
) -> tuple[Int32Array, Int64Array]:
    """Move the kept prompts together inside `tokens`, one run of neighbours at a time."""
    new_offsets = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum(offsets[kept + 1] - offsets[kept], out=new_offsets[1:])
    breaks = (np.diff(kept) != 1).nonzero()[0] + 1
    for run in np.split(kept, breaks) if len(kept) else []:
        first, last = int(offsets[run[0]]), int(offsets[run[-1] + 1])
        to = int(new_offsets[np.searchsorted(kept, run[0])])
        tokens[to : to + last - first] = tokens[first:last]
    return tokens[: new_offsets[-1]], new_offsets
