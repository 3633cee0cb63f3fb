"""The HTTP application: routes, keys, limits. Everything it does is in `files` and `batches`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter, Depends, FastAPI

from shoal.server.http.body_limit import BodyLimit
from shoal.server.http.http_errors import install_handlers
from shoal.server.http.known_hosts import KnownHosts
from shoal.server.http.operations import operations
from shoal.server.http.rate_limit import RateLimit
from shoal.server.http.routes_batches import batch_routes
from shoal.server.http.routes_files import UPLOAD_PATH, file_routes
from shoal.server.http.routes_live import live_routes
from shoal.server.http.routes_page import page_routes
from shoal.server.http.same_origin import SameOrigin
from shoal.server.http.who import owner
from shoal.server.live import Broadcast, EngineFigures, Live
from shoal.server.store import ERRORS, Batches, Files, Keys, ModelList, ModelObject, not_found, now


@dataclass(frozen=True)
class Parts:
    """What the application is made of.

    Attributes:
        names: of the model.
        wake: tells the clerk that there is something to do.
        stopping: whether the server is.
        loopback: where it listens, if that is this machine alone and there are no keys; else None.
    """

    keys: Keys
    files: Files
    batches: Batches
    names: tuple[str, ...]
    figures: EngineFigures
    live: Live
    max_file_bytes: int
    max_rate: int
    wake: Callable[[], None]
    stopping: Callable[[], bool]
    loopback: str | None


def make_app(parts: Parts) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="Shoal",
        description="OpenAI's Files and Batches API on one's own machine.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        responses=ERRORS,
    )
    install_handlers(app)
    app.add_middleware(BodyLimit, except_path=UPLOAD_PATH)
    app.add_middleware(SameOrigin)
    if parts.loopback is not None:
        app.add_middleware(KnownHosts, host=parts.loopback)

    app.state.keys, app.state.rate = parts.keys, RateLimit(parts.max_rate)
    app.include_router(file_routes(parts.files, parts.max_file_bytes))
    app.include_router(batch_routes(parts.batches, parts.files, parts.wake))
    app.include_router(_model_routes(parts.names))
    app.include_router(operations(parts.batches, parts.figures, parts.live, parts.names))
    files, stopping = parts.files, parts.stopping
    broadcast = Broadcast(files.database, parts.live, parts.figures, stopping)
    app.include_router(live_routes(files, parts.batches, broadcast, parts.names))
    app.include_router(page_routes())
    return app


def _model_routes(names: tuple[str, ...]) -> APIRouter:
    routes = APIRouter(prefix="/v1/models", dependencies=[Depends(owner)])
    started = now()

    @routes.get("")
    def list_models() -> ModelList:
        """All names of the model."""
        return ModelList(data=[ModelObject(id=name, created=started) for name in names])

    @routes.get("/{id:path}")
    def retrieve_model(id: str) -> ModelObject:
        """One of them."""
        if id not in names:
            raise not_found("model", id)
        return ModelObject(id=id, created=started)

    return routes
