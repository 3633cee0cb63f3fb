"""A browser with this page open has others open too: what those send is refused."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.server.store import ApiError

_READS = ("GET", "HEAD", "OPTIONS")


class SameOrigin:
    """Middleware that answers 403 where another site's page wants something changed.

    Without keys nothing else would keep it from uploading files here. Clients that are no browsers
    send none of these headers. No answer's type is guessed by a browser, either.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] not in _READS and _is_foreign(Headers(scope=scope)):
            message = "Pages of other sites may not change anything here."
            await ApiError(403, message, code="cross_origin").response()(scope, receive, send)
            return

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-content-type-options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, careful)


def _is_foreign(headers: Headers) -> bool:
    """By what browsers say; where they say less, by the origin's name."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")
