"""A run on servers: lines sent in the order of the plan, as many at once as each server takes."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from shoal.costs import Machine
from shoal.endpoints.endpoint_answers import TryAgain
from shoal.endpoints.endpoint_server import EndpointServer, key_refused
from shoal.endpoints.line_dealer import LineDealer, PlannedLine
from shoal.endpoints.line_plan import LinePlan
from shoal.endpoints.line_source import ReadLine
from shoal.engine.run_stats import RunStats
from shoal.engine.trace import IterationTrace
from shoal.errors import EndpointError, InvalidRequestError, ShoalError
from shoal.planner import Plan
from shoal.types import Completion, Int64Array, PlanFigures, RequestTable, ServerAnswer

MOST_TRIES = 6
"""Times that a request is sent which the server fails on."""
MOST_REFUSALS = 100
"""Times that it is sent to a server which has too much."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before a request is sent again: the first, doubled each time, and the most."""
MOST_PAUSE = 5.0
"""Most seconds between two tries to reach a server."""
TURN_SECONDS = 0.1
"""Longest time between two looks at whether somebody wants the run to stop."""
REVIVAL_SECONDS = 5.0
"""Between two looks at whether a server that was out of reach is back."""
CUT_LINES = 8
"""Lines of a family under way that are worth computing its prefix on a second server."""

_log = logging.getLogger(__name__)

Outcome = ServerAnswer | TryAgain | InvalidRequestError


@dataclass
class _Tries:
    """How often a line was sent in vain."""

    failed: int = 0
    refused: int = 0
    unreached: int = 0


class EndpointRun:
    """See `RunProtocol`. Iterated over once; its tasks run while it is."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        servers: list[EndpointServer],
        table: RequestTable,
        lines: LinePlan,
        machine: Machine,
        read: ReadLine,
    ) -> None:
        self._loop, self._servers, self._read = loop, servers, read
        self._table, self._lines = table, lines
        self.machine = machine
        self.stats, self.trace = RunStats(), IterationTrace()
        self._dealer = LineDealer(lines.shares)
        self._unfinished = sum(len(share) for share in lines.shares)
        self._tries: dict[int, _Tries] = {}
        self._sending: dict[asyncio.Task[Outcome], tuple[EndpointServer, PlannedLine, float]] = {}
        self._looking: dict[asyncio.Task[bool], EndpointServer] = {}
        self._expected = 0
        """Prompt tokens that the plan computes for lines whose servers told what they computed."""
        self._told = 0

    @property
    def plan(self) -> Plan:
        """Of all requests."""
        return self._lines.whole

    @property
    def planned(self) -> PlanFigures:
        """Of all servers together."""
        return self._lines.figures

    @property
    def prompt_lengths(self) -> Int64Array:
        """Of the requests, in tokens."""
        return self._table.lengths

    def __iter__(self) -> Iterator[list[Completion]]:
        try:
            while self._unfinished:
                yield self._loop.run_until_complete(self._turn())
        finally:
            self.stop()

    def stop(self) -> None:
        """Give up what is under way. Idempotent."""
        tasks: list[asyncio.Task[Outcome] | asyncio.Task[bool]] = [*self._sending, *self._looking]
        for task in tasks:
            task.cancel()
        self._sending.clear()
        self._looking.clear()
        if tasks and not self._loop.is_closed():
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def _turn(self) -> list[Completion]:
        """Send what may be sent, wait a moment, and take what has come."""
        self._look_after_servers()
        for number in range(len(self._servers)):
            self._send_to(number)
        tasks = {*self._sending, *self._looking}
        if tasks:
            await asyncio.wait(tasks, timeout=TURN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(TURN_SECONDS / 4)
        done: list[Completion] = []
        for task in [task for task in self._sending if task.done()]:
            server, line, sent = self._sending.pop(task)
            server.under_way.discard(line)
            done += self._take(server, line, sent, task.result())
        self.stats.running_sequences = len(self._sending)
        return done

    def _send_to(self, number: int) -> None:
        """Give a server as many lines as it may have at once."""
        server, queue, now = self._servers[number], self._dealer.queues[number], time.monotonic()
        if not server.alive:
            return
        for line in reversed(server.due(now)):
            queue.put_back(line)
        while now >= server.paused and len(server.under_way) < server.concurrency.limit:
            if not queue.lines and not self._dealer.help(number, CUT_LINES):
                return
            line = queue.take()
            server.under_way.add(line)
            task = self._loop.create_task(self._send(server, line))
            self._sending[task] = (server, line, now)

    async def _send(self, server: EndpointServer, line: PlannedLine) -> Outcome:
        url, body = self._read(line.line)
        if body.get("score_choices") is not None:
            return InvalidRequestError(
                "body.score_choices is Shoal's own and unknown to servers: run the line without "
                "--endpoint.",
                code="unsupported_parameter",
                param="body.score_choices",
            )
        return await server.post(url, body)

    def _take(
        self, server: EndpointServer, line: PlannedLine, sent: float, outcome: Outcome
    ) -> list[Completion]:
        """What a line that was sent ends with; nothing, if it is to be sent again."""
        now = time.monotonic()
        if isinstance(outcome, TryAgain):
            if outcome.overloaded:
                server.concurrency.refused(sent, now)
            last = self._again(server, line, outcome, now)
            return [] if last is None else self._finish(line, last)
        if isinstance(outcome, ServerAnswer):
            if outcome.status_code == 401:
                raise key_refused(server.url, outcome.status_code)
            server.concurrency.answered(line.tokens, now)
        return self._finish(line, outcome)

    def _again(
        self, server: EndpointServer, line: PlannedLine, outcome: TryAgain, now: float
    ) -> ServerAnswer | InvalidRequestError | None:
        """See to it that a line is sent again; or what it ends with, if that has been enough."""
        tries = self._tries.setdefault(line.line, _Tries())
        if outcome.overloaded and outcome.answer is not None:
            tries.refused += 1
        elif outcome.unreachable:
            tries.unreached += 1
        else:
            tries.failed += 1
        if tries.failed >= MOST_TRIES or tries.refused >= MOST_REFUSALS:
            return outcome.answer or InvalidRequestError(
                f"the server {server.url} gave no answer, {tries.failed} times; the last time: "
                f"{outcome.why}.",
                code="endpoint_failed",
                status_code=502,
            )
        doubled = min(tries.failed + tries.refused + tries.unreached, 10)
        longest = MOST_PAUSE if outcome.unreachable else LONGEST_WAIT
        wait = min(longest, FIRST_WAIT * 2 ** (doubled - 1)) * random.uniform(0.5, 1.0)
        if outcome.after is not None:
            wait = outcome.after + random.uniform(0.0, 0.1)
            if outcome.overloaded:
                server.paused = max(server.paused, now + outcome.after)
        if outcome.unreachable:
            server.paused = max(server.paused, now + wait)
        server.delay(line, now + wait)
        return None

    def _finish(
        self, line: PlannedLine, outcome: ServerAnswer | InvalidRequestError
    ) -> list[Completion]:
        """The completions of a line's requests: the first of them tells of the whole line."""
        self._unfinished -= 1
        self._tries.pop(line.line, None)
        first, *others = line.requests
        if isinstance(outcome, InvalidRequestError):
            completion = Completion(first, 0, (), error=outcome)
        else:
            completion = Completion(first, outcome.tokens("prompt_tokens"), (), answer=outcome)
            self._count(line, outcome)
        return [completion, *(Completion(request, 0, ()) for request in others)]

    def _count(self, line: PlannedLine, answer: ServerAnswer) -> None:
        stats, cached = self.stats, answer.cached_tokens
        stats.generated_tokens += answer.tokens("completion_tokens")
        if cached is None:  # as planned, as far as anybody knows
            stats.prompt_tokens_computed += line.prompt_tokens
            return
        computed = max(0, answer.tokens("prompt_tokens") - cached)
        stats.prompt_tokens_computed += computed
        self._told += computed
        self._expected += line.prompt_tokens
        stats.prompt_tokens_recomputed = max(0, self._told - self._expected)

    def _look_after_servers(self) -> None:
        """Servers that are out of reach give their lines back, and may come back themselves."""
        for task in [task for task in self._looking if task.done()]:
            server = self._looking.pop(task)
            error = task.exception()
            if isinstance(error, ShoalError):
                server.trouble = str(error)
            elif error is not None:
                raise error
            if server.alive:
                _log.warning("%s is back", server.url)
        for number, server in enumerate(self._servers):
            if server.alive and server.out_of_reach:
                _log.warning("%s is out of reach: %s", server.url, server.trouble)
                self._leave(number)
            if not server.alive and server not in self._looking.values():
                self._looking[self._loop.create_task(_look(server))] = server
        if not any(server.alive for server in self._servers):
            raise EndpointError(
                f"no server can be reached ({told(self._servers)}). What is done is saved; start "
                "one, and the same command resumes."
            )
        alive = [number for number, server in enumerate(self._servers) if server.alive]
        for number, server in enumerate(self._servers):
            if not server.alive and self._dealer.queues[number].lines:
                self._dealer.leave(number, [], alive)

    def _leave(self, number: int) -> None:
        server = self._servers[number]
        lines = server.leave()
        for task, (other, line, _) in list(self._sending.items()):
            if other is server:
                task.cancel()
                del self._sending[task]
                lines.append(line)
        server.under_way.clear()
        alive = [at for at, each in enumerate(self._servers) if each.alive]
        self._dealer.leave(number, lines, alive)


async def _look(server: EndpointServer) -> bool:
    await asyncio.sleep(REVIVAL_SECONDS)
    return await server.find()


def told(servers: list[EndpointServer]) -> str:
    """What is wrong with each, for a message."""
    return "; ".join(f"{server.url}: {server.trouble.rstrip('.')}" for server in servers)
