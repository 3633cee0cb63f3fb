"""The prefix forest: which requests begin with the same tokens, and for how long.

Built for millions of prompts held as one flat array: no Python loop over requests or nodes, no
copied prompts, and each shared token read about once (docs/planner.md#the-prefix-forest).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from shoal.planner.match import common_length
from shoal.types import BoolArray, Int32Array, Int64Array

_FIRST_WIDTH = 16
"""Tokens a new group is compared over at first: most groups that differ do so soon."""
_LAST_WIDTH = 1 << 16
_WIDTH_GROWTH = 4
"""So a node of n tokens takes about log n rounds, and no member is read over more than
5·n + 16 tokens. All widths are powers of two, which keeps them few (see `common_length`)."""
_BATCH_MEMBERS = 1 << 18
"""Groups are refined in batches of so many requests: work arrays of a few megabytes stay in cache
and are used again, where those of a whole job would be taken from the system each time."""


@dataclass(frozen=True)
class Forest:
    """The compressed radix forest of N prompts, kept to what is shared.

    A node is a run of tokens that at least two sequences begin with (a request with n choices is
    n sequences), as long as it can be; what only one sequence has is no node. The V nodes come in
    preorder, children by their first token, so the forest does not depend on the input order
    beyond which of several identical prompts is named.

    Attributes:
        parent: int64 [V], -1 at the top.
        level: int64 [V], nodes above.
        start, end: int64 [V], tokens before the node and up to its end; start < end.
        users: int64 [V], sequences that begin with the node's path, at least 2.
        direct: int64 [V], those of them that have no deeper node.
        first: int64 [V], lowest `rank` of the requests below.
        request: int64 [V], a request whose prompt begins with the node's path.
        request_node: int64 [N], deepest node of each request, -1: none.
        rank: int64 [N], position of each request in lexicographic order, ties by index; requests
            kept out of sharing come last, by index.
        choices: int64 [N], sequences per request.
        length: int64 [N], tokens of each prompt that count.
    """

    parent: Int64Array
    level: Int64Array
    start: Int64Array
    end: Int64Array
    users: Int64Array
    direct: Int64Array
    first: Int64Array
    request: Int64Array
    request_node: Int64Array
    rank: Int64Array
    choices: Int64Array
    length: Int64Array

    def __len__(self) -> int:
        return len(self.parent)

    def by_level(self) -> list[Int64Array]:
        """The nodes of each level, top first, each in preorder."""
        return split_by_level(self.level)


def split_by_level(level: Int64Array) -> list[Int64Array]:
    """Indices of each level's entries, level 0 first, ascending; no level is empty."""
    if not len(level):
        return []
    order = np.argsort(level, kind="stable")
    return np.split(order, np.cumsum(np.bincount(level))[:-1])


def build_forest(
    tokens: Int32Array,
    offsets: Int64Array,
    choices: Int32Array,
    exclusive: BoolArray | None = None,
    lengths: Int64Array | None = None,
    classes: Int64Array | None = None,
) -> Forest:
    """The prefix forest of N prompts.

    Args:
        tokens: int32 [total], all prompts one after another.
        offsets: int64 [N + 1]; prompt i is tokens[offsets[i]:offsets[i + 1]], never empty.
        choices: int32 [N], sequences per request, at least 1.
        exclusive: bool [N], requests to keep out of sharing; None: no request.
        lengths: int64 [N], how many tokens of each prompt count; None: all. At least one of those
            that are not exclusive.
        classes: int64 [N], requests of different ones share nothing; None: all are of one.
    """
    ends = offsets[1:] if lengths is None else offsets[:-1] + lengths
    refinement = _Refinement(tokens, offsets[:-1], ends, choices, exclusive)
    refinement.run(classes)
    return refinement.forest()


@dataclass
class _Groups:
    """G groups of requests that agree on their first `depth` tokens.

    Attributes:
        position: int64 [M], the members' positions in the lexicographic order, group after group.
        size: int64 [G], members.
        start, depth: int64 [G], where the group's node begins and how far it is known to reach.
        node, level: int64 [G], the node the group hangs from (-1: none), and the level below it.
        width: int64 [G], tokens to compare next.
    """

    position: Int64Array
    size: Int64Array
    start: Int64Array
    depth: Int64Array
    node: Int64Array
    level: Int64Array
    width: Int64Array

    def select(self, chosen: BoolArray) -> _Groups:
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        position = columns.pop("position")[np.repeat(chosen, self.size)]
        return _Groups(position, **{name: column[chosen] for name, column in columns.items()})

    def batches(self) -> list[_Groups]:
        """The groups in batches of about `_BATCH_MEMBERS`; larger only where one group is."""
        if not len(self.size):
            return []
        columns = [getattr(self, f.name) for f in fields(self)][1:]
        end = np.cumsum(self.size)
        cuts = np.flatnonzero(np.diff((end - self.size) // _BATCH_MEMBERS)) + 1
        batches = []
        for first, last in pairwise([0, *cuts.tolist(), len(end)]):
            position = self.position[end[first] - self.size[first] : end[last - 1]]
            batches.append(_Groups(position, *(column[first:last] for column in columns)))
        return batches

    def joined(self, other: _Groups) -> _Groups:
        names = [f.name for f in fields(self)]
        return _Groups(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))


class _Refinement:
    """Sorts the requests token run by token run, most significant first.

    All requests of a class start as one group. In each round every group of a batch is compared
    over its next few tokens (more of them the longer it has agreed). Where all members agree the
    group moves on; where they part, or one ends, its node is complete: the members are sorted by
    their next token inside the positions they hold, and each token that two sequences share is a
    new group.
    """

    def __init__(
        self,
        tokens: Int32Array,
        starts: Int64Array,
        ends: Int64Array,
        choices: Int32Array,
        exclusive: BoolArray | None,
    ) -> None:
        self._tokens = tokens
        self._starts, self._ends = starts, ends
        self._choices = choices.astype(np.int64)
        if exclusive is None:
            exclusive = np.zeros(len(choices), dtype=np.bool_)
        self._exclusive = exclusive
        self._order = np.flatnonzero(~exclusive)  # becomes lexicographic
        self._node_at = np.full(len(self._order), -1, dtype=np.int64)
        self._num_nodes = 0
        # Columns of finished nodes, an array per round: parent, level, start, end, position, size.
        self._nodes: list[Int64Array] = [np.zeros((6, 0), dtype=np.int64)]

    def run(self, classes: Int64Array | None) -> None:
        """Refine until no group is left."""
        waiting = self._first_groups(classes).batches()
        while waiting:
            waiting += self._round(waiting.pop()).batches()

    def _first_groups(self, classes: Int64Array | None) -> _Groups:
        """Everyone in a group of their class, but for those who are alone in it."""
        first = np.zeros(min(len(self._order), 1), dtype=np.int64)
        if classes is not None:
            self._order = self._order[np.argsort(classes[self._order], kind="stable")]
            first = np.flatnonzero(np.diff(classes[self._order], prepend=-1))
        size = np.diff(first, append=len(self._order))
        zero = np.zeros(len(size), dtype=np.int64)
        groups = _Groups(
            position=np.arange(len(self._order)),
            size=size,
            start=zero,
            depth=zero,
            node=zero - 1,
            level=zero,
            width=zero + _FIRST_WIDTH,
        )
        users = np.add.reduceat(self._choices[self._order], first) if len(first) else first
        return groups.select(users >= 2)

    def _round(self, groups: _Groups) -> _Groups:
        common = self._common(groups)
        groups.depth = groups.depth + common
        ended = common < groups.width
        going = groups.select(~ended)
        going.width = np.minimum(going.width * _WIDTH_GROWTH, _LAST_WIDTH)
        return going.joined(self._split(groups.select(ended)))

    def _common(self, groups: _Groups) -> Int64Array:
        """How many of their next `width` tokens the members of each group share, int64 [G]."""
        request = self._order[groups.position]
        start = self._starts[request]
        start += np.repeat(groups.depth, groups.size)
        left = self._ends[request]
        left -= start
        shortest = np.minimum.reduceat(left, np.cumsum(groups.size) - groups.size)
        del request, left
        # Where a member ends soon, little needs to be read.
        width = np.minimum(groups.width, _power_of_two(shortest))
        return np.minimum(common_length(self._tokens, start, groups.size, width), shortest)

    def _split(self, groups: _Groups) -> _Groups:
        """Complete the groups' nodes and return the groups below them."""
        node = self._add_nodes(groups)
        group = np.repeat(np.arange(len(groups.size)), groups.size)
        request = self._order[groups.position]
        key = self._following(request, groups.depth[group])
        key |= group << 32
        by_key = np.argsort(key, kind="stable")
        key, request = key[by_key], request[by_key]
        del by_key
        self._order[groups.position] = request
        self._node_at[groups.position] = node[group]

        head = np.flatnonzero(np.diff(key, prepend=-1))
        size = np.diff(head, append=len(key))
        users = np.add.reduceat(self._choices[request], head) if len(head) else head
        shared = (users >= 2) & ((key[head] & 0xFFFFFFFF) > 0)
        origin = group[head[shared]]  # sorting keeps members within their group's positions
        return _Groups(
            position=groups.position[np.repeat(shared, size)],
            size=size[shared],
            start=groups.depth[origin],
            depth=groups.depth[origin] + 1,
            node=node[origin],
            level=groups.level[origin] + (groups.depth > groups.start)[origin],
            width=np.full(len(origin), _FIRST_WIDTH),
        )

    def _following(self, request: Int64Array, depth: Int64Array) -> Int64Array:
        """1 + the token after the first `depth`; 0 where the prompt ends: that sorts first."""
        at = self._starts[request]
        at += depth
        over = at == self._ends[request]
        np.minimum(at, len(self._tokens) - 1, out=at)
        following = self._tokens[at].astype(np.int64)
        following += 1
        following[over] = 0
        return following

    def _add_nodes(self, groups: _Groups) -> Int64Array:
        """Record the groups' nodes and return their ids.

        Only the first groups can turn out empty: the others share the token they were
        split by. Then what it hangs from stands in for it.
        """
        real = groups.depth > groups.start
        node = np.where(real, self._num_nodes + np.cumsum(real) - 1, groups.node)
        position = groups.position[np.cumsum(groups.size) - groups.size]
        columns = (groups.node, groups.level, groups.start, groups.depth, position, groups.size)
        self._nodes.append(np.stack(columns)[:, real])
        self._num_nodes += int(np.count_nonzero(real))
        return node

    def forest(self) -> Forest:
        """The finished nodes in preorder."""
        parent, level, start, end, first, size = np.concatenate(self._nodes, axis=1)
        preorder = np.lexsort((end, first))
        number = np.empty(len(parent) + 1, dtype=np.int64)
        number[preorder] = np.arange(len(parent))
        number[-1] = -1  # so that "no node" keeps its name
        below = np.concatenate([[0], np.cumsum(self._choices[self._order])])
        users = below[first + size] - below[first]

        num_requests = len(self._choices)
        request_node = np.full(num_requests, -1, dtype=np.int64)
        request_node[self._order] = number[self._node_at]
        rank = np.empty(num_requests, dtype=np.int64)
        rank[self._order] = np.arange(len(self._order))
        rank[self._exclusive] = np.arange(len(self._order), num_requests)
        direct = np.bincount(request_node + 1, weights=self._choices, minlength=len(parent) + 1)
        return Forest(
            parent=number[parent[preorder]],
            level=level[preorder],
            start=start[preorder],
            end=end[preorder],
            users=users[preorder],
            direct=direct[1:].astype(np.int64),
            first=first[preorder],
            request=self._order[first[preorder]],
            request_node=request_node,
            rank=rank,
            choices=self._choices,
            length=self._ends - self._starts,
        )


def _power_of_two(count: Int64Array) -> Int64Array:
    """The least power of two that is no less, or 0 for 0."""
    mantissa, exponent = np.frexp(count)
    power: Int64Array = np.where(count > 0, 1 << (exponent - (mantissa == 0.5)).astype(np.int64), 0)
    return power
