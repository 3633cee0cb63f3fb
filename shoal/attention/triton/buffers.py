"""A batch's tasks on the device: one host buffer, one copy.

The host buffer is pinned memory from torch's caching host allocator. It records an event on the
copy's stream and hands the memory out again only when the copy is done, so any number of batches
may be prepared while earlier ones run, and nothing here ever waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from shoal.attention.triton.launch_plan import (
    WAVES,
    Field,
    Geometry,
    TaskPlan,
    plan_tasks,
    rows_per_key,
)
from shoal.errors import InternalError
from shoal.work import SegmentWork, Window

_ALIGNMENT = 4
"""Numbers of int32: sections begin on 16 bytes, as vector loads want it."""


@dataclass(frozen=True)
class Sizes:
    """How much room a buffer has, or a plan needs: tasks, merged rows, partial results, blocks, and
    positions, which only a window needs."""

    tasks: int
    rows: int
    slots: int
    blocks: int
    positions: int = 0

    def holds(self, other: Sizes) -> bool:
        """Whether `other` fits."""
        return (
            other.tasks <= self.tasks
            and other.rows <= self.rows
            and other.slots <= self.slots
            and other.blocks <= self.blocks
            and other.positions <= self.positions
        )

    def sections(self) -> list[int]:
        """Lengths of counts, records, merged rows, offsets, slots, positions, blocks."""
        merged = [self.rows, self.rows + 1, self.slots]
        return [2, self.tasks * len(Field), *merged, self.positions, self.blocks]


class Tasks:
    """Device memory for a plan, int32, in one piece.

    Attributes:
        counts: [2]: tasks, merged rows. The others as in `TaskPlan`.
        sizes: the room there is; `merge` is launched for sizes.rows rows.
    """

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes = sizes
        lengths = sizes.sections()
        # At least one number each, so that every section has an address.
        room = [-(-max(length, 1) // _ALIGNMENT) * _ALIGNMENT for length in lengths]
        self._starts = np.concatenate([[0], np.cumsum(room)]).tolist()
        self._buffer = torch.empty(self._starts[-1], dtype=torch.int32, device=device)
        parts = torch.split(self._buffer, room)
        self.counts, self.records, self.merge_rows = parts[:3]
        self.merge_offsets, self.merge_slots, self.positions, self.blocks = parts[3:]

    def write(self, plan: TaskPlan, work: SegmentWork, window: Window | None) -> None:
        """Copy a plan over what was there, in the order of the current stream."""
        blocks = work.blocks
        positions = np.zeros(0, np.int64) if window is None else window.last(work.positions)
        host = torch.empty(
            self._starts[-2] + len(blocks),
            dtype=torch.int32,
            pin_memory=self._buffer.device.type == "cuda",
        )
        numbers = host.numpy()
        counts = np.array([len(plan.records), len(plan.merge_rows)], dtype=np.int32)
        merged = plan.merge_rows, plan.merge_offsets, plan.merge_slots
        columns: list[np.ndarray] = [counts, plan.records.reshape(-1), *merged, positions, blocks]
        for start, column in zip(self._starts, columns, strict=False):
            numbers[start : start + len(column)] = column
        self._buffer[: len(host)].copy_(host, non_blocking=True)


class Workspace:
    """Partial results: float32 [slots, heads, value_dim] and their LSE [slots, heads]."""

    def __init__(self, slots: int, heads: int, value_dim: int, device: torch.device) -> None:
        slots = max(slots, 1)
        self.out = torch.empty(slots, heads, value_dim, dtype=torch.float32, device=device)
        self.lse = torch.empty(slots, heads, dtype=torch.float32, device=device)


class DeviceWork(Protocol):
    """A work list that can be launched."""

    def window(self, window: Window | None) -> Window | None:
        """The window to plan for: None if it hides nothing."""

    def rows_per_key(self, group: int) -> float:
        """Query rows per KV token, in the mean, as `launch_plan` has it: short or tall tiles."""

    def tasks(self, geometry: Geometry) -> Tasks:
        """Its tasks for these shapes, on the device."""

    def workspace(self, tasks: Tasks, heads: int, value_dim: int) -> Workspace:
        """Memory for the partial results of a call."""


class PreparedWork:
    """One batch's work list. Its tasks are made at the first call, when the heads are known."""

    def __init__(self, work: SegmentWork, device: torch.device) -> None:
        self._work, self._device = work, device
        self._tasks: dict[Geometry, Tasks] = {}
        self._rows_per_key: dict[int, float] = {}

    def window(self, window: Window | None) -> Window | None:
        """See `DeviceWork`."""
        return window if self._work.hides(window) else None

    def rows_per_key(self, group: int) -> float:
        """Counted at the first call for so many query heads per KV head."""
        if group not in self._rows_per_key:
            self._rows_per_key[group] = rows_per_key(self._work, group)
        return self._rows_per_key[group]

    def tasks(self, geometry: Geometry) -> Tasks:
        """Planned and copied at the first call for these shapes; the same for all layers."""
        found = self._tasks.get(geometry)
        if found is None:
            plan = plan_tasks(self._work, geometry)
            found = Tasks(_needed(plan, self._work, geometry), self._device)
            found.write(plan, self._work, geometry.window)
            self._tasks[geometry] = found
        return found

    def workspace(self, tasks: Tasks, heads: int, value_dim: int) -> Workspace:
        """From the caching allocator, which gives every layer the same memory."""
        return Workspace(tasks.sizes.slots, heads, value_dim, self._device)


@dataclass(frozen=True)
class Capacity:
    """How large a batch a `FixedWork` takes.

    Attributes:
        rows: of the query.
        blocks: in the work's list of blocks.
        parts_per_row: segments a row attends to, in the mean.
    """

    rows: int
    blocks: int
    parts_per_row: int = 4

    def sizes(self, geometry: Geometry) -> Sizes:
        """Room for batches of this size, and for as many splits as fill the device."""
        splits = -(-geometry.programs * WAVES // geometry.kv_heads)
        tile = min(self.rows, geometry.rows // geometry.group + 2)
        parts = self.parts_per_row * self.rows
        positions = 0 if geometry.window is None else self.rows
        slots = parts + splits * tile
        return Sizes(2 * (parts + splits), self.rows, slots, self.blocks, positions)


class FixedWork:
    """Work lists, one after the other, at the same device addresses: what a CUDA graph replays.

    A call with it is the same launch whatever the work, so it may be captured once and replayed
    after each `fill`. Buffers for a shape of heads are allocated at its first call, which must
    come before the capture. All on one stream: a fill must not overtake the replay before it.
    """

    def __init__(self, capacity: Capacity, device: torch.device) -> None:
        self.capacity, self._device = capacity, device
        self._work: SegmentWork | None = None
        self._tasks: dict[Geometry, Tasks] = {}
        self._workspaces: dict[tuple[Tasks, int, int], Workspace] = {}

    def fill(self, work: SegmentWork) -> bool:
        """Take on a work list; False, and nothing is changed, if it does not fit."""
        if work.num_rows > self.capacity.rows or len(work.blocks) > self.capacity.blocks:
            return False
        plans = {geometry: self._plan(work, geometry) for geometry in self._tasks}
        if not all(
            self._tasks[geometry].sizes.holds(_needed(plan, work, geometry))
            for geometry, plan in plans.items()
        ):
            return False
        for geometry, plan in plans.items():
            self._tasks[geometry].write(plan, work, geometry.window)
        self._work = work
        return True

    def window(self, window: Window | None) -> Window | None:
        """As it is: a captured launch serves works that it hides something of."""
        return window

    def rows_per_key(self, group: int) -> float:
        """0 whatever the work: a captured launch is one for few rows."""
        return 0.0

    def tasks(self, geometry: Geometry) -> Tasks:
        """The tasks of the work filled in last, at addresses that stay the same.

        Raises:
            InternalError: nothing was filled in, or it is too large for these heads.
        """
        found = self._tasks.get(geometry)
        if found is None:
            if self._work is None:
                raise InternalError(
                    "fixed attention buffers were used before a work list was put in"
                )
            plan, found = self._plan(self._work, geometry), None
            tasks = Tasks(self.capacity.sizes(geometry), self._device)
            needed = _needed(plan, self._work, geometry)
            if not tasks.sizes.holds(needed):
                raise InternalError(
                    f"the first work list needs {needed}, more than fixed "
                    f"attention buffers of {tasks.sizes} hold; fill a smaller one first"
                )
            tasks.write(plan, self._work, geometry.window)
            self._tasks[geometry] = found = tasks
        return found

    def workspace(self, tasks: Tasks, heads: int, value_dim: int) -> Workspace:
        """Always the same memory for the same heads."""
        key = tasks, heads, value_dim
        if key not in self._workspaces:
            self._workspaces[key] = Workspace(tasks.sizes.slots, heads, value_dim, self._device)
        return self._workspaces[key]

    def _plan(self, work: SegmentWork, geometry: Geometry) -> TaskPlan:
        return plan_tasks(work, geometry, self.capacity.rows)


def _needed(plan: TaskPlan, work: SegmentWork, geometry: Geometry) -> Sizes:
    positions = 0 if geometry.window is None else work.num_rows
    parts = len(plan.merge_rows), plan.num_slots
    return Sizes(len(plan.records), *parts, len(work.blocks), positions)
