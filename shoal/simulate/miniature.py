"""A small job on a small machine that behaves like a large job on a large one.

Three reductions, each of which leaves the mix of every iteration as it is:

- fewer units: every k-th of the plan's subtrees, so all kinds of groups in their proportions;
- shorter: prompts, answers and the KV pool divided by one number, while a token's KV and its
  attention cost so many times more. A run then has so many times fewer iterations, of as many
  sequences as before;
- narrower: a slice of the machine, with that share of its rates, of its KV pool, of the token
  budget and of the weights, which then take as long to read as before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shoal.costs import Costs, Machine, MemoryGroup, StateLayers
from shoal.planner import Plan
from shoal.planner.forest import split_by_level
from shoal.planner.likeness import nearest_kept
from shoal.planner.rearrange import restricted
from shoal.planner.tree import Tree
from shoal.types import BoolArray, Int64Array, RequestParams, RequestTable

_SEQUENCES = 1024
"""Most sequences, about."""
_OUTPUT = 48
"""Mean answer in tokens, weighed with the KV that decoding it reads."""
_UNITS = 64
"""Subtrees of the sample, at least, where the job has them."""
_LEAST_BUDGET = 64


@dataclass(frozen=True)
class Setup:
    """A planned job and what runs it; see `simulate`."""

    table: RequestTable
    plan: Plan
    machine: Machine


def miniature(setup: Setup, iterations: int, most_iterations: int) -> Setup:
    """The job itself if it is small, or a small one with the same mix. Deterministic.

    Args:
        iterations: what a run is expected to take, about.
        most_iterations: what it should take, about.
    """
    table, plan, machine = setup.table, setup.plan, setup.machine
    if iterations <= most_iterations and plan.num_sequences <= _SEQUENCES:
        return setup
    divisor = _divisor(table, plan)
    # The sample's share of the machine, so that its run has the iterations wanted.
    share = min(1.0, _SEQUENCES / plan.num_sequences)
    duration = min(1.0, most_iterations * divisor / iterations)
    if share < 1.0 or duration < 1.0:
        share = min(share, duration)
        plan = restricted(plan, _sample(plan, share), table)
    slice_ = min(1.0, share / duration)
    table, plan = _shortened(table, plan, divisor)
    block_size = max(1, machine.block_size // divisor)
    room = machine.kv_tokens / divisor * slice_
    least = _largest(table, plan, block_size)
    small = replace(
        machine,
        costs=_smaller(machine.costs, divisor, slice_),
        token_budget=max(round(machine.token_budget * slice_), _LEAST_BUDGET),
        kv_tokens=max(int(room) // block_size, least) * block_size,
        block_size=block_size,
        groups=tuple(_smaller_group(group, divisor) for group in machine.groups),
        states=_fewer(machine.states, divisor),
    )
    return Setup(table, plan, small)


def _divisor(table: RequestTable, plan: Plan) -> int:
    """What lengths are divided by."""
    output = table.expected_new_tokens[plan.sequence_request].astype(np.float64)
    weight = (output - 1) * (
        table.computed_lengths[plan.sequence_request] - plan.shared_length + output / 2
    )
    mean = float((output * weight).sum() / max(float(weight.sum()), 1.0))
    return max(1, round(mean / _OUTPUT))


def _sample(plan: Plan, share: float) -> BoolArray:
    """Sequences of every k-th unit in the plan's order, bool [Q]."""
    sequences = plan.num_sequences
    most = max(1, int(share * sequences) // _UNITS)
    parent = plan.segment_parent.astype(np.int64)
    small = np.append(plan.segment_users <= most, False)
    top = small[:-1] & ~small[parent]
    highest = nearest_kept(parent, top)
    leaf = plan.sequence_segment
    alone = plan.num_segments + plan.sequence_request
    unit = np.where(small[leaf], highest[leaf], alone)
    number = np.cumsum(np.diff(unit, prepend=-1) != 0) - 1
    count = int(number[-1]) + 1
    wanted = max(1, round(share * count))
    picks = np.unique((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)
    chosen: BoolArray = np.isin(number, picks)
    return chosen


def _shortened(table: RequestTable, plan: Plan, divisor: int) -> tuple[RequestTable, Plan]:
    """The plan's requests with lengths divided, and token ids that mean nothing."""
    tree = Tree.of_plan(table, plan)
    length = np.maximum(tree.length // divisor, 1)
    end = np.append(length, 0)
    for level in split_by_level(tree.level)[1:]:
        end[level] += end[tree.parent[level]]
    own = np.where(tree.own > 0, np.maximum(tree.own // divisor, 1), 0)
    prompt = own + end[tree.leaf]
    output = np.maximum(tree.output // divisor, 1)
    limit = np.maximum(table.max_new_tokens[tree.index] // divisor, output)
    # Requests keep their order in the input, for `Order.input`.
    by_index = np.argsort(tree.index)
    number = np.empty(len(by_index), dtype=np.int64)
    number[by_index] = np.arange(len(by_index))
    kept = tree.index[by_index]
    offsets = np.append(0, np.cumsum(prompt[by_index]))
    short = replace(
        table,
        tokens=np.zeros(int(offsets[-1]), dtype=np.int32),
        offsets=offsets,
        params=[_unscored(params) for params in table.params],
        params_index=table.params_index[kept],
        max_new_tokens=limit[by_index].astype(np.int32),
        expected_new_tokens=output[by_index].astype(np.int32),
        seeds=table.seeds[kept],
        has_seed=table.has_seed[kept],
        line=table.line[kept],
        prompt_index=None,
        adapter=None if table.adapter is None else table.adapter[kept],
    )
    request = np.repeat(number, tree.choices).astype(np.int32)
    total = int((prompt * tree.choices).sum())
    return short, replace(
        plan,
        segment_start=(end[:-1] - length).astype(np.int32),
        segment_length=length.astype(np.int32),
        segment_request=request[plan.segment_first],
        sequence_request=request,
        prompt_tokens=total,
        computed_prompt_tokens=total - int((length * (tree.users - 1)).sum()),
    )


def _unscored(params: RequestParams) -> RequestParams:
    """The same without a score of the prompt, whose tokens are not the job's any more.

    A request that generates nothing computes what it has to, and samples once.
    """
    nothing = {"echo": False, "prompt_logprobs": None, "prompt_logprob_start": None}
    limit = {} if params.generates else {"max_tokens": 1, "max_completion_tokens": None}
    return params.model_copy(update=nothing | limit)


def _largest(table: RequestTable, plan: Plan, block_size: int) -> int:
    """KV blocks that the largest sequence holds at its end."""
    tree = Tree.of_plan(table, plan)
    blocks = np.append(-(-tree.length // block_size), 0)
    for level in split_by_level(tree.level)[1:]:
        blocks[level] += blocks[tree.parent[level]]
    most = table.max_new_tokens[tree.index].astype(np.int64)
    needed: Int64Array = blocks[tree.leaf] - (-(tree.own + most) // block_size)
    return int(needed.max())


def _smaller_group(group: MemoryGroup, divisor: int) -> MemoryGroup:
    """Layers with dearer KV tokens, and a shorter window."""
    window = group.window
    if window is not None:
        window = replace(window, tokens=max(window.tokens // divisor, 1))
    return replace(
        group,
        kv_bytes=group.kv_bytes * divisor,
        attention_flops=group.attention_flops * divisor,
        window=window,
    )


def _smaller(costs: Costs, divisor: int, slice_: float) -> Costs:
    """The model with dearer KV tokens on a slice of the machine."""
    return replace(
        costs,
        attention_flops=costs.attention_flops * divisor,
        kv_bytes=costs.kv_bytes * divisor,
        weight_bytes=costs.weight_bytes * slice_,
        flops_per_second=costs.flops_per_second * slice_,
        bytes_per_second=costs.bytes_per_second * slice_,
        segment_seconds=costs.segment_seconds / slice_,
        use_seconds=costs.use_seconds / slice_,
    )


def _fewer(states: StateLayers | None, divisor: int) -> StateLayers | None:
    """A state is worth fewer of the dearer KV tokens."""
    return None if states is None else replace(states, tokens=states.tokens / divisor)
