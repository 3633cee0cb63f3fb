"""One server: its names, a line sent to it, and whether it can be reached."""

from __future__ import annotations

import asyncio
import heapq
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2
import orjson

from shoal.endpoints.concurrency import Concurrency
from shoal.endpoints.endpoint_answers import TryAgain, json_object, judge
from shoal.endpoints.endpoint_options import EndpointOptions
from shoal.endpoints.line_dealer import PlannedLine
from shoal.errors import EndpointError
from shoal.types import ServerAnswer

PROBE_SECONDS = 10.0
"""How long a server may take to say what models it has."""
_FAILURES = 3
"""Attempts in a row that must fail before a server counts as out of reach."""


@dataclass
class EndpointServer:
    """A server and what is known of it.

    Attributes:
        names: of its models.
        model: what a line's model is replaced by, unless it is one of the names.
        alive: whether it gets lines.
        under_way: lines that it has and has not answered.
        paused: time before which it wants to be left alone.
        delayed: lines that wait before they are sent again: (time, number, line), a heap.
        trouble: what went wrong last.
    """

    url: str
    client: httpx2.AsyncClient
    options: EndpointOptions
    names: list[str] = field(default_factory=list)
    model: str = ""
    alive: bool = False
    under_way: set[PlannedLine] = field(default_factory=set)
    paused: float = 0.0
    delayed: list[tuple[float, int, PlannedLine]] = field(default_factory=list)
    trouble: str = ""

    def __post_init__(self) -> None:
        self._failures = 0
        self._failing_since = 0.0
        self._heard = 0.0
        self.concurrency = Concurrency(self.options.endpoint_concurrency)

    async def find(self) -> bool:
        """Ask what models it has; whether it can be reached. It is alive then.

        Raises:
            EndpointError: it refuses the key, or has no model and none was named.
        """
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                response = await self.client.get(f"{self.url}/v1/models")
        except (httpx2.HTTPError, TimeoutError) as error:
            self.trouble = _words(error)
            return False
        if response.status_code in (401, 403):
            raise key_refused(self.url, response.status_code)
        if response.status_code >= 500 or response.status_code == 429:
            self.trouble = f"/v1/models answered with status {response.status_code}"
            return False
        listed = (json_object(response.content) or {}).get("data")
        models = listed if isinstance(listed, list) else []
        names = [each.get("id") for each in models if isinstance(each, dict)]
        self.names = [name for name in names if isinstance(name, str)]
        wanted = self.options.endpoint_model
        if wanted is None and not self.names:
            raise EndpointError(
                f"{self.url} does not say what models it has (/v1/models answered with status "
                f"{response.status_code}); give --endpoint-model, or another --endpoint."
            )
        if wanted is not None and self.names and wanted not in self.names:
            raise EndpointError(
                f"{self.url} has no model {wanted!r}; --endpoint-model may be "
                f"{', '.join(self.names[:10])}."
            )
        self.model = self.names[0] if wanted is None else wanted
        self.alive, self._failures = True, 0
        self.concurrency = Concurrency(self.options.endpoint_concurrency)
        return True

    async def post(self, url: str, body: dict[str, Any]) -> ServerAnswer | TryAgain:
        """Send a request, once; what came of it."""
        sent = time.monotonic()
        if body.get("model") not in self.names:
            body = body | {"model": self.model}
        try:
            async with asyncio.timeout(self.options.endpoint_timeout):
                response = await self.client.post(f"{self.url}{url}", content=orjson.dumps(body))
        except (httpx2.HTTPError, TimeoutError) as error:
            timed_out = isinstance(error, TimeoutError)
            self._failed(sent if timed_out else time.monotonic(), sent)
            unreachable = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            why = self.trouble = _words(error)
            return TryAgain(why, overloaded=timed_out, unreachable=unreachable)
        self._heard, self._failures = time.monotonic(), 0
        retry_after = response.headers.get("retry-after")
        return judge(url, response.status_code, response.content, retry_after)

    def _failed(self, since: float, sent: float) -> None:
        """An attempt got no answer; of one that another's answer overtook, only itself is wrong."""
        if self._heard > sent:
            return
        self._failing_since = min(self._failing_since, since) if self._failures else since
        self._failures += 1

    @property
    def out_of_reach(self) -> bool:
        """Whether it has failed for longer than one has patience."""
        lasted = time.monotonic() - self._failing_since
        return self._failures >= _FAILURES and lasted >= self.options.endpoint_patience

    def delay(self, line: PlannedLine, until: float) -> None:
        """Send a line again, but not before then."""
        heapq.heappush(self.delayed, (until, line.line, line))

    def due(self, now: float) -> list[PlannedLine]:
        """Delayed lines whose time has come, which are delayed no longer."""
        lines = []
        while self.delayed and self.delayed[0][0] <= now:
            lines.append(heapq.heappop(self.delayed)[2])
        return lines

    def leave(self) -> list[PlannedLine]:
        """It is no longer alive; the lines that were delayed, in the order of their times."""
        self.alive = False
        lines = [line for _, _, line in sorted(self.delayed)]
        self.delayed.clear()
        return lines


def key_refused(url: str, status: int) -> EndpointError:
    """The error of a server that lets nobody in with this key."""
    return EndpointError(
        f"{url} refused the key (status {status}): set OPENAI_API_KEY to one that it knows. "
        "What is done is saved; the same command resumes."
    )


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return "it did not answer in time"
    return f"{type(error).__name__}: {error}".rstrip(": ")[:300]
