"""The order in which sequences run, so that a segment lives for one stretch.

- `ratio`: at every branch the subtree with the most output expected per prompt token to compute
  goes first. Decodes then start early and mix with the prefill of what follows (BatchLLM, with
  the number of requests in the numerator; docs/planner.md#order).
- `blend`: at every branch, subtrees that compute much and subtrees that read much alternate, so
  that every iteration has the job's own mix (BlendServe; `shoal.planner.blend`).
- `input`: at every branch the subtree that appears first in the input goes first.

Requests of one adapter are neighbours in any order (`shoal.planner.adapter_groups`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.config import Order
from shoal.costs import Machine
from shoal.planner.adapter_groups import by_adapter
from shoal.planner.blend import blend
from shoal.planner.tree import Arrangement, Tree, depth_first
from shoal.types import Int64Array


def arrange(tree: Tree, order: Order, machine: Machine | None = None) -> Arrangement:
    """Put the sequences in order; children that are equal stay in the order of `tree.tie`.

    Args:
        machine: weighs the work and bounds the memory; matters for `blend` alone. None: tokens to
            compute against tokens of KV to read, and memory for all.
    """
    if tree.adapter is not None:
        first = tree.index if order is Order.input else None
        return by_adapter(tree, lambda part: _arranged(part, order, machine), first)
    return _arranged(tree, order, machine)


def _arranged(tree: Tree, order: Order, machine: Machine | None) -> Arrangement:
    match order:
        case Order.ratio:
            return depth_first(tree, _ratio_key(tree))
        case Order.blend:
            if machine is None:
                return blend(tree, None, None)
            return blend(tree, machine.costs, machine.kv_tokens)
        case Order.input:
            return depth_first(tree, _input_key(tree))


def _ratio_key(tree: Tree) -> npt.NDArray[np.float64]:
    """Minus (expected output / prompt tokens to compute), of each child.

    A sequence with nothing of its own to compute comes first: it can decode at once.
    """
    prefill, output = tree.own * tree.choices, tree.output * tree.choices
    all_output = tree.sums(0 * tree.end, output)
    all_prefill = tree.sums(tree.length, prefill)
    with np.errstate(divide="ignore"):
        return np.concatenate([-all_output / all_prefill, -output / prefill])


def _input_key(tree: Tree) -> Int64Array:
    """Lowest index in the input, of each child."""
    return np.concatenate([-tree.highest(-tree.index), tree.index])
