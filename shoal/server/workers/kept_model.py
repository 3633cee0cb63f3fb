"""The model in a process of the server: described for every kind of batch, loaded for one.

A model may answer, and give vectors, scores or classes too: each takes an engine of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.devices import SharedEngine, SharedRun
from shoal.fleet.engines import make_engine
from shoal.model.description import ModelDescription
from shoal.model.pooling import AskedPooling
from shoal.server.server_options import Served
from shoal.types import RequestTable

OnRun: TypeAlias = Callable[[RequestTable, SharedRun], SharedRun]


class Descriptions:
    """The model as each kind of batch sees it, read once."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._known: dict[AskedPooling | None, ModelDescription] = {}

    def __call__(self, asked: AskedPooling | None) -> ModelDescription:
        """For batches that ask for this; None: for answers.

        Raises:
            ModelError, OptionError: the model cannot do it.
        """
        if asked not in self._known:
            served = self._served
            self._known[asked] = ModelDescription.load(served.model, served.options, asked=asked)
        return self._known[asked]

    @property
    def usual(self) -> ModelDescription:
        """For what its files say that it is made for."""
        return self(AskedPooling(type=self._served.options.pooling_type, required=False))


class KeptEngine:
    """An engine that is lent to one run after another; one of another kind takes its place.

    Attributes:
        on_run: told of each run that is planned, before its first iteration; gives the run back, or
            one that stands for it.
    """

    def __init__(self, descriptions: Descriptions, options: EngineOptions) -> None:
        """Make the engine for what the model is made for.

        Raises:
            ModelError, OptionError: see `shoal.engine.engine.Engine`.
        """
        self.on_run: OnRun | None = None
        self._made_for: ModelDescription | None = None
        self._engine: SharedEngine | None = None
        self.kv_bytes = 0
        """Of its KV pool."""
        self.lend(descriptions.usual, options)

    def lend(self, description: ModelDescription, options: EngineOptions) -> SharedEngine:
        """The engine for a run, as `run_together` makes it; its `close` leaves it as it is."""
        if self._made_for is None or self._made_for.pooling != description.pooling:
            if self._engine is not None:
                self._engine.close()
            self._engine = self._made_for = None
            self._engine = make_engine(description, options)
            self._made_for = description
            machine = self._engine.machine
            self.kv_bytes = int(machine.kv_tokens * machine.costs.kv_bytes)
        assert self._engine is not None
        return _Lent(self._engine, self.on_run)


class _Lent:
    """An engine that who has it does not close."""

    def __init__(self, engine: SharedEngine, on_run: OnRun | None) -> None:
        self._engine, self._on_run = engine, on_run

    @property
    def machine(self) -> Machine:
        """See `SharedEngine`."""
        return self._engine.machine

    def run(self, table: RequestTable) -> SharedRun:
        """See `SharedEngine`."""
        run = self._engine.run(table)
        return run if self._on_run is None else self._on_run(table, run)

    def close(self) -> None:
        """Nothing: the next run takes the same engine."""
