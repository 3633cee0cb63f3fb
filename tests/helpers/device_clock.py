"""A stand-in for `DeviceGroup` without processes: schedulers against a clock.

The run on top of it, the division, the book, the scheduler and what is given up are the real ones;
an iteration takes what `batch_time` says, and answers have the lengths the test says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from shoal.config import EngineOptions
from shoal.devices.device_run import DeviceRun
from shoal.devices.messages import (
    Died,
    Ended,
    FromWorker,
    Gave,
    Piece,
    Ready,
    Spare,
    Started,
    ToWorker,
    Update,
)
from shoal.engine.engine import RunStats
from shoal.engine.release import NOTHING, release_from, released
from shoal.planner import Costs, make_plan
from shoal.scheduler import BLOCK_SIZE, BlockPool, Scheduler
from shoal.simulate import batch_time, part_seconds
from shoal.types import Completion, Int64Array, RequestTable


class ClockDevice:
    """A device with its own time."""

    def __init__(self, group: ClockGroup, number: int) -> None:
        self.group, self.name, self.number = group, f"clock:{number}", number
        self.now = 0.0
        self.inbox: deque[ToWorker] = deque()
        self.piece: Piece | None = None
        self.alive = True
        self.pieces = 0
        self.dies_at = float("inf")

    def send(self, message: ToWorker) -> None:
        if self.alive:
            self.inbox.append(message)

    @property
    def waits(self) -> bool:
        return self.piece is None and not self.inbox

    def advance(self) -> Iterator[FromWorker]:
        """One message from the front, or one iteration."""
        if self.now >= self.dies_at:
            self.dies_at, self.alive, self.piece = float("inf"), False, None
            self.inbox.clear()
            yield Died("was killed by the test")
        elif self.inbox:
            yield from self.answer(self.inbox.popleft())
        else:
            yield from self.iterate()

    def answer(self, message: ToWorker) -> Iterator[FromWorker]:
        group = self.group
        if isinstance(message, Spare):
            given = NOTHING
            if self.piece is not None:
                begun, capacity = self.scheduler.begun, group.num_blocks * BLOCK_SIZE
                table = self.piece.table
                seconds = part_seconds(table, self.plan, group.costs, group.token_budget, capacity)
                first = release_from(self.plan, seconds, begun, self.end, message.parts)
                if first is not None:
                    for sequence in range(first, self.end):
                        self.scheduler.cancel(sequence)
                    given = released(table, self.plan, first, self.end)
                    self.end = first
            numbers = given.requests if self.piece is None else self.piece.requests[given.requests]
            yield Gave(numbers, given.computed_prompt_tokens)
            return
        assert isinstance(message, Piece)
        self.piece, self.pieces = message, self.pieces + 1
        self.now = max(self.now, group.now)
        self.plan = make_plan(
            message.table,
            costs=group.costs,
            capacity_blocks=group.num_blocks,
            block_size=BLOCK_SIZE,
        )
        self.end = self.plan.num_sequences
        pool = BlockPool(group.num_blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(message.table, self.plan, pool, group.token_budget)
        self.stats = RunStats()
        self.choices_left = message.table.choices.tolist()
        yield Started(self.plan.computed_prompt_tokens)

    def iterate(self) -> Iterator[FromWorker]:
        assert self.piece is not None
        batch = self.scheduler.step()
        if batch is None:
            assert self.scheduler.pool.used_blocks == 0
            self.piece = None
            yield Ended()
            return
        self.now += batch_time(batch, self.group.costs).seconds
        request = self.plan.sequence_request[batch.sample_sequences]
        numbers = self.piece.requests[request]
        finished = batch.sample_positions + 1 >= self.group.lengths[numbers]
        tokens = np.zeros(len(numbers), dtype=np.int32)
        self.scheduler.commit(batch, tokens, finished)
        counts = self.scheduler.stats
        self.stats.iterations = counts.iterations
        self.stats.prompt_tokens_computed = counts.prompt_tokens_computed
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
        self.lengths, self.costs = lengths, costs
        self.token_budget, self.num_blocks = token_budget, num_blocks
        self.workers = [ClockDevice(self, number) for number in range(devices)]
        self.ready = set(range(devices))
        self.now = 0.0
        self.closed = False
        self.starting: list[int] = []

    def start(self, device: int) -> None:
        self.workers[device].alive = True
        self.starting.append(device)

    def close(self) -> None:
        self.closed = True

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """What the device says that is furthest behind."""
        while self.starting:
            device = self.starting.pop()
            self.workers[device].now = self.now
            yield device, Ready(self.num_blocks, self.token_budget, self.costs)
            return
        busy = [worker for worker in self.workers if worker.alive and not worker.waits]
        worker = min(busy, key=lambda device: device.now)
        self.now = max(self.now, worker.now)
        for message in worker.advance():
            yield worker.number, message

    @property
    def seconds(self) -> float:
        """When the last device ended."""
        return max(worker.now for worker in self.workers)


def run(group: ClockGroup, table: RequestTable) -> tuple[DeviceRun, list[int]]:
    """Run a table on the group; the run, and the requests in the order of completion."""
    run = DeviceRun(group, table)  # type: ignore[arg-type]
    return run, [c.request_index for completions in run for c in completions]
