"""The same chunks of text - examples, notes, documents - in another order in each prompt.

A chunk is a long line with the short lines that follow it, or a long paragraph with the short
ones after it. Prompts that have the same chunks in common with others, but not in the same order,
share only what stands before the first difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.diagnose.finding import Example, Finding, FindingKind
from shoal.diagnose.hashing import UInt64Array, counts_of, look_up, mix, run_hashes
from shoal.diagnose.sample import Prompts, common_prefix
from shoal.diagnose.tokens import TokenTexts
from shoal.types import BoolArray, Int64Array

_LONG = 8
"""Tokens from which on a line or a paragraph is long."""


def find_shuffled_chunks(
    prompts: Prompts, texts: TokenTexts, text_index: Int64Array, saved: int
) -> Finding | None:
    """What it costs that chunks are in different orders; None when nothing.

    Args:
        texts, text_index: of the prompts' tokens, see `token_texts`.
        saved: tokens that the prompts save as they are.
    """
    found = [
        _compare(prompts, _chunks(prompts, texts.blank[text_index], begins), saved)
        for begins in (
            _line_begins(prompts, texts, text_index),
            _paragraph_begins(prompts, texts, text_index),
        )
    ]
    best = max((f for f in found if f is not None), key=lambda f: f.cost_tokens, default=None)
    return best if best is not None and best.cost_tokens > 0 else None


def _line_begins(prompts: Prompts, texts: TokenTexts, text_index: Int64Array) -> BoolArray:
    """Which tokens begin a line."""
    return _after(prompts, texts.newlines[text_index] >= 1)


def _paragraph_begins(prompts: Prompts, texts: TokenTexts, text_index: Int64Array) -> BoolArray:
    """Which tokens follow a blank line."""
    newlines, blank = texts.newlines[text_index], texts.blank[text_index]
    ended = newlines >= 2
    ended[1:] |= (newlines[1:] >= 1) & (newlines[:-1] >= 1) & blank[1:]
    return _after(prompts, ended)


def _after(prompts: Prompts, ended: BoolArray) -> BoolArray:
    begins = np.zeros(len(ended), dtype=np.bool_)
    begins[1:] = ended[:-1]
    begins[prompts.offsets[:-1]] = True
    return begins


@dataclass(frozen=True)
class _Runs:
    """Runs of tokens that follow each other and cover all prompts, none in two of them.

    Attributes:
        start: int64 [R], where each begins.
        length: int64 [R], its tokens without the white space at its end.
        owner: int64 [R], its prompt.
        value: uint64 [R], hash of those tokens.
        common: bool [R], it stands in several prompts.
    """

    start: Int64Array
    length: Int64Array
    owner: Int64Array
    value: UInt64Array
    common: BoolArray

    @classmethod
    def of(cls, prompts: Prompts, blank: BoolArray, start: Int64Array) -> _Runs:
        position = np.arange(len(blank))
        size = np.diff(start, append=len(blank))
        in_run = position - np.repeat(start, size)
        length = np.maximum.reduceat(np.where(blank, 0, in_run + 1), start)
        counted = np.where(in_run < np.repeat(length, size), mix(prompts.tokens), np.uint64(0))
        value = mix(run_hashes(counted, start, in_run) ^ mix(length))
        owner = np.repeat(np.arange(len(prompts)), prompts.lengths)[start]
        once = np.unique(np.stack([owner.astype(np.uint64), value]), axis=1)
        common = look_up(value, *counts_of(once[1])) >= 2
        return cls(start, length, owner, value, common)


def _chunks(prompts: Prompts, blank: BoolArray, begins: BoolArray) -> _Runs:
    """Cut at every long piece, and at what only one prompt has.

    Args:
        begins: bool [total], tokens that begin a line, or a paragraph.
    """
    pieces = _Runs.of(prompts, blank, np.flatnonzero(begins))
    cut = (pieces.length >= _LONG) | ~pieces.common
    cut |= np.diff(pieces.owner, prepend=-1) != 0
    return _Runs.of(prompts, blank, pieces.start[cut])


def _compare(prompts: Prompts, chunks: _Runs, saved: int) -> Finding | None:
    """The finding for one way of cutting, counted on these prompts."""
    slots = np.flatnonzero(chunks.common)
    owner, value = chunks.owner[slots], chunks.value[slots]
    head = np.flatnonzero(np.diff(owner, prepend=-1))
    if not len(head):
        return None
    size = np.diff(head, append=len(slots))
    slot = np.arange(len(slots)) - np.repeat(head, size)
    contents = np.add.reduceat(mix(value), head)
    sequence = run_hashes(mix(value), head, slot)
    family, group = np.unique(contents, return_inverse=True)
    group = group.reshape(-1)
    orders = np.unique(np.stack([group.astype(np.uint64), sequence]), axis=1)[0]
    num_orders = np.bincount(orders.astype(np.int64), minlength=len(family))
    shuffled = num_orders[group] >= 2
    if not shuffled.any():
        return None

    # The same slots, filled in one order per family: by the mean slot of each chunk.
    key = np.repeat(group, size).astype(np.uint64)
    chunk = np.unique(mix(value ^ mix(key)), return_inverse=True)[1].reshape(-1)
    mean = np.bincount(chunk, slot) / np.bincount(chunk)
    ordered = np.lexsort((value, mean[chunk], owner))
    moves = np.repeat(shuffled, size)
    # The white space at a chunk's end stays where it is.
    start = np.stack([chunks.start, chunks.start + chunks.length], axis=1)
    end = np.append(chunks.start[1:], len(prompts.tokens))
    length = np.stack([chunks.length, end - chunks.start - chunks.length], axis=1)
    start[slots[moves], 0] = chunks.start[slots[ordered[moves]]]
    length[slots[moves], 0] = chunks.length[slots[ordered[moves]]]
    gain = prompts.rearranged(start.ravel(), length.ravel()).saved() - saved

    largest = np.bincount(group[shuffled]).argmax()
    members = np.flatnonzero(group == largest)
    one = members[0]
    other = members[sequence[members] != sequence[one]][0]
    return Finding(
        kind=FindingKind.shuffled_chunks,
        requests=int(np.count_nonzero(shuffled)),
        variants=int(num_orders[largest]),
        examples=_examples(prompts, int(owner[head[one]]), int(owner[head[other]])),
        cost_tokens=gain,
        exact=True,
    )


def _examples(prompts: Prompts, one: int, other: int) -> tuple[Example, Example]:
    start = common_prefix(prompts, one, other)
    first, second = (
        Example(int(prompts.request[i]), start, min(start + 2 * _LONG, int(prompts.lengths[i])))
        for i in (one, other)
    )
    return first, second
