"""Whose request it is, as the routes ask for it."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Depends, Header, Request

from shoal.server.http.rate_limit import RateLimit
from shoal.server.store import Keys


async def owner(request: Request, authorization: Annotated[str | None, Header()] = None) -> str:
    """The owner whose key came with the request; raises `ApiError` 401, or 429 for too many.

    It waits for nothing: a thread for it would take longer than it does.
    """
    keys: Keys = request.app.state.keys
    rate: RateLimit = request.app.state.rate
    found = keys.owner(authorization)
    rate.take(found)
    return found


Who: TypeAlias = Annotated[str, Depends(owner)]
"""A parameter of a route that needs a key."""
