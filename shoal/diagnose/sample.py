"""Which prompts a diagnosis looks at, and what any set of prompts would save.

A diagnosis asks what a job would save if its prompts were written differently. Small jobs are
answered exactly. Of large ones a part is taken such that requests with like content stay together:
what the part would save, scaled by tokens, comes close to what all would, and stays below it
where families of prompts were taken apart: those that are small beside the job.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.diagnose.hashing import UInt64Array, counts_of, look_up, mix, windows_hash
from shoal.planner.forest import Forest, build_forest
from shoal.types import BoolArray, Int32Array, Int64Array, RequestTable

_REGION = 128
_WINDOW = 8
_BLOCKS = 32
_CHUNK = 1 << 12


@dataclass(frozen=True)
class Prompts:
    """Some requests of a job, what is computed of their prompts as one array.

    Attributes:
        request: int64 [M], the table's requests.
        tokens: int32 [total], offsets: int64 [M + 1], choices: int32 [M]: as for `build_forest`.
    """

    request: Int64Array
    tokens: Int32Array
    offsets: Int64Array
    choices: Int32Array

    def __len__(self) -> int:
        return len(self.request)

    @classmethod
    def of(cls, table: RequestTable, request: Int64Array) -> Prompts:
        """The prompts of some requests, copied."""
        lengths = table.computed_lengths[request]
        tokens = table.tokens[ranges(table.offsets[request], lengths)]
        return cls(request, tokens, ends(lengths), table.choices[request])

    @property
    def lengths(self) -> Int64Array:
        """Tokens of each prompt, int64 [M]."""
        return np.diff(self.offsets)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all sequences' prompts."""
        return int((self.lengths * self.choices).sum())

    def saved(self) -> int:
        """Prompt tokens saved when every shared token is computed once."""
        forest = build_forest(self.tokens, self.offsets, self.choices)
        return int(((forest.end - forest.start) * (forest.users - 1)).sum())

    def rearranged(self, start: Int64Array, length: Int64Array) -> Prompts:
        """The prompts with their tokens in another order.

        Args:
            start, length: int64 [pieces], pieces of `tokens` in their new order; those of a
                prompt stay within its bounds.
        """
        return Prompts(self.request, self.tokens[ranges(start, length)], self.offsets, self.choices)


def ranges(start: Int64Array, length: Int64Array) -> Int64Array:
    """The whole numbers of [start, start + length), one range after another."""
    before = np.cumsum(length) - length
    joined: Int64Array = np.repeat(start - before, length) + np.arange(int(length.sum()))
    return joined


def ends(lengths: Int64Array) -> Int64Array:
    """Offsets of runs of these lengths, int64 [n + 1]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def common_prefix(prompts: Prompts, one: int, other: int) -> int:
    """Tokens that two of the prompts begin with together."""
    a, b = (prompts.tokens[prompts.offsets[i] : prompts.offsets[i + 1]] for i in (one, other))
    shorter = min(len(a), len(b))
    differs = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differs[0]) if len(differs) else shorter


def requests_below(forest: Forest) -> Int64Array:
    """Requests that begin with each node's path, int64 [V]: ranks from the node's `first` on."""
    count: Int64Array = np.bincount(forest.request_node + 1, minlength=len(forest) + 1)[1:]
    for nodes in reversed(forest.by_level()[1:]):
        np.add.at(count, forest.parent[nodes], count[nodes])
    return count


def take(
    table: RequestTable,
    chosen: Int64Array,
    *,
    requests: int,
    tokens: int,
    compared: int = 1 << 15,
    depth: int = 0,
) -> Prompts:
    """Some requests, or a part of them: always the same part.

    Args:
        chosen: int64 [M], distinct, in lexicographic order of their prompts.
        requests, tokens: a part has about as many at most.
        compared: requests whose content is looked at to find out which belong together.
        depth: tokens that all of them begin with: the content begins behind these.
    """
    total = max(int(table.computed_lengths[chosen].sum()), 1)
    limit = max(min(requests, int(len(chosen) * tokens / total)), 2)
    if len(chosen) > limit:
        chosen = chosen[:: -(-len(chosen) // max(compared, limit))]
        chosen = _blocks(table, chosen, limit, depth) if len(chosen) > limit else chosen
    return Prompts.of(table, chosen)


def _blocks(table: RequestTable, chosen: Int64Array, limit: int, depth: int) -> Int64Array:
    """About `limit` requests: blocks of neighbours by content, in lexicographic order again."""
    alike = np.argsort(_content_keys(table, chosen, depth), kind="stable")
    count = min(_BLOCKS, limit // 2)
    size = limit // count
    begins = np.linspace(0, len(chosen) - size, count).astype(np.int64)
    taken: Int64Array = chosen[np.unique(alike[begins[:, None] + np.arange(size)])]
    return taken


def _content_keys(table: RequestTable, request: Int64Array, depth: int) -> UInt64Array:
    """A key per request, likely the same for requests that go on much alike behind `depth`.

    It is the least hash among the short windows in the next hundred tokens or so: two requests
    agree on it with a probability that is the share of the windows they have in common, wherever
    these stand (Broder, "On the resemblance and containment of documents", 1997). Windows that
    half of the prompts have, as templates do, tell nothing apart and are left out.
    """
    none = np.uint64(np.iinfo(np.uint64).max)
    keys = np.empty(len(request), dtype=np.uint64)
    common: UInt64Array | None = None
    lengths = table.computed_lengths
    for begin in range(0, len(request), _CHUNK):
        part = request[begin : begin + _CHUNK]
        end = table.offsets[part] + lengths[part]
        start = np.minimum(table.offsets[part] + depth, end)
        window, _, valid = windows_hash(table.tokens, start, end, _REGION, _WINDOW)
        if common is None:
            common = _frequent(window, valid)
        window[~valid | (look_up(window, common, np.ones(len(common), np.int64)) > 0)] = none
        keys[begin : begin + _CHUNK] = mix(window.min(axis=1))
    return keys


def _frequent(window: UInt64Array, valid: BoolArray) -> UInt64Array:
    """The windows that at least half of a few hundred prompts, spread evenly, contain."""
    step = max(1, len(window) // 256)
    distinct, counts = counts_of(window[::step][valid[::step]])
    return distinct[counts * 2 >= len(window[::step])]
