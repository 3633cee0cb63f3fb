"""Which rows of prompts take logits, counted: those that score, and those an answer begins with.

`shoal.scheduler.scoring` says which they are while a job runs.
"""

from __future__ import annotations

import numpy as np

from shoal.planner.tree import Tree
from shoal.types import Int64Array


def scored_rows(tree: Tree) -> Int64Array:
    """Rows of its own that score each request's prompt, for one choice, int64 [N].

    The row before a token scores it; a prompt's last row says the answer's first token.
    """
    first = np.maximum(tree.scored - 1, tree.shared)
    rows: Int64Array = np.where(tree.scored < tree.whole, np.maximum(tree.whole - 1 - first, 0), 0)
    return rows


def segment_logit_rows(tree: Tree) -> Int64Array:
    """Rows of each segment that take logits, each once for all its users, int64 [S].

    Its last row does so if it scores the first token of somebody who goes on, or if an answer
    begins behind it.
    """
    least = -tree.highest(-np.where(tree.scored < tree.whole, tree.scored, _NEVER))
    end = np.append(tree.end, 0)
    goes_on = (tree.scored <= tree.shared) & (tree.whole > tree.shared)
    begins = (tree.own == 0) & (tree.samples > 0)
    last = np.zeros(len(end), dtype=np.bool_)
    last[tree.leaf[goes_on | begins]] = True
    last[tree.parent[least <= end[tree.parent]]] = True
    before = np.minimum(np.maximum(tree.end - np.maximum(least, tree.start + 1), 0), tree.length)
    rows: Int64Array = before + last[:-1]
    return rows


_NEVER = 2**62
"""A position that no prompt reaches."""
