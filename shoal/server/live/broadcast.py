"""Server-sent events for open pages: one look per key and tick, whatever the number of pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool

from shoal.server.live.followed import FollowedBatches
from shoal.server.live.live import EngineFigures, Live, LiveRun
from shoal.server.store import ApiError, Database, Setbacks

TICK_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
"""After which something is sent at the latest, so that both sides see when the other is gone."""
MOST_PAGES = 200
_ITSELF = "what pages are told"
_MOST_WAITING = 32
"""Events that a page may be behind; one that reads slower is cut off, and asks anew."""


@dataclass
class _Feed:
    """The pages of one key, and what they know."""

    owner: str
    followed: FollowedBatches
    pages: set[asyncio.Queue[bytes | None]] = field(default_factory=set)
    run: int = 0
    point: int = 0
    engine: bytes = b""
    task: asyncio.Task[None] | None = None


class Broadcast:
    """All open pages. Lives in the server's event loop."""

    def __init__(
        self,
        database: Database,
        live: Live,
        figures: EngineFigures,
        stopping: Callable[[], bool],
    ) -> None:
        """`stopping`: whether the server is; streams end then."""
        self._database, self._live = database, live
        self._figures, self._stopping = figures, stopping
        self._feeds: dict[str, _Feed] = {}
        self._pages = 0
        self._setbacks = Setbacks()

    async def open(self, owner: str) -> AsyncIterator[bytes]:
        """The stream for one page more: first everything, then what changes.

        Raises:
            ApiError: 503: it is one too many.
            SQLAlchemyError: the database refuses.
        """
        if self._pages >= MOST_PAGES:
            message = f"{MOST_PAGES} pages are open already; close some."
            raise ApiError(503, message, code="too_many_pages", headers={"retry-after": "30"})
        feed = self._feeds.get(owner)
        if feed is None:
            feed = _Feed(owner, FollowedBatches(self._database, owner))
            await run_in_threadpool(feed.followed.look, self._live.run.batches)
            feed = self._feeds.setdefault(owner, feed)
        return self._events(feed)

    async def _events(self, feed: _Feed) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_MOST_WAITING)
        self._pages += 1
        try:
            run = self._live.run
            yield _event("batches", _batches(feed.followed.known, feed.followed.more))
            yield _event("engine", self._engine(feed, run, since=0))
            feed.pages.add(queue)
            if feed.task is None:
                feed.run, feed.point = run.number, _last(run)
                feed.task = asyncio.create_task(self._watch(feed))
            while (data := await self._next(queue)) is not None:
                yield data
        finally:
            self._pages -= 1
            feed.pages.discard(queue)

    async def _next(self, queue: asyncio.Queue[bytes | None]) -> bytes | None:
        try:
            return await asyncio.wait_for(queue.get(), HEARTBEAT_SECONDS)
        except TimeoutError:
            return b": nothing new\n\n"

    async def _watch(self, feed: _Feed) -> None:
        """Tell what changes until the last page is closed."""
        while feed.pages and not self._stopping():
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self._tell(feed)
                self._setbacks.none(_ITSELF)
            except Exception as error:  # a database that is locked or full: later it may not be
                self._setbacks.met(_ITSELF, error)
        if self._feeds.get(feed.owner) is feed:
            del self._feeds[feed.owner]
        feed.task = None
        for queue in feed.pages:
            _cut_off(queue)

    async def _tell(self, feed: _Feed) -> None:
        run = self._live.run
        changed = await run_in_threadpool(feed.followed.look, run.batches)
        if changed:
            _send(feed, _event("batches", _batches(changed, feed.followed.more)))
        since = feed.point if feed.run == run.number else 0
        engine = self._engine(feed, run, since)
        if engine != feed.engine:
            _send(feed, _event("engine", engine))
        feed.run, feed.point, feed.engine = run.number, _last(run), engine

    def _engine(self, feed: _Feed, run: LiveRun, since: int) -> bytes:
        """What the engine does; of other keys' batches only how many there are."""
        mine = [id for id in run.batches if feed.followed.knows(id)]
        figures, latest = self._figures, run.latest
        told: dict[str, Any] = {
            "state": figures.state,
            "run": run.number,
            "batches": mine,
            "others": len(run.batches) - len(mine),
            "tokens_per_second": figures.tokens_per_second,
            "kv_pool_bytes": figures.kv_pool_bytes,
            "kv_bytes": figures.kv_bytes,
            "running": latest.running if latest and run.batches else 0,
            "remaining_seconds": latest.remaining_seconds if latest and run.batches else None,
            "part": latest.part if latest and run.batches else 0.0,
            "since": since,
            "points": [asdict(point) for _, point in run.points_after(since)],
        }
        return orjson.dumps(told)


def _last(run: LiveRun) -> int:
    return run.points[-1][0] if run.points else 0


def _batches(objects: list[bytes], more: bool) -> bytes:
    return b'{"more":' + (b"true" if more else b"false") + b',"data":[' + b",".join(objects) + b"]}"


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _send(feed: _Feed, data: bytes) -> None:
    for queue in list(feed.pages):
        try:
            queue.put_nowait(data)
        except asyncio.QueueFull:
            feed.pages.discard(queue)
            _cut_off(queue)


def _cut_off(queue: asyncio.Queue[bytes | None]) -> None:
    """End a stream; what waits in it is not sent any more."""
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(None)
