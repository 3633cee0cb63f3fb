"""A `Transport` without processes: schedulers against a clock.

The run on top of it, the division, the assignments, the scheduler and what is released are the real
ones; an iteration takes what `batch_time` says, and answers have the lengths the test says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from shoal.config import EngineOptions
from shoal.costs import BLOCK_SIZE, Costs, Machine
from shoal.devices.device_run import DeviceRun
from shoal.devices.messages import (
    Assign,
    Ended,
    FromWorker,
    Ready,
    Release,
    Released,
    Started,
    ToWorker,
    Update,
    WorkerDied,
)
from shoal.engine.release import release_from
from shoal.engine.run_stats import RunStats
from shoal.planning import plan_run
from shoal.scheduler import BlockPool, Scheduler
from shoal.simulate import batch_time, part_seconds
from shoal.types import Completion, Int64Array, RequestTable


class ClockDevice:
    """A device with its own time."""

    def __init__(self, group: ClockGroup, number: int) -> None:
        self.group, self.number = group, number
        self.now = 0.0
        self.inbox: deque[ToWorker] = deque()
        self.assigned: Assign | None = None
        self.alive = True
        self.dies_at = float("inf")

    @property
    def waits(self) -> bool:
        return self.assigned is None and not self.inbox

    def advance(self) -> Iterator[FromWorker]:
        """One message from the run, or one iteration."""
        if self.now >= self.dies_at:
            self.dies_at, self.alive, self.assigned = float("inf"), False, None
            self.inbox.clear()
            yield WorkerDied("was killed by the test")
        elif self.inbox:
            yield from self.answer(self.inbox.popleft())
        else:
            yield from self.iterate()

    def answer(self, message: ToWorker) -> Iterator[FromWorker]:
        group = self.group
        if isinstance(message, Release):
            given = np.zeros(0, dtype=np.int64)
            if self.assigned is not None:
                seconds = part_seconds(self.assigned.table, self.plan, group.machine)
                begun = self.scheduler.begun
                first = release_from(self.plan, seconds, begun, self.end, message.parts)
                if first is not None:
                    for sequence in range(first, self.end):
                        self.scheduler.cancel(sequence)
                    given = np.unique(self.plan.sequence_request[first : self.end])
                    self.end = first
            yield Released(given if self.assigned is None else self.assigned.requests[given])
            return
        assert isinstance(message, Assign)
        self.assigned = message
        self.now = max(self.now, group.now)
        planned = plan_run(message.table, group.options, group.machine)
        self.plan = planned.plan
        self.end = self.plan.num_sequences
        pool, budget = BlockPool(group.machine.num_blocks), group.machine.token_budget
        self.scheduler = Scheduler(message.table, self.plan, pool, budget)
        self.stats = RunStats()
        self.choices_left = message.table.choices.tolist()
        yield Started(planned.figures)

    def iterate(self) -> Iterator[FromWorker]:
        assert self.assigned is not None
        batch = self.scheduler.step()
        if batch is None:
            assert self.scheduler.pool.used_blocks == 0
            self.assigned = None
            yield Ended()
            return
        self.now += batch_time(batch, self.group.machine.costs).seconds
        request = self.plan.sequence_request[batch.sample_sequences]
        numbers = self.assigned.requests[request]
        finished = batch.sample_positions + 1 >= self.group.lengths[numbers]
        tokens = np.zeros(len(numbers), dtype=np.int32)
        self.scheduler.commit(batch, tokens, finished)
        counts = self.scheduler.stats
        self.stats.iterations = counts.iterations
        self.stats.prompt_tokens_computed = counts.prompt_tokens_computed
        self.stats.prompt_tokens_recomputed = counts.prompt_tokens_recomputed
        self.stats.preemptions = counts.preemptions
        self.stats.generated_tokens = counts.generated_tokens
        done = []
        for number, own in zip(numbers[finished].tolist(), request[finished].tolist(), strict=True):
            self.choices_left[own] -= 1
            if not self.choices_left[own]:
                done.append(Completion(number, 0, ()))
        row = np.array([[self.now, 0, 0, batch.num_tokens, self.scheduler.num_running, 1]])
        yield Update(done, self.stats, row)


class ClockGroup:
    """Devices of equal speed; `lengths` are the true ones, int64 [N]."""

    def __init__(
        self,
        devices: int,
        lengths: Int64Array,
        costs: Costs,
        token_budget: int = 256,
        num_blocks: int = 400,
    ) -> None:
        self.options = EngineOptions(devices=devices)
        self.lengths = lengths
        self.machine = Machine(costs, token_budget, num_blocks * BLOCK_SIZE)
        self.workers = {number: f"clock:{number}" for number in range(devices)}
        self.devices = [ClockDevice(self, number) for number in self.workers]
        self.ready = set(range(devices))
        self.now = 0.0
        self.closed = False
        self.starting: list[int] = []

    def send(self, worker: int, message: ToWorker) -> None:
        if self.devices[worker].alive:
            self.devices[worker].inbox.append(message)

    def start(self, worker: int) -> None:
        self.devices[worker].alive = True
        self.starting.append(worker)

    def close(self) -> None:
        self.closed = True

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """What the device says that is furthest behind."""
        while self.starting:
            device = self.starting.pop()
            self.devices[device].now = self.now
            yield device, Ready(self.machine)
            return
        busy = [device for device in self.devices if device.alive and not device.waits]
        behind = min(busy, key=lambda device: device.now)
        self.now = max(self.now, behind.now)
        for message in behind.advance():
            yield behind.number, message

    @property
    def seconds(self) -> float:
        """When the last device ended."""
        return max(device.now for device in self.devices)


class PoisonedDevice(ClockDevice):
    """Dies of some requests, one iteration after it has begun them."""

    def iterate(self) -> Iterator[FromWorker]:
        yield from super().iterate()
        assert isinstance(self.group, PoisonedGroup)
        if self.assigned is not None:
            begun = self.assigned.requests[self.plan.sequence_request[: self.scheduler.begun]]
            if np.isin(begun, self.group.poison).any():
                self.dies_at = self.now
                self.group.deaths += 1


class PoisonedGroup(ClockGroup):
    """Devices that die of the requests in `poison`, int64 [P]."""

    poison: Int64Array
    deaths = 0

    def __init__(self, devices: int, lengths: Int64Array, costs: Costs, **more: int) -> None:
        super().__init__(devices, lengths, costs, **more)
        self.devices = [PoisonedDevice(self, number) for number in self.workers]


def run(group: ClockGroup, table: RequestTable) -> tuple[DeviceRun, list[int]]:
    """Run a table on the group; the run, and the requests in the order of completion."""
    run = DeviceRun(group, table)
    return run, [c.request_index for completions in run for c in completions]
