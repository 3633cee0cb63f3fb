"""/healthz, /readyz and /metrics, which need no key and tell nothing of anybody's files."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse

from shoal.server.live import EngineFigures, Live, metrics_text
from shoal.server.store import Batches


def operations(
    batches: Batches, figures: EngineFigures, live: Live, names: tuple[str, ...]
) -> APIRouter:
    """The routes; `names` of the model, of which the first labels the metrics."""
    routes = APIRouter()

    @routes.get("/healthz")
    def health() -> JSONResponse:
        """200 as long as the server answers and its database does."""
        batches.counts()
        return JSONResponse({"status": "ok", "engine": figures.state})

    @routes.get("/readyz", responses={503: {"description": "The model is being loaded."}})
    def readiness() -> JSONResponse:
        """200 when the model is loaded; until then, and while the engine is started again, 503."""
        ready = figures.state == "ready"
        status = "ok" if ready else "loading"
        return JSONResponse({"status": status, "engine": figures.state}, 200 if ready else 503)

    @routes.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        """For Prometheus."""
        text = metrics_text(batches.counts(), figures, live, names[0] if names else "")
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
