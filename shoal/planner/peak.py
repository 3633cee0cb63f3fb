"""How much KV a planned run is expected to hold at once: a quick estimate, before any run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.costs import Machine
from shoal.planner.plan import Plan
from shoal.types import Int32Array, Int64Array, RequestTable

FloatArray = npt.NDArray[np.float64]

_STEPS = 4096
"""Steps the run is cut into; start and end times are as fine as that."""


def expected_peak_kv(plan: Plan, table: RequestTable, machine: Machine) -> int:
    """KV tokens that the run is expected to hold at its fullest moment.

    They are tokens in all layers: what a group of layers holds counts by its share of the bytes.

    Each group's moment may be another. Where the answer would exceed the pool, the run will fill
    the pool and no more.
    """
    peaks = expected_peaks(plan, table, machine)
    held = sum(tokens * group.kv_bytes for tokens, group in zip(peaks, machine.memory, strict=True))
    most = machine.kv_tokens + (0 if machine.states is None else int(machine.states.tokens))
    return min(math.ceil(held / machine.costs.kv_bytes), most)


def expected_peaks(plan: Plan, table: RequestTable, machine: Machine) -> list[int]:
    """KV tokens that each group of layers is expected to hold at its fullest moment.

    Follows the plan with the expected output lengths: each iteration decodes a token of every
    running sequence and fills the token budget with prefill, in order. Prefill flows evenly
    through an iteration, blocks are not rounded up, and memory delays nothing. Of an owner in a
    group with a window all that it will ever hold counts from its beginning, and so does a state,
    as the tokens it is worth.
    """
    if not plan.num_sequences:
        return [0] * len(machine.memory)
    own = table.computed_lengths[plan.sequence_request] - plan.shared_length
    output = table.expected_new_tokens[plan.sequence_request].astype(np.int64)
    prefill = own.copy()
    # A segment is computed just before its first user.
    np.add.at(prefill, plan.segment_first, plan.segment_length)
    begin = _start_times(np.cumsum(prefill), output, machine.token_budget)
    state = 0 if machine.states is None else round(machine.states.tokens)
    whole = _peak(plan, _Held(own + state, output, plan.segment_length + state, begin))
    peaks = []
    for group in machine.memory:
        peaks.append(whole)
        if group.window is not None:
            cap = group.window.most_blocks(machine.block_size) * machine.block_size
            most = np.minimum(own + output, cap), np.minimum(plan.segment_length, cap)
            held = _Held(most[0], output, most[1], begin, grows=False)
            peaks[-1] = min(whole, _peak(plan, held))
    return peaks


@dataclass(frozen=True)
class _Held:
    """What sequences and segments hold: `own` tokens at first, of some `output` tokens of time.

    Attributes:
        own, output: int64 [Q].
        length: int [S], of the segments.
        begin: float64 [Q], when each sequence starts to decode.
        grows: whether each iteration adds a token to a sequence's.
    """

    own: Int64Array
    output: Int64Array
    length: Int32Array | Int64Array
    begin: FloatArray
    grows: bool = True


def _start_times(prefilled: Int64Array, output: Int64Array, token_budget: int) -> FloatArray:
    """When each sequence starts to decode, in iterations, float64 [Q].

    Args:
        prefilled: int64 [Q], tokens prefilled when a sequence is ready.
    """
    work = int(prefilled[-1] + output.sum())
    step = max(1.0, work / token_budget / _STEPS)
    steps = np.ceil(output / step).astype(np.int64)
    rate = output / (steps * step)  # tokens per iteration: 1, less in an output's last step
    ending = np.zeros(int(steps.max()) + 1)  # a ring: the rates that end at each step to come
    begin = np.empty(len(output))
    done, now, decoding, tokens = 0, 0, 0.0, 0.0
    while done < len(output):
        slot = now % len(ending)
        decoding -= ending[slot]
        ending[slot] = 0.0
        tokens += max(token_budget - decoding, 0.0) * step
        ready = int(np.searchsorted(prefilled, tokens, side="right"))
        begin[done:ready] = now * step
        np.add.at(ending, (now + steps[done:ready]) % len(ending), rate[done:ready])
        decoding += float(rate[done:ready].sum())
        done, now = ready, now + 1
    return begin


def _peak(plan: Plan, held: _Held) -> int:
    """Highest sum of the KV held, looking just before and after every start and finish.

    In between, the KV grows by a token per running sequence and iteration: it is
    constant + slope·time, with sums of what each start and finish changes.
    """
    begin, finish, speed = held.begin, held.begin + held.output, float(held.grows)
    users = np.stack([plan.segment_first, plan.segment_last], axis=1).ravel()
    released = np.maximum.reduceat(np.append(finish, 0.0), users)[::2] if len(users) else begin[:0]
    length, none = held.length, np.zeros(plan.num_segments)
    speeds = np.full(len(begin), speed)
    first = held.own - speed * begin
    # What ends at a moment makes room for what begins then: ends stand first, and the sort is
    # stable.
    time = np.concatenate([finish, released, begin, begin[plan.segment_first]])
    constant = np.concatenate([-first, -length, first, length])
    slope = np.concatenate([-speeds, none, speeds, none])
    order = np.argsort(time, kind="stable")
    time, constant, slope = time[order], np.cumsum(constant[order]), np.cumsum(slope[order])
    after = constant + slope * time
    before = constant[:-1] + slope[:-1] * time[1:]
    return round(float(max(after.max(), before.max())))
