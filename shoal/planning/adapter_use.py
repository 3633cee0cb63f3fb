"""What a job's adapters come to: how many, their memory, and what they keep from being shared."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shoal.costs import Machine
from shoal.planner import FoldCost, Savings, forest_of, savings
from shoal.types import BASE_MODEL, RequestTable


@dataclass(frozen=True)
class AdapterUse:
    """The adapters of a planned job.

    Attributes:
        given: adapters that lines may name.
        used: those that requests name.
        requests: that name one; the others run with the model as it is.
        bytes: memory that all used ones would take together.
        largest_bytes: that the largest of them takes.
        memory_bytes: for those in use at a time.
        tokens_apart: prompt tokens that sharing would save if all requests ran with one adapter,
            beyond those that it saves.
    """

    given: int
    used: int
    requests: int
    bytes: int
    largest_bytes: int
    memory_bytes: int
    tokens_apart: int


def adapter_use(
    table: RequestTable, machine: Machine, saved: Savings, given: int
) -> AdapterUse | None:
    """Those of a table; None: no adapter was given.

    Args:
        saved: what sharing saves on the table.
        given: adapters that lines may name.
    """
    if not given:
        return None
    numbers = np.zeros(0, dtype=np.int32) if table.adapter is None else table.adapter
    named = numbers[numbers != BASE_MODEL]
    sizes = [table.adapters[number].num_bytes for number in np.unique(named).tolist()]
    apart = 0
    if len(named):
        alike = replace(table, adapters=(), adapter=None)
        cost, output = FoldCost.of(machine.costs), table.expected_output
        apart = savings(forest_of(alike), cost, output, saved.none).forest - saved.forest
    return AdapterUse(
        given=given,
        used=len(sizes),
        requests=len(named),
        bytes=sum(sizes),
        largest_bytes=max(sizes, default=0),
        memory_bytes=machine.adapter_bytes,
        tokens_apart=max(0, apart),
    )
