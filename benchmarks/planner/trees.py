"""Random prefix trees of several shapes, as prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shoal.planner import Forest, build_forest

Random = np.random.Generator

MOST_TOKENS = 64
"""Most tokens of an edge; what matters is the ratio of lengths."""


@dataclass(frozen=True)
class Tree:
    """V nodes of shared tokens, parents before children, and N requests below them.

    Attributes:
        parent: int64 [V], -1: none.
        tokens: int64 [V], at least 1.
        node: int64 [N], the node each request hangs from, -1: none.
    """

    parent: np.ndarray
    tokens: np.ndarray
    node: np.ndarray

    def prompts(self, rng: Random) -> list[np.ndarray]:
        """One per request, shuffled: its path, then a few tokens of its own, maybe none."""
        nodes = len(self.parent)
        path = [np.zeros(0, dtype=np.int32)]  # the last is what "no node" names
        for v, (parent, tokens) in enumerate(zip(self.parent, self.tokens, strict=True)):
            path.insert(v, np.append(path[parent], np.full(tokens, v, dtype=np.int32)))
        own = rng.integers(0, 9, len(self.node))
        prompts = [
            np.append(path[node], np.full(max(count, int(node < 0)), nodes + r, dtype=np.int32))
            for r, (node, count) in enumerate(zip(self.node, own, strict=True))
        ]
        return [prompts[r] for r in rng.permutation(len(prompts))]


def forest_of(prompts: list[np.ndarray]) -> Forest:
    """The prefix forest of prompts with one choice each."""
    lengths = [len(prompt) for prompt in prompts]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return build_forest(
        np.concatenate(prompts), offsets, np.ones(len(prompts), dtype=np.int32), None
    )


def _edges(rng: Random, count: int) -> np.ndarray:
    """Lengths from 1 to `MOST_TOKENS`, as often short as long (log-uniform)."""
    return np.exp(rng.uniform(0, np.log(MOST_TOKENS + 1), count)).astype(np.int64)


def families(rng: Random) -> Tree:
    """Prompts of one template each: one level, of unequal sizes."""
    count = int(rng.integers(1, 9))
    users = rng.integers(2, 17, count)
    return Tree(np.full(count, -1), _edges(rng, count), np.repeat(np.arange(count), users))


def branches(rng: Random) -> Tree:
    """A system prompt, documents below it, questions about each."""
    count, users = rng.integers(2, 9, 2)
    parent = np.append([-1], np.zeros(count, dtype=np.int64))
    return Tree(parent, _edges(rng, count + 1), np.repeat(np.arange(1, count + 1), users))


def conversations(rng: Random) -> Tree:
    """Chats cut after each turn: every prompt is the beginning of the next."""
    chats, turns = int(rng.integers(1, 6)), int(rng.integers(2, 9))
    node = np.arange(1 + chats * turns)
    parent = np.where(node % turns == 1 % turns, 0, node - 1)
    parent[0] = -1
    return Tree(parent, _edges(rng, len(node)), np.repeat(node[1:], 1 + rng.integers(0, 3)))


def recursive(rng: Random) -> Tree:
    """Each node hangs from any earlier one (a random recursive tree); each has some requests."""
    count = int(rng.integers(2, 33))
    parent = np.array([int(rng.integers(-1, v)) for v in range(count)])
    return Tree(parent, _edges(rng, count), np.repeat(np.arange(count), rng.integers(0, 5, count)))


def skewed(rng: Random) -> Tree:
    """A recursive tree whose requests crowd below few nodes (Zipf)."""
    count = int(rng.integers(2, 17))
    parent = np.array([int(rng.integers(-1, v)) for v in range(count)])
    users = np.minimum(rng.zipf(1.8, count), 64)
    return Tree(parent, _edges(rng, count), np.repeat(np.arange(count), users))


def binary(rng: Random) -> Tree:
    """Every prefix splits in two, several levels deep; two requests at each end."""
    depth = int(rng.integers(2, 6))
    node = np.arange(2**depth - 1)
    leaves = node[2 ** (depth - 1) - 1 :]
    return Tree((node + 1) // 2 - 1, _edges(rng, len(node)), np.repeat(leaves, 2))


SHAPES: dict[str, Callable[[Random], Tree]] = {
    "families": families,
    "branches": branches,
    "conversations": conversations,
    "recursive": recursive,
    "skewed": skewed,
    "binary": binary,
}
