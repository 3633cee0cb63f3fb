"""/v1/batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from shoal.server.http.who import Who
from shoal.server.store import (
    ApiError,
    Batches,
    BatchList,
    BatchObject,
    CreateBatch,
    Files,
    StoredFile,
    window_seconds,
    wrong,
)
from shoal.types import ENDPOINTS

MOST_LISTED, LISTED = 100, 20


def batch_routes(batches: Batches, files: Files, wake: Callable[[], None]) -> APIRouter:
    """The routes; `wake` says that the clerk has something to do."""
    routes = APIRouter(prefix="/v1/batches")

    @routes.post("")
    def create_batch(asked: CreateBatch, who: Who) -> BatchObject:
        """Start a batch; whether its file is right is found out afterwards."""
        if asked.endpoint not in ENDPOINTS:
            raise wrong("endpoint", f"must be one of {', '.join(ENDPOINTS)}")
        seconds = window_seconds(asked.completion_window)
        if seconds is None:
            raise wrong(
                "completion_window", "must be like 24h: a number up to 99999 with s, m, h or d"
            )
        batch = batches.create(who, asked, seconds, _input_file(files, who, asked.input_file_id))
        wake()
        return BatchObject.of(batch)

    @routes.get("")
    def list_batches(
        who: Who,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = LISTED,
    ) -> BatchList:
        """The batches of a key, newest first."""
        found, more = batches.page(who, after, limit)
        data = [BatchObject.of(batch) for batch in found]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return BatchList(data=data, first_id=first, last_id=last, has_more=more)

    @routes.get("/{id}", response_model=BatchObject)
    def retrieve_batch(id: str, who: Who) -> Response:
        """How far a batch is."""
        # What every client asks all the time; an object that is returned is checked once more.
        found = BatchObject.of(batches.get(who, id))
        return Response(found.model_dump_json(), media_type="application/json")

    @routes.post("/{id}/cancel")
    def cancel_batch(id: str, who: Who) -> BatchObject:
        """Stop a batch; what it has done is kept."""
        batch = batches.cancel(who, id)
        wake()
        return BatchObject.of(batch)

    return routes


def _input_file(files: Files, who: str, id: str) -> StoredFile | None:
    """The file; None when there is none, which fails the batch."""
    try:
        file = files.get(who, id)
    except ApiError:
        return None
    if file.purpose != "batch":
        raise wrong("input_file_id", "must be a file uploaded with purpose 'batch'")
    return file
