"""What the page asks for beyond OpenAI's API: a stream of events, its lists, pictures of plans."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse

from shoal.server.http.who import Who
from shoal.server.live import Broadcast, newest_batches, one_batch
from shoal.server.messages import FOREST_FILE
from shoal.server.store import Batches, Files, not_found
from shoal.types import ENDPOINTS

_NOT_KEPT = {"cache-control": "no-store"}


def live_routes(
    files: Files, batches: Batches, broadcast: Broadcast, names: tuple[str, ...]
) -> APIRouter:
    """The routes; `names` of the model. They are the page's own and may change with it."""
    routes = APIRouter(prefix="/live", include_in_schema=False)
    database = files.database

    @routes.get("/events")
    async def events(who: Who) -> StreamingResponse:
        """Everything, then what changes, until the page is closed."""
        stream = await broadcast.open(who)
        headers = _NOT_KEPT | {"x-accel-buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    @routes.get("/about")
    def about(who: Who) -> dict[str, Any]:
        """What is served."""
        return {"names": names, "endpoints": ENDPOINTS}

    @routes.get("/batches")
    def older(who: Who, after: str) -> dict[str, Any]:
        """Batches older than one, as the events have them."""
        found, more = newest_batches(database, who, after)
        return {"data": found, "more": more}

    @routes.get("/batches/{id}")
    def one(id: str, who: Who) -> dict[str, Any]:
        """One batch, as the events have it."""
        found = one_batch(database, who, id)
        if found is None:
            raise not_found("Batch object", id)
        return found

    @routes.get("/batches/{id}/forest")
    def forest(id: str, who: Who) -> Response:
        """The picture of the plan of the batch's last run; 204 before its first."""
        output = files.root / batches.output_path(batches.get(who, id).id)
        try:
            data = output.with_name(FOREST_FILE).read_bytes()
        except FileNotFoundError:
            return Response(status_code=204, headers=_NOT_KEPT)
        return Response(data, media_type="application/json", headers=_NOT_KEPT)

    return routes
