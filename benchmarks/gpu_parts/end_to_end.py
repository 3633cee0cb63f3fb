"""Whole workloads on one model under all policies."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from benchmarks.agreement import check_work
from benchmarks.gpu_parts.ceilings import Ceilings
from benchmarks.gpu_parts.cells import MOST_TIMES, Cell, affordable, how_often, tight_blocks
from benchmarks.gpu_parts.clock import Deadline, OutOfTimeError, synchronize
from benchmarks.gpu_parts.contenders import (
    LRU_BUDGET,
    OURS,
    POLICIES,
    Outcome,
    Policy,
    descending,
    make_table,
    run_policy,
    summary,
)
from benchmarks.gpu_parts.floors import Paces, ceiling_costs, floor_of, private_reads
from benchmarks.gpu_parts.profile import profile_run
from benchmarks.gpu_parts.race import Load, Race
from benchmarks.gpu_parts.records import Recorder
from benchmarks.models import ModelShape
from benchmarks.peers.client import RunResult
from benchmarks.runner import say
from benchmarks.workloads import Workload, make_workload
from shoal.config import EngineOptions
from shoal.costs import Costs, Machine
from shoal.cuda.buckets import MAX_GRAPH_ROWS
from shoal.engine.engine import Engine
from shoal.model.description import ModelDescription
from shoal.model.load import LoadedModel
from shoal.scheduler import BLOCK_SIZE

WARM_UP = 0.25
"""Scale of the workload that warms a policy up."""
PATIENCE = 4.0
"""A run is given up when it takes this many times as long as expected, and `LEAST_PATIENCE`."""
LEAST_PATIENCE = 40.0
PROFILE_TIME = 1.8
"""How much longer a cell takes with a look from inside."""
PROFILED_FROM = 0.35
"""Share of a run's iterations after which some are looked at from inside."""
PROFILED = 24
"""How many."""


@dataclass
class Bench:
    """A model in memory, and what was learnt of it.

    Attributes:
        ample_blocks: KV blocks where memory is not to be tight.
        scale: of workloads; below 1 for smoke tests only.
        token_budget: of the engine; None: measured.
        most_times: as many groups as in `SPECS` at most.
    """

    description: ModelDescription
    model: LoadedModel
    shape: ModelShape
    ceilings: Ceilings
    ample_blocks: int
    recorder: Recorder
    scale: float = 1.0
    token_budget: int | None = None
    most_times: int = MOST_TIMES
    paces: Paces = field(default_factory=Paces)
    _engine: Engine | None = None
    _blocks: int = 0
    _engine_seconds: float = 0.0
    _warm: set[str] = field(default_factory=set)
    _lru_budget: int | None = None

    def run(self, cells: list[Cell], deadline: Deadline) -> None:
        """A record per cell and policy, as far as the time goes, in equal shares of it."""
        for place, cell in enumerate(cells):
            self._run_cell(cell, deadline, deadline.left / (len(cells) - place))

    def close(self) -> None:
        """Give the KV memory back."""
        self._engine = None
        self._warm.clear()
        gc.collect()
        if self.description.device.type == "cuda":
            torch.cuda.empty_cache()

    def any_engine(self) -> Engine:
        """The engine there is, or one with ample KV memory."""
        return self._engine or self._make_engine(self.ample_blocks)

    def _make_engine(self, blocks: int) -> Engine:
        """An engine with that much KV memory, warmed up; only one at a time has any."""
        if self._engine is not None and self._blocks == blocks:
            return self._engine
        self.close()
        say(f"an engine with {blocks * BLOCK_SIZE} tokens of KV memory")
        began = time.perf_counter()
        options = EngineOptions(
            kv_memory=str(blocks * BLOCK_SIZE * self.description.kv_bytes_per_token),
            token_budget=self.token_budget,
        )
        engine = Engine(self.description, options, self.model)
        placed = time.perf_counter()
        self._engine, self._blocks, self.token_budget = engine, blocks, engine.machine.token_budget
        sweep = descending(self.shape.vocabulary, most=min(MAX_GRAPH_ROWS, blocks // 4))
        run_policy(engine, POLICIES[OURS], sweep, lambda: None, None)
        self._engine_seconds = time.perf_counter() - began
        self.recorder.add(
            "engine",
            model=self.description.name,
            kv_tokens=engine.machine.kv_tokens,
            token_budget=engine.machine.token_budget,
            costs=asdict(engine.machine.costs),
            seconds={"place": placed - began, "all": self._engine_seconds},
        )
        return engine

    def _run_cell(self, cell: Cell, deadline: Deadline, share: float) -> None:
        if all(self._knows(cell, policy) for policy in cell.policies):
            return
        once = self._workload(cell, times=1)
        blocks = self._blocks_of(cell, once)
        expected = self._expectation(self._load(once, blocks))
        # Tight memory is another with every workload, so its engine is made anew.
        making = 0.0 if blocks == self._blocks and not cell.tight else self._engine_seconds
        left = deadline.left - making
        chosen = affordable(cell.policies, expected, left)
        left_out = [name for name in cell.policies if name not in chosen]
        if left_out:
            self.recorder.add("end-to-end", cell=cell.name, skipped=left_out, reason="no time left")
        if not chosen:
            return
        together = sum(map(expected, chosen))
        share = (share - making) / (PROFILE_TIME if cell.profiled else 1.0)
        times = how_often(together, share, left, self.most_times)
        workload = self._workload(cell, times)
        blocks = self._blocks_of(cell, workload)
        race = Race(cell, workload, times, chosen, self._load(workload, blocks))
        try:
            engine = self._make_engine(blocks)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:500]
            self.recorder.add("end-to-end", cell=cell.name, error=reason)
            return
        self._warm_up(engine, cell, chosen, deadline)
        self._race(race, engine, deadline)
        if cell.profiled and OURS in race.outcomes and deadline.left > race.outcomes[OURS].seconds:
            self._profile(race, engine)

    def _knows(self, cell: Cell, policy: str) -> bool:
        model, kv = self.description.name, self._kv_name(cell)
        return self.recorder.knows(
            "end-to-end", workload=cell.workload, kv=kv, model=model, policy=policy
        )

    def _kv_name(self, cell: Cell) -> str:
        return "tight" if cell.tight else "ample"

    def _race(self, race: Race, engine: Engine, deadline: Deadline) -> None:
        expected = self._expectation(race.load)
        for name in race.policies:
            seconds = expected(name)
            limit = deadline.within(max(LEAST_PATIENCE, PATIENCE * seconds))
            patience = limit.left
            say(f"{race.cell.name} x{race.times} {name}: {seconds:.0f} s expected")
            workload = race.workload.sorted() if POLICIES[name].sorts else race.workload
            try:
                outcome = self._timed(engine, name, workload, limit)
                result = RunResult(outcome.seconds, outcome.token_ids, 0)
                check_work(name, workload, result)
            except OutOfTimeError:
                self._add(race, name, engine, error=f"not finished after {patience:.0f} s")
                continue
            except Exception as error:
                self._add(race, name, engine, error=f"{type(error).__name__}: {error}"[:500])
                continue
            self.paces.learn(name, race.load.ideal(name), outcome.seconds)
            race.add(name, workload, outcome)
            self._add(race, name, engine, **self._figures(race, name, outcome))

    def _profile(self, race: Race, engine: Engine) -> None:
        """Some of our iterations again, from inside."""
        skip = int(PROFILED_FROM * race.outcomes[OURS].iterations)
        try:
            figures = profile_run(engine, race.workload, skip, PROFILED)
        except Exception as error:
            figures = {"error": f"{type(error).__name__}: {error}"[:500]}
        model = self.description.name
        self.recorder.add("profile", workload=race.cell.workload, model=model, **figures)

    def _timed(self, engine: Engine, name: str, workload: Workload, limit: Deadline) -> Outcome:
        try:
            return run_policy(engine, POLICIES[name], workload, limit.check, self._lru_budget)
        finally:
            synchronize(self.description.device)

    def _figures(self, race: Race, name: str, outcome: Outcome) -> dict[str, Any]:
        tokens, floor = race.workload.generated_tokens, race.load.floor
        return summary(outcome) | {
            "tokens_per_second": tokens / outcome.seconds,
            "roofline_seconds": asdict(floor),
            "roofline_fraction": floor.seconds / outcome.seconds,
            "compute_fraction": floor.compute / outcome.seconds,
            "ratios": race.ratios(name),
            "agreement": race.agreement(name),
        }

    def _add(self, race: Race, name: str, engine: Engine, **figures: Any) -> None:
        self.recorder.add(
            "end-to-end",
            workload=race.cell.workload,
            kv=self._kv_name(race.cell),
            kv_tokens=engine.machine.kv_tokens,
            model=self.description.name,
            policy=name,
            fused=bool(self.model.fused),
            times=race.times,
            scale=self.scale,
            requests=len(race.workload.prompts),
            tokens=race.workload.generated_tokens,
            **figures,
        )

    def _warm_up(self, engine: Engine, cell: Cell, policies: list[str], deadline: Deadline) -> None:
        """Run each policy once, small, so that nothing is compiled or captured in a timed run."""
        small = make_workload(cell.workload, self.shape.vocabulary, self.scale * WARM_UP, seed=1)
        for name in [OURS, *policies]:
            if name in self._warm:
                continue
            say(f"{cell.name}: warming up {name}")
            try:
                self._timed(engine, name, small, deadline)
                self._choose_lru_budget(engine, POLICIES[name], small, deadline)
            except OutOfTimeError:
                return
            except Exception as error:
                say(f"{name} fails: {type(error).__name__}: {error}")
            self._warm.add(name)

    def _choose_lru_budget(
        self, engine: Engine, policy: Policy, workload: Workload, deadline: Deadline
    ) -> None:
        """Once: whether the baselines are faster with our token budget or with theirs."""
        if policy.sharing is not None or self._lru_budget is not None:
            return
        budgets = {engine.machine.token_budget, LRU_BUDGET}
        seconds = {}
        for budget in sorted(budgets) if len(budgets) > 1 else []:
            run = run_policy(engine, policy, workload, deadline.check, budget)
            seconds[budget] = run.seconds
        self._lru_budget = min(seconds, key=seconds.__getitem__, default=LRU_BUDGET)

    def _workload(self, cell: Cell, times: int) -> Workload:
        return make_workload(cell.workload, self.shape.vocabulary, self.scale, times=times)

    def _blocks_of(self, cell: Cell, workload: Workload) -> int:
        return min(tight_blocks(workload), self.ample_blocks) if cell.tight else self.ample_blocks

    @cached_property
    def _ceiling_costs(self) -> Costs:
        return ceiling_costs(self.description, self.ceilings)

    def _load(self, workload: Workload, blocks: int) -> Load:
        table, budget = make_table(workload), self.token_budget or LRU_BUDGET
        machine = Machine(self._ceiling_costs, budget, blocks * BLOCK_SIZE)
        floor = floor_of(workload, table, self.shape, machine)
        return Load(floor, private_reads(workload, self._ceiling_costs))

    def _expectation(self, load: Load) -> Callable[[str], float]:
        return lambda name: self.paces.expect(name, load.ideal(name))
