"""The prefix forest as a tree for people: what saves most is shown, the rest is summed up."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from shoal.planner import Plan
from shoal.report.excerpts import Excerpts
from shoal.report.units import TIMES, plural
from shoal.types import Int64Array

_LINES = 28
_GROUPS, _CHILDREN, _LEVELS = 8, 4, 5
_LEAST_SHARE = 0.01
"""Of all saved tokens: a smaller subtree is shown only among the first of its siblings."""
_ALWAYS = 3
_EXCERPT_TOKENS = 64


@dataclass
class Branch:
    """A segment of the plan, what is shown below it, and what is not.

    Attributes:
        segment: of the plan; -1: the root, which stands for the whole job.
        sequences, tokens: users of the segment, and its length.
        saved: tokens that it saves itself.
        saved_below: with all segments below it.
        text: how its own tokens begin.
        hidden, hidden_saved: segments just below that are not shown, and what these save with
            all below them.
    """

    segment: int
    sequences: int
    tokens: int
    saved: int
    saved_below: int
    text: str
    children: list[Branch] = field(default_factory=list)
    hidden: int = 0
    hidden_saved: int = 0

    def walk(self) -> Iterator[Branch]:
        """This branch and all below it, top down."""
        yield self
        for child in self.children:
            yield from child.walk()


def segment_savings(plan: Plan) -> Int64Array:
    """Tokens that each segment saves, int64 [S]."""
    return plan.segment_length.astype(np.int64) * (plan.segment_users - 1)


def plan_tree(plan: Plan, excerpts: Excerpts) -> Branch:
    """The branches that save most, dearest first at every level."""
    saved = segment_savings(plan)
    # Subtrees are contiguous in preorder, and so are sequences: a subtree ends where users end.
    total = np.concatenate([[0], np.cumsum(saved)])
    last = np.searchsorted(plan.segment_first, plan.segment_last, side="left")
    below = total[last] - total[:-1]
    everything = int(total[-1])

    def branch(segment: int) -> Branch:
        start, length = int(plan.segment_start[segment]), int(plan.segment_length[segment])
        request = int(plan.segment_request[segment])
        return Branch(
            segment,
            int(plan.segment_users[segment]),
            length,
            int(saved[segment]),
            int(below[segment]),
            excerpts.beginning(request, start, length, _EXCERPT_TOKENS),
        )

    root = Branch(-1, plan.num_sequences, 0, 0, everything, "")
    waiting: list[tuple[int, int, int, Branch]] = [(-everything, -1, 0, root)]
    lines = 0
    while waiting:
        _, _, level, parent = heapq.heappop(waiting)
        first, end = (
            (0, plan.num_segments)
            if parent.segment < 0
            else (parent.segment + 1, int(last[parent.segment]))
        )
        children = first + np.flatnonzero(plan.segment_parent[first:end] == parent.segment)
        children = children[np.argsort(-below[children], kind="stable")]
        room = max(min(_GROUPS if level == 0 else _CHILDREN, _LINES - lines), 0)
        shown = [
            int(c)
            for i, c in enumerate(children[:room])
            if i < _ALWAYS or below[c] >= _LEAST_SHARE * everything
        ]
        if len(shown) == len(children) - 1 and room > len(shown):
            shown = children.tolist()  # "one more" takes the same line
        hidden = children[len(shown) :]
        parent.hidden, parent.hidden_saved = len(hidden), int(below[hidden].sum())
        parent.children = [branch(c) for c in shown]
        lines += len(shown) + bool(len(hidden))
        for child in parent.children:
            deeper = child.saved_below - child.saved
            if deeper and level + 1 < _LEVELS:
                heapq.heappush(waiting, (-deeper, child.segment, level + 1, child))
            elif deeper:
                child.hidden_saved = deeper
                child.hidden = int(last[child.segment]) - child.segment - 1
    return root


def hidden_line(branch: Branch, everything: int) -> str:
    """What is not shown below a branch, in words."""
    noun = plural("group", branch.hidden) if branch.segment < 0 else _prefixes(branch.hidden)
    share = branch.hidden_saved / max(everything, 1)
    return f"… and {branch.hidden:,} more {noun}, {share:.1%} of the saving"


def render_tree(root: Branch) -> RenderableType:
    """The tree for a terminal; each branch is one line, cut at the terminal's width."""
    everything = root.saved_below
    heading = Text("Shared prefixes", style="italic")
    heading.append(f"  (sequences {TIMES} tokens, tokens saved)", style="dim")
    tree = Tree(heading, guide_style="dim")

    def add(to: Tree, branch: Branch) -> None:
        for child in branch.children:
            line = Text(no_wrap=True, overflow="ellipsis")
            line.append(f"{child.sequences:,} {TIMES} {child.tokens:,}, ")
            line.append(f"{child.saved:,}", style="bold")
            line.append(f" ({child.saved / max(everything, 1):.0%})  ")
            line.append(child.text, style="dim")
            add(to.add(line), child)
        if branch.hidden:
            to.add(Text(hidden_line(branch, everything), style="dim"))

    add(tree, root)
    return tree


def _prefixes(count: int) -> str:
    return "prefix" if count == 1 else "prefixes"
