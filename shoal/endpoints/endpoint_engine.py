"""Somebody's servers, which look like an engine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection
from dataclasses import replace

import httpx2

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.endpoints.endpoint_options import EndpointOptions
from shoal.endpoints.endpoint_run import EndpointRun, told
from shoal.endpoints.endpoint_server import EndpointServer
from shoal.endpoints.line_plan import plan_lines
from shoal.endpoints.line_source import ReadLine
from shoal.errors import EndpointError, InternalError
from shoal.machine.capacity import CapacitySource, KVCapacity, planned_machine
from shoal.model.description import ModelDescription
from shoal.types import RequestTable

KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable that holds the servers' key."""
_SEQUENCES = 64
"""Longest sequences that a server is taken to hold, where families are divided among several."""
_ROUND_SECONDS = 1.0


class EndpointEngine:
    """See `EngineProtocol` and `SendsLines`; holds connections, and no weights."""

    def __init__(
        self, description: ModelDescription, options: EngineOptions, endpoints: EndpointOptions
    ) -> None:
        """Ask the servers what models they have.

        Raises:
            EndpointError: none can be reached, or one refuses the key or has no model.
        """
        self.options = options
        length = description.max_model_len
        planned = planned_machine(description, options, KVCapacity(length, CapacitySource.stated))
        self._machine, self._length = planned, length
        self._read: ReadLine | None = None
        self._run: EndpointRun | None = None
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._loop = asyncio.new_event_loop()
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=10.0),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        )
        self._servers = [EndpointServer(url, self._client, endpoints) for url in endpoints.urls]
        try:
            self._loop.run_until_complete(self._find(endpoints.endpoint_patience))
        except BaseException:
            self.close()
            raise

    @property
    def machine(self) -> Machine:
        """This machine, with the KV pool that holds the longest request: more servers refuse."""
        return self._machine

    @property
    def model_names(self) -> Collection[str]:
        """Names of all servers' models."""
        return {name for server in self._servers for name in server.names}

    def read_with(self, read: ReadLine) -> None:
        """See `SendsLines`."""
        self._read = read

    def run(self, table: RequestTable) -> EndpointRun:
        """Plan a table, deal its lines to the servers, and return the run."""
        if self._read is None:
            raise InternalError("nothing says how lines are read")
        machine = replace(self._machine, kv_tokens=_SEQUENCES * self._length)
        lines = plan_lines(table, self.options, machine, len(self._servers))
        self._run = EndpointRun(self._loop, self._servers, table, lines, self._machine, self._read)
        return self._run

    def close(self) -> None:
        """Give up what is under way, and the connections. Idempotent."""
        if self._loop.is_closed():
            return
        if self._run is not None:
            self._run.stop()
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()

    async def _find(self, patience: float) -> None:
        """Wait until at least one server can be reached; others may come later."""
        ends = time.monotonic() + patience
        while True:
            await asyncio.gather(*(server.find() for server in self._servers))
            if any(server.alive for server in self._servers):
                return
            if time.monotonic() >= ends:
                raise EndpointError(
                    f"no server can be reached ({told(self._servers)}). Start one, and run the "
                    "same command again."
                )
            await asyncio.sleep(min(_ROUND_SECONDS, patience))
