"""A varying field early in the prompt - an id, a time, a name - that ends the sharing.

After the field the prompts go on with the same text, but what follows a difference cannot be
shared. Such prompts are recognised by windows of tokens that occur behind several different
beginnings; what the field costs is what the forest of the prompts with their fields moved to the
end saves beyond the forest as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.diagnose.finding import Example, Finding, FindingKind
from shoal.diagnose.hashing import UInt64Array, counts_of, look_up, mix, windows_hash
from shoal.diagnose.sample import Prompts, take
from shoal.planner.forest import Forest
from shoal.types import BoolArray, Int64Array, RequestTable

_LONGEST_FIELD = 128
_WINDOW = 32
"""Tokens that must be the same behind the field: longer than what chat templates put there."""
_CANDIDATES = 24
_PILOT = {"requests": 2048, "tokens": 1 << 20}
_FULL = {"requests": 1 << 15, "tokens": 1 << 24, "compared": 1 << 17}
_MOST_FINDINGS = 3


@dataclass(frozen=True)
class _Branching:
    """A point where prompts part: `depth` tokens in, the requests of ranks [first, last)."""

    depth: int
    first: int
    last: int
    below: int
    """Tokens computed below it: no field there can cost more."""


def find_varying_fields(
    table: RequestTable, forest: Forest, by_rank: Int64Array, least_tokens: int
) -> list[Finding]:
    """Fields that cost at least `least_tokens`, dearest first, of requests apart from each other.

    Args:
        forest: of the table's requests.
        by_rank: int64, the requests that may share, in lexicographic order.
    """
    tried: list[tuple[int, _Branching]] = []
    for branching in _branchings(table, forest, by_rank, least_tokens):
        # Largest first: what is nested in a branching that was tried comes after it.
        above = max((gain for gain, b in tried if _nested(branching, b)), default=0)
        if branching.below > above:
            tried.append((_estimate(table, by_rank, branching), branching))
    tried.sort(key=lambda item: (-item[0], -item[1].depth))
    found: list[Finding] = []
    taken: list[_Branching] = []
    for gain, branching in tried:
        overlaps = any(_nested(branching, b) or _nested(b, branching) for b in taken)
        if gain * 2 < least_tokens or overlaps or len(found) == _MOST_FINDINGS:
            continue
        finding = _measure(table, by_rank, branching)
        if finding is not None and finding.cost_tokens >= least_tokens:
            found.append(finding)
            taken.append(branching)
    return found


def _nested(inner: _Branching, outer: _Branching) -> bool:
    return outer.first <= inner.first and inner.last <= outer.last


def _branchings(
    table: RequestTable, forest: Forest, by_rank: Int64Array, least_tokens: int
) -> list[_Branching]:
    """The points below which most is computed, most first; the very beginning among them."""
    size = np.zeros(len(forest) + 1, dtype=np.int64)  # requests; the last entry: all of them
    np.add.at(size, forest.request_node[by_rank], 1)
    saved = np.append((forest.end - forest.start) * (forest.users - 1), 0)
    own = saved.copy()
    for nodes in reversed(forest.by_level()):
        np.add.at(size, forest.parent[nodes], size[nodes])
        np.add.at(saved, forest.parent[nodes], saved[nodes])
    first, end = np.append(forest.first, 0), np.append(forest.end, 0)
    choices = forest.choices[by_rank]
    prompt = np.concatenate([[0], np.cumsum(table.computed_lengths[by_rank] * choices)])
    users = np.concatenate([[0], np.cumsum(choices)])
    last = first + size
    below = prompt[last] - prompt[first] - end * (users[last] - users[first]) - (saved - own)
    largest = np.argsort(-below, kind="stable")[:_CANDIDATES]
    return [
        _Branching(int(end[v]), int(first[v]), int(last[v]), int(below[v]))
        for v in largest
        if below[v] >= least_tokens and size[v] > 1
    ]


def _estimate(table: RequestTable, by_rank: Int64Array, at: _Branching) -> int:
    """What moving the field would save, from a small part of the requests."""
    prompts = take(table, by_rank[at.first : at.last], **_PILOT, depth=at.depth)
    moved = _move(prompts, at.depth, _field_ends(prompts, at.depth, _LONGEST_FIELD))
    return _scaled(table, by_rank, at, prompts, moved.saved() - prompts.saved())


def _measure(table: RequestTable, by_rank: Int64Array, at: _Branching) -> Finding | None:
    prompts = take(table, by_rank[at.first : at.last], **_FULL, depth=at.depth)
    end = _field_ends(prompts, at.depth, _LONGEST_FIELD)
    gain = _move(prompts, at.depth, end).saved() - prompts.saved()
    concerned = np.flatnonzero(end > at.depth)
    pair = _differing(prompts, at.depth, end)
    if pair is None:
        return None
    examples = [Example(int(prompts.request[i]), at.depth, int(end[i])) for i in pair]
    field = _field_hashes(prompts, at.depth, end)[concerned]
    exact = len(prompts) == at.last - at.first
    share = (at.last - at.first) / len(prompts)
    return Finding(
        kind=FindingKind.varying_field,
        requests=round(len(concerned) * share),
        variants=round(len(np.unique(field)) * share),
        examples=(examples[0], examples[1]),
        cost_tokens=_scaled(table, by_rank, at, prompts, gain),
        exact=exact,
    )


def _scaled(
    table: RequestTable, by_rank: Int64Array, at: _Branching, prompts: Prompts, gain: int
) -> int:
    """A part's gain for all requests below a branching."""
    requests = by_rank[at.first : at.last]
    if len(prompts) == len(requests):
        return gain
    total = int((table.computed_lengths[requests] * table.choices[requests]).sum())
    return int(gain * total / max(prompts.prompt_tokens, 1))


def _field_ends(prompts: Prompts, depth: int, longest: int) -> Int64Array:
    """Where the varying field of each prompt ends, int64 [M]; `depth` where none begins there.

    That is where the window begins that occurs behind the most different beginnings, the first
    such one: earlier windows hold a part of the field, and later ones occur no more often.
    """
    start = prompts.offsets[:-1] + depth
    window, before, valid = windows_hash(
        prompts.tokens,
        np.minimum(start, prompts.offsets[1:]),
        prompts.offsets[1:],
        longest,
        _WINDOW,
    )
    distinct, behind = _beginnings(window, before, valid)
    count = np.where(valid, look_up(window, distinct, behind), 0)
    best = count.argmax(axis=1)
    row = np.arange(len(best))
    found = np.flatnonzero(count[row, best] >= 2)
    # All that go on alike may begin alike too: then they part elsewhere, not here.
    token = prompts.tokens[start[found]].astype(np.int64)
    group = np.unique(window[found, best[found]], return_inverse=True)[1].reshape(-1)
    low = np.full(len(found), np.iinfo(np.int64).max)
    high = np.full(len(found), -1)
    np.minimum.at(low, group, token)
    np.maximum.at(high, group, token)
    end = np.full(len(best), depth)
    parting = (low < high)[group]
    end[found[parting]] += best[found[parting]]
    return end


def _beginnings(
    window: UInt64Array, before: UInt64Array, valid: BoolArray
) -> tuple[UInt64Array, Int64Array]:
    """The distinct windows, and behind how many different beginnings each occurs."""
    row = np.broadcast_to(np.arange(len(window))[:, None], window.shape)
    # A text that repeats itself has a window several times: the first of a prompt counts.
    _, first = np.unique(mix(window[valid] ^ mix(row[valid])), return_index=True)
    windows = window[valid][first]
    _, once = np.unique(mix(windows ^ mix(before[valid][first])), return_index=True)
    return counts_of(windows[once])


def _move(prompts: Prompts, depth: int, end: Int64Array) -> Prompts:
    """The prompts with their tokens [depth, end) put last."""
    begin, stop = prompts.offsets[:-1], prompts.offsets[1:]
    start = np.stack([begin, begin + end, np.minimum(begin + depth, stop)], axis=1)
    length = np.stack([np.minimum(depth, stop - begin), stop - begin - end, end - depth], axis=1)
    return prompts.rearranged(start.ravel(), np.maximum(length, 0).ravel())


def _differing(prompts: Prompts, depth: int, end: Int64Array) -> tuple[int, int] | None:
    """Two prompts that part at `depth`, with fields and the same window behind them.

    The one with the lowest line of all, and the one that follows it in the input.
    """
    with_field = np.flatnonzero(end > depth)
    start = prompts.offsets[with_field] + end[with_field]
    window = windows_hash(prompts.tokens, start, prompts.offsets[with_field + 1], 1, _WINDOW)[0]
    token = prompts.tokens[prompts.offsets[with_field] + depth]
    by_input = np.argsort(prompts.request[with_field], kind="stable")
    for one in by_input[:64]:
        alike = (window[:, 0] == window[one, 0]) & (token != token[one])
        for other in by_input[alike[by_input]][:1]:
            return int(with_field[one]), int(with_field[other])
    return None


def _field_hashes(prompts: Prompts, depth: int, end: Int64Array) -> UInt64Array:
    """A hash of each prompt's field, uint64 [M]."""
    start = np.minimum(prompts.offsets[:-1] + depth, prompts.offsets[1:])
    before = windows_hash(prompts.tokens, start, prompts.offsets[1:], _LONGEST_FIELD + 1, 1)[1]
    return before[np.arange(len(end)), end - depth]
